"""The explorer in a page, under a real mouse, finger and keyboard: from the disk and over http, network off."""

import functools
import http.server
import re
import threading

import pytest
import torch
import torch.nn.functional as F
from conftest import QuietHandler
from explorer_pages import digits, write_page

from stn_helpers.explorer import FAMILIES, ThetaExplorer
from stn_helpers.explorer.presets import PRESETS, PUZZLES
from stn_helpers.matrices import affine_theta

IMAGES = digits(3)
WIDE, PHONES = {"width": 900, "height": 1100}, (360, 390)


class Page:
    """One page with explorers, and all that went wrong in it."""

    def __init__(self, browser, address: str, **options) -> None:
        self.context = browser.new_context(**{"viewport": WIDE, "reduced_motion": "reduce", **options})
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("requestfailed", lambda request: self.faults.append(f"failed: {request.url}"))
        self.page.goto(address)
        self.page.wait_for_selector(".theta-explorer")

    def __enter__(self):
        return self

    def __exit__(self, failed, *error) -> None:
        self.context.close()
        assert failed or not self.faults, self.faults

    def settle(self) -> None:
        """Until the frame that is asked for is drawn."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def pixels(self, label: str = "Output image", nth: int = 0) -> torch.Tensor:
        """What a canvas holds: H×W, whole numbers from 0 to 255."""
        self.settle()
        height, width, grey = self.page.get_by_label(label, exact=True).nth(nth).evaluate(
            """(canvas) => {
              const { width, height } = canvas, copy = new OffscreenCanvas(width, height).getContext("2d");
              copy.drawImage(canvas, 0, 0);
              const { data } = copy.getImageData(0, 0, width, height);
              return [height, width, [...data].filter((_, i) => i % 4 === 0)];
            }"""
        )
        return torch.tensor(grey).view(height, width)

    def sliders(self) -> list[float]:
        return self.page.eval_on_selector_all(".tx-sliders input", "(all) => all.map((e) => e.valueAsNumber)")

    def drag_slider(self, index: int, share: float) -> None:
        """Takes the thumb with the mouse and draws it, in small moves, to a share of the track."""
        slider = self.page.locator(".tx-sliders input").nth(index)
        slider.scroll_into_view_if_needed()
        now = slider.evaluate("(e) => (e.valueAsNumber - e.min) / (e.max - e.min)")
        box, thumb = slider.bounding_box(), 16
        places = [box["x"] + thumb / 2 + (box["width"] - thumb) * part for part in (now, share)]
        self.page.mouse.move(places[0], box["y"] + box["height"] / 2)
        self.page.mouse.down()
        self.page.mouse.move(places[1], box["y"] + box["height"] / 2, steps=8)
        self.page.mouse.up()

    def drag_handle(self, name: str, dx: float, dy: float) -> None:
        """Takes a handle with the mouse and moves it by (dx, dy) in the coordinates of the image."""
        box = self.page.locator(f'[data-name="{name}"]').bounding_box()
        stage = self.page.locator(".tx-stage").bounding_box()
        reach = self.page.locator(".tx-stage canvas").first.evaluate("(c) => c.width") / IMAGES.shape[-1]
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        unit = stage["width"] / (2 * reach)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + dx * unit, y + dy * unit, steps=5)
        self.page.mouse.up()
        self.settle()

    def numbers(self) -> list[float]:
        text = " ".join(self.page.locator(".tx-matrix span, .tx-points button").all_text_contents())
        return [float(number) for number in text.replace("−", "-").split()]


@pytest.fixture
def on_disk(tmp_path):
    """A function from explorers to the address of a page that shows them, on the disk."""
    return lambda *explorers: write_page(tmp_path, *explorers).as_uri()


@pytest.fixture
def over_http(tmp_path):
    """The same over http, from this machine."""
    handler = functools.partial(QuietHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield lambda *explorers: f"http://127.0.0.1:{server.server_port}/{write_page(tmp_path, *explorers).name}"
        server.shutdown()


@pytest.fixture(params=["on_disk", "over_http"])
def address(request):
    return request.getfixturevalue(request.param)


def expected(family: str, theta, image: torch.Tensor = IMAGES[0], size=(28, 28), mode="bilinear", padding="zeros"):
    """255 times what torch says: the 8-bit canvas must lie within 1 of it."""
    grid = FAMILIES[family].grid(torch.as_tensor(theta, dtype=torch.float64).view(1, -1), size)
    return 255 * F.grid_sample(image[None].double(), grid, mode, padding, align_corners=False)[0, 0]


def assert_pixels(page: Page, wanted: torch.Tensor) -> None:
    seen = page.pixels()
    assert seen.shape == wanted.shape
    assert (seen - wanted).abs().max() <= 1
    assert wanted.std() > 5  # not black against black


@pytest.mark.parametrize("family", FAMILIES)
def test_after_slider_drags_the_canvas_shows_what_torch_computes(browser, address, family):
    with Page(browser, address(ThetaExplorer(IMAGES, family))) as page:
        assert_pixels(page, expected(family, FAMILIES[family].identity()))
        count = len(page.sliders())
        shares = [0.56, 0.6, 0.55, 0.45, 0.53, 0.56, 0.52, 0.47]
        for index in range(count):
            page.drag_slider(index, shares[index] if family != "tps" else 0.2)
        values = page.sliders()
        theta = torch.tensor(values, dtype=torch.float64)
        if family == "affine":  # the sliders show the parts
            names = ("rotation", "scale_x", "scale_y", "shear", "tx", "ty")
            parts = dict(zip(names, theta.view(6, 1), strict=True))
            theta = affine_theta(**{**parts, "rotation": torch.deg2rad(parts["rotation"])})[0]
        if family == "tps":
            theta = torch.cat([theta, FAMILIES["tps"].identity().double()[2:]])
        assert (theta - FAMILIES[family].identity()).abs().max() > 0.1
        assert_pixels(page, expected(family, theta))


def test_settings_change_what_is_computed(browser, address):
    theta = [0.9, -0.5, 0.4, 0.5, 0.9, -0.3]
    with Page(browser, address(ThetaExplorer(IMAGES, theta=theta))) as page:
        assert_pixels(page, expected("affine", theta))
        page.page.get_by_label("Outside").select_option("border")
        assert_pixels(page, expected("affine", theta, padding="border"))
        page.page.get_by_label("Reading").select_option("nearest")
        wanted = expected("affine", theta, mode="nearest", padding="border")
        assert_pixels(page, wanted)
        page.page.get_by_label("Output size").select_option("14 × 14")
        assert_pixels(page, expected("affine", theta, size=(14, 14), mode="nearest", padding="border"))
        page.page.get_by_role("button", name="Image 3").click()
        wanted = expected("affine", theta, IMAGES[2], (14, 14), "nearest", "border")
        assert_pixels(page, wanted)


def test_an_image_that_is_not_square_and_an_odd_output_size(browser, on_disk):
    image = IMAGES[0, :, 4:24]
    theta = [0.8, 0.3, 0.1, -0.2, 1.1, 0]
    with Page(browser, on_disk(ThetaExplorer(image[0], theta=theta, out_size=(17, 9)))) as page:
        assert_pixels(page, expected("affine", theta, image, (17, 9)))
        assert page.page.get_by_label("Output size").input_value() == "17 × 9"


def test_presets_and_reset(browser, on_disk):
    for family in FAMILIES:
        with Page(browser, on_disk(ThetaExplorer(IMAGES, family))) as page:
            for name, theta in PRESETS[family].items():
                page.page.get_by_role("button", name=name, exact=True).click()
                assert_pixels(page, expected(family, theta))
            page.page.get_by_role("button", name="Reset").click()
            assert_pixels(page, expected(family, FAMILIES[family].identity()))


def test_handles_by_mouse(browser, on_disk):
    with Page(browser, on_disk(ThetaExplorer(IMAGES, "attention"))) as page:
        page.drag_handle("Centre", 0.3, -0.2)
        assert page.numbers() == pytest.approx([1, 0, 0.3, 0, 1, -0.2, 0, 0, 1], abs=0.02)
        page.drag_handle("Bottom right", -0.5, -0.5)
        assert page.numbers() == pytest.approx([0.5, 0, 0.3, 0, 0.5, -0.2, 0, 0, 1], abs=0.02)
    with Page(browser, on_disk(ThetaExplorer(IMAGES, "projective"))) as page:
        page.drag_handle("Top right", -0.4, 0.3)
        corners = torch.tensor([[[-1, -1], [0.6, -0.7], [1, 1], [-1, 1.0]]])
        assert page.numbers()[:8] == pytest.approx(corners_for(corners), abs=0.03)
    with Page(browser, on_disk(ThetaExplorer(IMAGES, "tps"))) as page:
        page.drag_handle("Control point 6", 0.2, 0.1)
        wanted = FAMILIES["tps"].identity().clone()
        wanted[10:12] += torch.tensor([0.2, 0.1])
        assert page.numbers() == pytest.approx(wanted.tolist(), abs=0.02)
        assert page.sliders() == pytest.approx(page.numbers()[10:12], abs=0.011)


def corners_for(corners: torch.Tensor) -> list[float]:
    """θ of the homography that takes the target's corners (top left, right; bottom right, left) to these: kornia's order."""
    from kornia.geometry.transform import get_perspective_transform

    target = torch.tensor([[[-1.0, -1], [1, -1], [1, 1], [-1, 1]]])
    matrix = get_perspective_transform(target, corners)
    return (matrix / matrix[:, 2:, 2:]).flatten()[:8].tolist()


def test_handles_by_keyboard(browser, on_disk):
    with Page(browser, on_disk(ThetaExplorer(IMAGES, "affine"))) as page:
        page.page.get_by_role("button", name="Centre").focus()
        page.page.keyboard.press("ArrowRight")
        page.page.keyboard.press("Shift+ArrowUp")
        page.settle()
        assert page.numbers() == pytest.approx([1, 0, 0.02, 0, 1, -0.1, 0, 0, 1])
        assert "x +0.02, y −0.10" in page.page.locator(":focus").get_attribute("aria-label")


def test_everything_can_be_reached_with_the_tab_key(browser, on_disk):
    with Page(browser, on_disk(ThetaExplorer(IMAGES, hidden=PUZZLES["affine"]["Tilted"]))) as page:
        wanted = page.page.locator(".theta-explorer :is(button, input, select, [tabindex])").count()
        reached = set()
        for _ in range(wanted + 2):
            page.page.keyboard.press("Tab")
            reached.add(page.page.evaluate(
                "() => [...document.querySelectorAll('.theta-explorer *')].indexOf(document.activeElement)"))
        assert len(reached - {-1}) == wanted


def test_handles_and_sliders_by_touch(browser, on_disk):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with Page(browser, on_disk(ThetaExplorer(IMAGES, "attention")), **phone) as page:
        touch = page.context.new_cdp_session(page.page)

        def swipe(x: float, y: float, dx: float, dy: float) -> None:
            touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
            for step in range(1, 6):
                points = [{"x": x + dx * step / 5, "y": y + dy * step / 5}]
                touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": points})
            touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
            page.settle()

        box = page.page.get_by_role("button", name="Centre").bounding_box()
        assert min(box["width"], box["height"]) >= 24
        swipe(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, 20, 10)
        moved = page.numbers()
        assert moved[2] > 0.1
        assert moved[5] == pytest.approx(moved[2] / 2, abs=0.02)
        box = page.page.locator(".tx-sliders input").first.bounding_box()
        x, y = box["x"], box["y"] + box["height"] / 2
        swipe(x + 8 + 0.75 * (box["width"] - 16), y, -60, 0)
        assert page.numbers()[0] < moved[0] - 0.3


def test_an_output_pixel_tells_where_it_looks(browser, on_disk):
    theta = [0.53, 0, 0.25, 0, 0.53, 0]
    with Page(browser, on_disk(ThetaExplorer(IMAGES, theta=theta))) as page:
        screen = page.page.locator(".tx-screen")
        box = screen.bounding_box()
        screen.hover(position={"x": box["width"] * 10.5 / 28, "y": box["height"] * 3.5 / 28})
        page.settle()
        x, y = FAMILIES["affine"].grid(torch.tensor([theta]), (28, 28))[0, 3, 10].tolist()
        told = page.page.locator(".tx-probe").text_content().replace("−", "-")
        assert re.findall(r"-?\d+\.?\d*", told) == ["3", "10", f"{x:.2f}", f"{y:.2f}"]
        screen.focus()
        page.page.keyboard.press("ArrowDown")
        page.settle()
        assert "Row 4, column 10" in page.page.locator(".tx-probe").text_content()


def test_several_on_one_page_do_not_meddle(browser, on_disk):
    with Page(browser, on_disk(ThetaExplorer(IMAGES, "attention"), ThetaExplorer(IMAGES[1, 0], "affine"))) as page:
        page.drag_slider(0, 0.6)
        assert (page.pixels(nth=1) - 255 * IMAGES[1, 0]).abs().max() <= 1
        assert (page.pixels(nth=0) - 255 * IMAGES[0, 0]).abs().max() > 20


# ---- Be the localization network ----


def near_identity(family: str) -> torch.Tensor:
    """At the identity itself every point lies on a pixel centre, where the slope jumps and rounding decides its side."""
    return FAMILIES[family].identity().double() + 0.0123


def puzzle_loss(family: str, hidden, theta) -> torch.Tensor:
    source = expected(family, hidden)[None] / 255
    return F.mse_loss(expected(family, theta, source) / 255, IMAGES[0, 0].double())


def shown_loss(page: Page) -> float:
    return float(page.page.locator(".tx-loss").text_content().split()[-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_steps_are_torchs(browser, on_disk, family):
    hidden = next(iter(PUZZLES[family].values()))
    theta = near_identity(family)
    source = expected(family, hidden)[None, None] / 255
    with Page(browser, on_disk(ThetaExplorer(IMAGES, family, theta, hidden=hidden))) as page:
        assert shown_loss(page) == pytest.approx(float(puzzle_loss(family, hidden, theta)), abs=6e-5)
        page.page.get_by_role("button", name="Gradient step").click()
        page.page.get_by_role("button", name="50 steps").click()
        page.settle()
        for _ in range(51):
            theta.requires_grad_()
            grid = FAMILIES[family].grid(theta[None], (28, 28))
            loss = F.mse_loss(F.grid_sample(source, grid, align_corners=False)[0, 0], IMAGES[0, 0].double())
            theta = (theta - 0.05 * torch.autograd.grad(loss, theta)[0]).detach()
        after = float(puzzle_loss(family, hidden, theta))
        assert shown_loss(page) == pytest.approx(after, abs=6e-5)
        assert after < 0.8 * float(puzzle_loss(family, hidden, near_identity(family)))
        assert len(page.page.locator(".tx-curve polyline").get_attribute("points").split()) == 52  # the path so far


def test_the_gradient_is_shown_in_numbers_and_the_goal_as_it_is(browser, on_disk):
    hidden = PUZZLES["affine"]["Tilted"]
    theta = near_identity("affine").requires_grad_()
    grid = FAMILIES["affine"].grid(theta[None], (28, 28))
    output = F.grid_sample(expected("affine", hidden)[None, None] / 255, grid, align_corners=False)
    gradient = torch.autograd.grad(F.mse_loss(output[0, 0], IMAGES[0, 0].double()), theta)[0]
    with Page(browser, on_disk(ThetaExplorer(IMAGES, theta=theta.detach(), hidden=hidden))) as page:
        assert (page.pixels("Goal") - 255 * IMAGES[0, 0]).abs().max() <= 1
        shown = [text.split()[-1].replace("−", "-") for text in page.page.locator(".tx-gradient").all_text_contents()]
        assert [float(number) for number in shown] == pytest.approx(gradient.tolist(), abs=6e-4)


def test_another_puzzle_and_a_bad_minimum(browser, on_disk):
    with Page(browser, on_disk(ThetaExplorer(IMAGES, hidden=PUZZLES["affine"]["Tilted"]))) as page:
        page.page.get_by_role("button", name="Upside down").click()
        page.settle()
        start = shown_loss(page)
        identity = FAMILIES["affine"].identity()
        assert start == pytest.approx(float(puzzle_loss("affine", PUZZLES["affine"]["Upside down"], identity)), abs=6e-5)
        for _ in range(4):
            page.page.get_by_role("button", name="50 steps").click()
        page.settle()
        assert shown_loss(page) > 0.3 * start
        page.page.get_by_role("button", name="Reset").click()
        page.settle()
        assert shown_loss(page) == pytest.approx(start, abs=1e-4)


# ---- For everyone ----


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("hidden", [False, True])
def test_nothing_stands_in_the_way_of_a_screen_reader(browser, over_http, scheme, hidden):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    explorers = [
        ThetaExplorer(IMAGES, family, hidden=next(iter(PUZZLES[family].values())) if hidden else None)
        for family in ("affine", "tps")
    ]
    with Page(browser, over_http(*explorers), color_scheme=scheme) as page:
        violations = axe.run(page.page).response["violations"]
        assert not violations, [(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in violations]


@pytest.mark.parametrize("width", PHONES)
@pytest.mark.parametrize("family", FAMILIES)
def test_fits_a_phone_and_nothing_jumps(browser, on_disk, width, family):
    explorers = [ThetaExplorer(IMAGES, family), ThetaExplorer(IMAGES, family, hidden=next(iter(PUZZLES[family].values())))]
    with Page(browser, on_disk(*explorers), viewport={"width": width, "height": 800}) as page:
        assert page.page.evaluate("() => document.documentElement.scrollWidth") <= width
        beyond = """(all) => all.filter((e) => e.getBoundingClientRect().right > innerWidth + 1).length"""
        assert page.page.eval_on_selector_all(".theta-explorer *:not(.tx-handle)", beyond) == 0
        places = """() => [...document.querySelectorAll('.theta-explorer :is(figure, canvas, input, select, .tx-row, p)')]
          .map((e) => { const { left, top, width, height } = e.getBoundingClientRect();
            return [left, top + scrollY, width, height].map(Math.round); })"""
        before = page.page.evaluate(places)
        for index in range(2):
            page.drag_slider(index, 0.1)
        for button in ("Gradient step", list(PRESETS[family])[-1], list(PUZZLES[family])[-1], "50 steps"):
            page.page.get_by_role("button", name=button, exact=True).last.click()
        page.page.locator(".tx-screen").first.hover()
        page.page.locator("select").first.select_option(index=1)
        page.settle()
        assert page.page.evaluate(places) == before


def test_nothing_moves_for_those_who_want_no_motion(browser, on_disk):
    """After a preset's button the first frame is the last; for all others it is not."""
    count = """() => new Promise((done) => {
      const seen = new Set(), canvas = document.querySelector('[aria-label="Output image"]');
      [...document.querySelectorAll('button')].find((e) => e.textContent === 'Zoom in').click();
      const start = performance.now();
      const look = () => {
        seen.add(canvas.toDataURL());
        performance.now() - start < 500 ? requestAnimationFrame(look) : done(seen.size);
      };
      requestAnimationFrame(() => requestAnimationFrame(look));
    })"""
    for preference, moves in (("reduce", False), ("no-preference", True)):
        with Page(browser, on_disk(ThetaExplorer(IMAGES)), reduced_motion=preference) as page:
            assert (page.page.evaluate(count) > 1) == moves
            running = "() => document.getAnimations().length"
            assert page.page.evaluate(running) == 0


@pytest.mark.parametrize("attribute", ['data-theme="dark"', 'data-theme="light"'])
def test_the_theme_of_the_page_wins_over_the_systems(browser, on_disk, attribute):
    with Page(browser, on_disk(ThetaExplorer(IMAGES)), color_scheme="light") as page:
        page.page.evaluate("(theme) => document.documentElement.setAttribute('data-theme', theme)", attribute.split('"')[1])
        color = page.page.locator(".theta-explorer").evaluate("(e) => getComputedStyle(e).color")
        bright = sum(map(int, re.findall(r"\d+", color)[:3])) > 380
        assert bright == ("dark" in attribute)
