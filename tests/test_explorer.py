"""The explorer's Python side, and its ES module against torch, in a real browser, before anything is rounded."""

import base64
import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from explorer_pages import digits
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import RBFInterpolator
from traitlets import TraitError

from stn_helpers.explorer import FAMILIES, HERE, ThetaExplorer
from stn_helpers.explorer.presets import PRESETS, PUZZLES
from stn_helpers.matrices import affine_theta

IMAGE = digits(3)
DRAWS = 1000


# ---- Python side ----


def test_starts_at_the_identity_and_the_size_of_the_image():
    explorer = ThetaExplorer(IMAGE[0, 0])
    assert explorer.theta == [1, 0, 0, 0, 1, 0]
    assert explorer.out_size == [28, 28]
    assert explorer.hidden == []


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_its_presets_fit(family):
    wanted = FAMILIES[family].num_params
    assert len(ThetaExplorer(IMAGE, family).theta) == wanted
    for theta in [*PRESETS[family].values(), *PUZZLES[family].values()]:
        assert len(theta) == wanted
        ThetaExplorer(IMAGE, family, theta=theta, hidden=theta)


def test_traits_are_observed_and_take_tensors():
    explorer, seen = ThetaExplorer(IMAGE, "attention"), []
    explorer.observe(lambda change: seen.append(change["new"]), "theta")
    explorer.theta = torch.tensor([0.5, 0.25, 0])
    explorer.theta = np.array([0.5, 0.25, 1])
    assert seen == [[0.5, 0.25, 0], [0.5, 0.25, 1]]


def test_a_new_family_starts_at_its_identity_and_ends_the_puzzle():
    explorer = ThetaExplorer(IMAGE, hidden=PUZZLES["affine"]["Tilted"])
    explorer.family = "similarity"
    assert explorer.theta == [1, 0, 0, 0]
    assert explorer.hidden == []
    assert explorer.presets["presets"] == PRESETS["similarity"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": [[0.0]]}, "image: wanted a tensor"),
        ({"image": torch.zeros(2, 3, 8, 8)}, r"image: wanted shape H×W or B×1×H×W.*\(2, 3, 8, 8\)"),
        ({"image": torch.zeros(0, 8)}, "image: wanted shape"),
        ({"image": torch.zeros(8, 8, dtype=torch.uint8)}, "image: wanted floating.*255"),
        ({"image": torch.full((8, 8), 1.5)}, r"image: wanted values in \[0, 1\], got 1.5"),
        ({"image": torch.full((8, 8), torch.nan)}, "image: wanted values"),
        ({"family": "rigid"}, "family: wanted one of affine.*'rigid'"),
        ({"theta": [1, 2]}, "theta: wanted 6 numbers for the family affine, got 2"),
        ({"theta": [1, 0, 0, 0, 1, float("nan")]}, "theta: holds NaN"),
        ({"theta": 7}, "theta: wanted 6 numbers"),
        ({"hidden": [1]}, "hidden: wanted 6 numbers"),
        ({"out_size": (0, 4)}, "out_size: wanted"),
        ({"out_size": 28}, "out_size: wanted"),
        ({"out_size": (2.5, 3)}, "out_size: wanted"),
        ({"padding": "reflect"}, "padding: wanted one of zeros, border, got 'reflect'"),
        ({"mode": "cubic"}, "mode: wanted one of bilinear, nearest, got 'cubic'"),
        ({"index": 3}, r"index: wanted 0 to 2 for 3 image\(s\), got 3"),
        ({"out_size": (float("inf"), 3)}, "out_size: wanted"),
        ({"hidden": 5}, "hidden: wanted 6 numbers"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ThetaExplorer(**{"image": IMAGE, **arguments})
    if "image" not in arguments:
        explorer = ThetaExplorer(IMAGE)
        with pytest.raises(ValueError, match=message):
            setattr(explorer, *arguments.popitem())


@pytest.mark.parametrize("name, value", [("index", "a"), ("index", 0.5), ("family", ["affine"]), ("mode", 3)])
def test_values_of_another_type_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name}: wanted"):
        ThetaExplorer(IMAGE, **{name: value})
    with pytest.raises(TraitError, match=name):
        setattr(ThetaExplorer(IMAGE), name, value)


def test_a_picture_in_half_precision():
    assert ThetaExplorer(IMAGE.bfloat16()).pixels == ThetaExplorer(IMAGE.bfloat16().float()).pixels


def test_static_html_only_while_a_book_is_built(monkeypatch):
    explorer = ThetaExplorer(IMAGE, "tps", index=1)
    monkeypatch.delenv("STN_STATIC_PAGE", raising=False)
    assert "text/html" not in explorer._repr_mimebundle_()[0]
    monkeypatch.setenv("STN_STATIC_PAGE", "1")
    bundle = explorer._repr_mimebundle_()[0]
    assert "application/vnd.jupyter.widget-view+json" in bundle
    state = re.search('data-theta-explorer="(.*?)"', bundle["text/html"]).group(1).replace("&quot;", '"')
    assert json.loads(state)["index"] == 1


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_pixels_survive_the_way_to_the_page(height, width, count):
    image = torch.randint(0, 256, (count, 1, height, width), generator=torch.manual_seed(count)) / 255
    explorer = ThetaExplorer(image)
    decoded = np.frombuffer(base64.b64decode(explorer.pixels), np.uint8).reshape(explorer.shape)
    assert np.allclose(decoded / 255, image[:, 0])


def test_module_and_style_are_small():
    sizes = [(HERE / name).stat().st_size for name in ("explorer.js", "static_page.js", "explorer.css")]
    assert sum(sizes) < 40_000


# ---- The module against torch ----


@pytest.fixture(scope="module")
def module(browser):
    """Runs a JavaScript expression in which `E` is explorer.js, imported as the ES module it is."""
    page = browser.new_page()
    names = re.findall(r"^export (?:const|function) (\w+)", (HERE / "explorer.js").read_text(), re.M)
    code = (HERE / "explorer.js").read_text() + f"\nwindow.E = {{ {', '.join(names)} }};"
    page.add_script_tag(type="module", content=code)
    page.wait_for_function("window.E")
    yield lambda expression, argument=None: page.evaluate(expression, argument)
    page.close()


def random_case(rng: np.random.Generator) -> dict:
    family = rng.choice(list(FAMILIES))
    spread = rng.choice([0.05, 0.4, 1.0])
    theta = FAMILIES[family].identity().double().numpy() + spread * rng.standard_normal(FAMILIES[family].num_params)
    size, out_size = rng.integers(1, 25, 2).tolist(), rng.integers(1, 25, 2).tolist()
    return {
        "family": str(family),
        "theta": theta.tolist(),
        "image": rng.random(size[0] * size[1]).tolist(),
        "goal": rng.random(out_size[0] * out_size[1]).tolist(),
        "size": size,
        "outSize": out_size,
        "mode": str(rng.choice(["bilinear", "nearest"])),
        "padding": str(rng.choice(["zeros", "border"])),
    }


def torch_warp(case: dict) -> dict[str, torch.Tensor]:
    """The same case in torch: its own grid generator where it has one, its own sampler, its own gradient."""
    theta = torch.tensor([case["theta"]], dtype=torch.float64, requires_grad=True)
    image = torch.tensor(case["image"], dtype=torch.float64).view(1, 1, *case["size"])
    transform = FAMILIES[case["family"]]
    if case["family"] in ("affine", "attention", "similarity"):
        shape = (1, 1, *case["outSize"])
        grid = F.affine_grid(transform.matrix(theta)[:, :2], shape, align_corners=False)
    else:
        grid = transform.grid(theta, tuple(case["outSize"]))
    output = F.grid_sample(image, grid, case["mode"], case["padding"], align_corners=False)
    loss = F.mse_loss(output.flatten(), torch.tensor(case["goal"], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss, theta)
    result = {"source": grid.flatten(), "output": output.flatten(), "loss": loss, "gradient": gradient[0]}
    return {name: value.detach() for name, value in result.items()}


RUN = """(cases) => cases.map((c) => {
  const family = E.FAMILIES[c.family];
  const seen = E.warp(c.image, c.size, family, c.theta, c.outSize, c.mode, c.padding, c.goal);
  return { source: [...seen.source], output: [...seen.output], loss: seen.loss, gradient: [...seen.gradient] };
})"""


def test_the_module_computes_what_torch_computes(module):
    rng = np.random.default_rng(0)
    cases = [random_case(rng) for _ in range(DRAWS)]
    assert {case["family"] for case in cases} == set(FAMILIES)
    worst = dict.fromkeys(("source", "output", "loss", "gradient"), 0.0)
    for case, ours in zip(cases, module(RUN, cases), strict=True):
        theirs = torch_warp(case)
        for name in worst:
            mine = torch.tensor(ours[name], dtype=torch.float64)
            scale = theirs[name].abs().max().clamp(min=1) if name == "gradient" else 1.0
            worst[name] = max(worst[name], float(((mine - theirs[name]).abs() / scale).max()))
    assert max(worst.values()) < 1e-5, worst


def test_the_gradient_is_not_always_zero(module):
    """Else the comparison above could not fail there."""
    rng = np.random.default_rng(1)
    cases = [{**random_case(rng), "mode": "bilinear"} for _ in range(100)]
    moving = [max(map(abs, ours["gradient"])) > 1e-3 for ours in module(RUN, cases)]
    assert sum(moving) > 80


SAMPLE = "(cases) => cases.map((c) => [...E.sample(c.image, c.size, c.grid, c.mode, c.padding)])"


def test_ties_and_edges_are_read_as_torch_reads_them(module):
    """Grid points exactly on pixel centres, half-way between two (nearest: half to even), on the edge, far outside."""
    cases = []
    rng = np.random.default_rng(2)
    for n in range(1, 10):
        line = torch.tensor([*((torch.arange(-3.0, 2 * n + 3, dtype=torch.float64) + 1) / n - 1), -1e6, 1e6])
        grid = torch.cartesian_prod(line, line)
        for mode in ("bilinear", "nearest"):
            for padding in ("zeros", "border"):
                image = rng.random(n * n).tolist()
                cases.append(dict(image=image, size=[n, n], grid=grid.flatten().tolist(), mode=mode, padding=padding))
    for case, ours in zip(cases, module(SAMPLE, cases), strict=True):
        image = torch.tensor(case["image"], dtype=torch.float64).view(1, 1, *case["size"])
        grid = torch.tensor(case["grid"], dtype=torch.float64).view(1, 1, -1, 2)
        theirs = F.grid_sample(image, grid, case["mode"], case["padding"], align_corners=False).flatten()
        assert torch.allclose(torch.tensor(ours, dtype=torch.float64), theirs, atol=1e-12), case


def test_the_spline_is_scipys(module):
    rng = np.random.default_rng(3)
    control = FAMILIES["tps"].identity().double().view(16, 2).numpy()
    for _ in range(20):
        theta, points = control + rng.normal(0, 0.3, (16, 2)), rng.uniform(-1.2, 1.2, (50, 2))
        theirs = RBFInterpolator(control, theta, kernel="thin_plate_spline", degree=1)(points)
        ours = module("([t, p]) => [...E.FAMILIES.tps.points(t, p)]", [theta.ravel().tolist(), points.ravel().tolist()])
        assert np.allclose(ours, theirs.ravel(), atol=1e-6)


PARTS = "([parts, aspect]) => E.FAMILIES.affine.parts.toTheta(parts, aspect)"


def test_the_parts_of_affine_are_the_packages(module):
    rng = np.random.default_rng(4)
    for _ in range(50):
        names = ("scale_x", "scale_y", "shear", "tx", "ty")
        parts = [float(rng.uniform(-180, 180)), float(rng.uniform(0.1, 2)), *rng.uniform(-2, 2, 4).tolist()]
        aspect = float(rng.uniform(0.3, 3))
        angle = torch.deg2rad(torch.tensor([parts[0]], dtype=torch.float64))
        theirs = affine_theta(rotation=angle, **dict(zip(names, parts[1:], strict=True)), aspect=aspect)[0]
        ours = module(PARTS, [parts, aspect])
        assert torch.allclose(torch.tensor(ours, dtype=torch.float64), theirs, atol=1e-12)
        again = module("([theta, aspect]) => E.FAMILIES.affine.parts.fromTheta(theta, aspect)", [ours, aspect])
        assert np.allclose(again, parts, atol=1e-9)


DRAG = "([family, theta, target, to, i]) => E.FAMILIES[family].drag(theta, target, to, i)"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dragged_handle_goes_where_it_is_dragged(module, family):
    rng = np.random.default_rng(5)
    identity = FAMILIES[family].identity().double().numpy()
    handles = module("(family) => [...E.FAMILIES[family].handles]", family)
    for i in range(len(handles) // 2):
        theta = (identity + 0.05 * rng.standard_normal(len(identity))).tolist()
        target = handles[2 * i : 2 * i + 2]
        place = "([family, theta, target]) => [...E.FAMILIES[family].points(theta, target)]"
        to = np.array(module(place, [family, theta, target])) + rng.normal(0, 0.1, 2)
        if family == "attention" and any(target):  # one number cannot follow everywhere: the nearest it can go
            to = np.array(theta[1:]) + np.array(target) * 0.7
        dragged = module(DRAG, [family, theta, target, to.tolist(), i])
        assert np.allclose(module(place, [family, dragged, target]), to, atol=1e-9)


def test_a_homography_that_folds_over_is_refused(module):
    assert module(DRAG, ["projective", [1, 0, 0, 0, 1, 0, 0, 0], [-1, -1], [0.9, 0.9], 0]) is None


# ---- Puzzles ----


def descend(family: str, hidden: list[float], images: torch.Tensor, steps: int = 200, rate: float = 0.05) -> torch.Tensor:
    """Loss after gradient descent from the identity as a share of the loss before, one for each image: torch's own."""
    transform, size = FAMILIES[family], tuple(images.shape[-2:])

    def warp(image, theta):
        return F.grid_sample(image, transform.grid(theta, size), align_corners=False)

    theta = transform.identity().double().repeat(len(images), 1)
    source = warp(images, torch.tensor([hidden], dtype=torch.float64).expand(len(images), -1))
    losses = []
    for _ in range(steps + 1):
        theta.requires_grad_()
        loss = (warp(source, theta) - images).square().mean((1, 2, 3))
        losses.append(loss.detach())
        (gradient,) = torch.autograd.grad(loss.sum(), theta)
        theta = (theta - rate * gradient).detach()
    return losses[-1] / losses[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_descent_solves_the_first_puzzle_of_each_family(family):
    hidden = next(iter(PUZZLES[family].values()))
    assert (descend(family, hidden, digits(12)) < 0.25).double().mean() >= 0.7


@pytest.mark.parametrize("family", ["affine", "attention", "similarity", "projective"])
def test_some_puzzles_end_in_a_bad_minimum(family):
    name = "Out of reach" if family == "attention" else "Upside down"
    assert (descend(family, PUZZLES[family][name], digits(12)) > 0.4).double().mean() >= 0.6
