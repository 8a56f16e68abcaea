"""The explorer in a live JupyterLab: from the slider to the trait in Python, and from the trait to the canvas."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from explorer_pages import digits

from stn_helpers.explorer import FAMILIES

IMAGE = digits(1)
CELLS = [
    "from explorer_pages import digits\nfrom stn_helpers.explorer import ThetaExplorer\n"
    "seen = []\nw = ThetaExplorer(digits(1), 'attention')\nw.observe(lambda c: seen.append(c['new']), 'theta')\nw",
    "print('trait', *w.theta, 'observed', len(seen) > 0)",
    "w.theta = [0.5, 0.25, -0.125]",
    "w.family = 'affine'",
]


def notebook() -> str:
    cells = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": source, "outputs": [], "execution_count": None}
        for i, source in enumerate(CELLS)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on a free port, with nothing of the user's own settings; its address."""
    pytest.importorskip("jupyterlab")
    work, settings = tmp_path / "work", tmp_path / "settings"
    work.mkdir()
    (work / "explorer.ipynb").write_text(notebook())
    news = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here = Path(__file__).resolve().parent
    environment = {
        **os.environ,
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)]),
    }
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    options += ["--IdentityProvider.token=book", "--expose-app-in-browser", f"--ServerApp.root_dir={work}"]
    with open(tmp_path / "log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env=environment, stdout=log, stderr=log
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/api?token=book", server, tmp_path / "log")
            yield f"http://127.0.0.1:{port}/lab/tree/explorer.ipynb?token=book"
        finally:
            server.terminate()
            server.wait(20)


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"JupyterLab does not answer: {log.read_text()}")


def run_cell(page, index: int) -> None:
    """Executes one cell and waits until the kernel has done it."""
    page.evaluate(
        """async (index) => {
          const panel = jupyterapp.shell.currentWidget;
          await panel.context.ready;
          await panel.sessionContext.ready;
          panel.content.activeCellIndex = index;
          await jupyterapp.commands.execute("notebook:run-cell");
        }""",
        index,
    )


def printed(page, wanted: list[str]) -> list[str]:
    """What cell 1 prints, asked until it is what is wanted: a widget's last move may reach the kernel behind the question."""
    output = page.locator(".jp-OutputArea-output:has-text('trait')")
    for _ in range(20):
        run_cell(page, 1)
        output.last.wait_for(timeout=30_000)
        if (words := output.last.text_content().split()) == wanted:
            break
        page.wait_for_timeout(500)
    return words


PIXELS = """(canvas) => {
  const { width, height } = canvas, copy = new OffscreenCanvas(width, height).getContext("2d");
  copy.drawImage(canvas, 0, 0);
  return [...copy.getImageData(0, 0, width, height).data].filter((_, i) => i % 4 === 0);
}"""


def expected(family: str, theta: list[float]) -> torch.Tensor:
    grid = FAMILIES[family].grid(torch.tensor([theta], dtype=torch.float64), (28, 28))
    return 255 * F.grid_sample(IMAGE, grid, align_corners=False).flatten()


@pytest.mark.slow
def test_sliders_and_traits_move_each_other(browser, lab):
    context = browser.new_context(viewport={"width": 1300, "height": 1000}, reduced_motion="reduce")
    page = context.new_page()
    elsewhere = []
    page.on("request", lambda r: None if r.url.startswith(("http://127.0.0.1", "data:", "blob:")) else elsewhere.append(r.url))
    page.goto(lab)
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.content?.widgets?.length", timeout=90_000)
    run_cell(page, 0)
    canvas = page.get_by_label("Output image")
    canvas.wait_for(timeout=60_000)

    slider = page.locator(".tx-sliders input").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    y, thumb = box["y"] + box["height"] / 2, 8 + 0.75 * (box["width"] - 16)
    page.mouse.move(box["x"] + thumb, y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], y, steps=20)
    page.mouse.up()
    scale = slider.evaluate("(e) => e.valueAsNumber")
    assert 0.2 < scale < 0.6
    assert printed(page, wanted := ["trait", str(scale), "0.0", "0.0", "observed", "True"]) == wanted
    seen = torch.tensor(canvas.evaluate(PIXELS))
    assert (seen - expected("attention", [scale, 0, 0])).abs().max() <= 1

    for index, family, theta in ((2, "attention", [0.5, 0.25, -0.125]), (3, "affine", [1, 0, 0, 0, 1, 0])):
        run_cell(page, index)
        page.wait_for_function(f"() => document.querySelectorAll('.tx-sliders input').length === {len(theta)}")
        page.wait_for_timeout(500)
        seen = torch.tensor(page.get_by_label("Output image").evaluate(PIXELS))
        assert (seen - expected(family, theta)).abs().max() <= 1
    assert not elsewhere
    context.close()
