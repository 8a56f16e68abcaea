"""How fast and how light the θ explorer is, in headless Chromium on this machine.

    python benchmarks/explorer.py

For every family a 128×128 image is warped to 128×128 pixels, with the grid drawn on the source, while the mouse drags a
slider. A frame runs from the slider's event to the last stroke of its animation frame; "painted" also waits until the
browser has drawn what was asked for (one pixel of each canvas is read back). Then: from opening a page on localhost until
its slider has moved the output, and the size of what `pip wheel .` ships. Exit status 1 where a limit is not kept:
frame median 2 ms and 99th percentile 8 ms, page 1 s, module and style 40 kB. A puzzle's frame, which adds loss, gradient and
arrows, is reported only.
"""

import functools
import http.server
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from conftest import CHROMIUM_OPTIONS, SITE, QuietHandler  # noqa: E402
from explorer_pages import digits, write_page  # noqa: E402

from stn_helpers.explorer import FAMILIES, ThetaExplorer  # noqa: E402
from stn_helpers.explorer.presets import PUZZLES  # noqa: E402

MOVES = 400
MEDIAN_MS, WORST_MS, USABLE_S, SHIPPED_BYTES = 2.0, 8.0, 1.0, 40_000
SHIPPED = ("explorer.js", "static_page.js", "explorer.css")

# Adds up, for each animation frame, the slider's listeners and the frame's own callbacks.
MEASURE = """(readBack) => {
  window.frames_ms = [];
  let handler = 0, start = 0;
  addEventListener("input", () => { start = performance.now(); }, true);
  addEventListener("input", () => { handler += performance.now() - start; });
  const original = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = (callback) => original((now) => {
    const begin = performance.now();
    callback(now);
    if (readBack) document.querySelectorAll(".tx-top canvas").forEach((c) => c.getContext("2d").getImageData(0, 0, 1, 1));
    if (handler) window.frames_ms.push(handler + performance.now() - begin);
    handler = 0;
  });
}"""

# Put into the page before it loads: moves the slider as soon as there is one, and waits for the output to follow. Asked
# from outside, the answer would come half a second late, as the browser serves its tools after the page's own work.
USABLE = """
window.usable = new Promise((done) => {
  const move = () => {
    const slider = document.querySelector(".tx-sliders input"), canvas = document.querySelector(".tx-screen canvas");
    if (!slider || !canvas) return setTimeout(move, 5);
    requestAnimationFrame(() => requestAnimationFrame(() => act(slider, canvas)));  // once the first picture is drawn
  };
  const act = (slider, canvas) => {
    const before = canvas.toDataURL();
    slider.value = slider.valueAsNumber + 0.2 * (slider.max - slider.min);
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    const answered = () => canvas.toDataURL() !== before ? done(performance.now()) : requestAnimationFrame(answered);
    requestAnimationFrame(answered);
  };
  document.addEventListener("DOMContentLoaded", move);
});
"""


def drag(page: Page, moves: int) -> None:
    """Moves the first slider's thumb to and fro with the mouse."""
    slider = page.locator(".tx-sliders input").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    y = box["y"] + box["height"] / 2
    share = slider.evaluate("(e) => (e.valueAsNumber - e.min) / (e.max - e.min)")
    page.mouse.move(box["x"] + 8 + share * (box["width"] - 16), y)
    page.mouse.down()
    for step in range(moves):
        there = abs(step % 100 - 50) / 50
        page.mouse.move(box["x"] + 8 + (0.1 + 0.8 * there) * (box["width"] - 16), y)
    page.mouse.up()


def frame_times(browser: Browser, address: str, read_back: bool) -> list[float]:
    page = browser.new_page(viewport={"width": 900, "height": 1100})
    page.goto(address)
    page.wait_for_selector(".tx-sliders input")
    drag(page, 60)  # the compiler warms up
    page.evaluate(MEASURE, read_back)
    drag(page, MOVES)
    times = page.evaluate("window.frames_ms")
    page.close()
    return times


def usable_after(browser: Browser, address: str) -> float:
    """Seconds from the start of the navigation until a slider has changed the output."""
    page = browser.new_page()
    page.add_init_script(USABLE)
    page.goto(address)
    seconds = page.evaluate("window.usable") / 1000
    page.close()
    return seconds


def shipped_bytes() -> int:
    """Size of the module and its style inside the wheel."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(ROOT)]
        subprocess.run(command, check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            return sum(wheel.getinfo(f"stn_helpers/explorer/{name}").file_size for name in SHIPPED)


def serve(folder: Path) -> http.server.ThreadingHTTPServer:
    handler = functools.partial(QuietHandler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main() -> None:
    kept = True
    with sync_playwright() as tool, tempfile.TemporaryDirectory() as folder:
        browser = tool.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_OPTIONS)
        print(f"Chromium {browser.version}; {MOVES} moves of a slider, 128×128 pixels, in ms")
        print(f"{'':24}{'frames':>7}{'median':>8}{'99 %':>8}{'painted: median':>17}{'99 %':>8}")
        image = digits(1, 128)
        cases = [(family, None) for family in FAMILIES] + [("affine", PUZZLES["affine"]["Tilted"])]
        for family, hidden in cases:
            page = write_page(Path(folder), ThetaExplorer(image, family, hidden=hidden))
            row = []
            for read_back in (False, True):
                times = frame_times(browser, page.as_uri(), read_back)
                row += [statistics.median(times), statistics.quantiles(times, n=100)[98]]
            kept &= hidden is not None or (row[0] < MEDIAN_MS and row[1] < WORST_MS)
            name = family + (" (puzzle)" if hidden else "")
            print(f"{name:24}{len(times):7}{row[0]:8.2f}{row[1]:8.2f}{row[2]:17.2f}{row[3]:8.2f}")

        pages = [("one explorer, 128×128", Path(folder), "page.html")]
        built = (p for p in sorted(SITE.rglob("*.html")) if "data-theta-explorer=" in p.read_text(encoding="utf-8"))
        pages += [(f"the book's {p.name}", SITE, p.relative_to(SITE).as_posix()) for p in built]
        for name, served, path in pages:
            server = serve(served)
            address = f"http://127.0.0.1:{server.server_port}/{path}"
            seconds = statistics.median(usable_after(browser, address) for _ in range(5))
            kept &= seconds < USABLE_S
            print(f"usable after {seconds:.2f} s: {name}")
            server.shutdown()
        browser.close()
    size = shipped_bytes()
    kept &= size < SHIPPED_BYTES
    print(f"module and style in the wheel: {size:,} bytes")
    sys.exit(0 if kept else "a limit is not kept")


if __name__ == "__main__":
    main()
