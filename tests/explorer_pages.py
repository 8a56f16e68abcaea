"""Pages with explorers, for the tests and the benchmark: small ones, made without building the book."""

from pathlib import Path

import torch
from sklearn.datasets import load_digits

from stn_helpers.explorer import ThetaExplorer, static_script, static_style

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Explorers</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<link rel="stylesheet" href="explorer.css"><script defer src="explorer.js"></script>
<style>body {{ margin: 16px; background: Canvas; color: CanvasText; color-scheme: light dark }}</style></head>
<body><main><h1>Explorers</h1>{explorers}</main></body></html>"""


def digits(count: int, size: int = 28) -> torch.Tensor:
    """The first images of scikit-learn's digits, enlarged: count×1×size×size in whole 255ths, with a dark edge."""
    small = torch.tensor(load_digits().images[:count, None] / 16)
    inner = torch.nn.functional.interpolate(small, scale_factor=size * 5 // 7 // 8, mode="bilinear")
    edge = size - inner.shape[-1]
    image = torch.nn.functional.pad(inner, (edge // 2, edge - edge // 2) * 2)
    return (image.clamp(0, 1) * 255).round() / 255


def write_page(folder: Path, *explorers: ThetaExplorer) -> Path:
    """A page as the book makes it: the explorers' elements, one classic script, one style."""
    (folder / "explorer.js").write_text(static_script(), encoding="utf-8")
    (folder / "explorer.css").write_text(static_style(), encoding="utf-8")
    page = folder / "page.html"
    page.write_text(PAGE.format(explorers="".join(e.static_html() for e in explorers)), encoding="utf-8")
    return page
