"""Sphinx extension: the θ explorer in the built book, without a kernel.

While the book is built, notebooks show each explorer as an element that holds its state (STN_STATIC_PAGE, which their
kernels inherit). Pages that hold one load a script and a style, made from the files of `stn_helpers.explorer`; the other
pages load nothing. On markdown pages the directive puts one in::

    ```{theta-explorer}
    :family: affine
    :digits: 7 2 1
    :puzzle: Tilted
    ```
"""

import os
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxDirective

from stn_helpers.data import load_digits
from stn_helpers.explorer import FAMILIES, ThetaExplorer, static_script, static_style
from stn_helpers.explorer.presets import PUZZLES

SCRIPT, STYLE = "theta-explorer.js", "theta-explorer.css"


class ThetaExplorerDirective(SphinxDirective):
    """The first test digit of each class named in ``digits``; with ``puzzle``, hidden behind that puzzle's θ."""

    option_spec = {
        "family": lambda text: directives.choice(text, tuple(FAMILIES)),
        "digits": directives.positive_int_list,
        "puzzle": directives.unchanged,
    }

    def run(self) -> list[nodes.Node]:
        family = self.options.get("family", "affine")
        puzzle = self.options.get("puzzle")
        if puzzle is not None and puzzle not in PUZZLES[family]:
            raise self.error(f"puzzle: wanted one of {', '.join(PUZZLES[family])}, got {puzzle!r}")
        digits = load_digits().test
        wanted = self.options.get("digits", [7])
        first = [int((digits.labels == digit).nonzero()[0]) for digit in wanted]
        explorer = ThetaExplorer(digits.images[first], family, hidden=puzzle and PUZZLES[family][puzzle])
        return [nodes.raw("", explorer.static_html(), format="html")]


def prefer_html(app: Sphinx, config: Config) -> None:
    os.environ["STN_STATIC_PAGE"] = "1"
    config.nb_mime_priority_overrides = [*config.nb_mime_priority_overrides, ("html", "text/html", 5)]


def write_assets(app: Sphinx) -> None:
    if app.builder.format == "html":
        folder = Path(app.outdir, "_static")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SCRIPT).write_text(static_script(), encoding="utf-8")
        (folder / STYLE).write_text(static_style(), encoding="utf-8")


def add_assets(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: nodes.document | None) -> None:
    if "data-theta-explorer=" in context.get("body", ""):
        # Before MathJax (500), which keeps the page busy for half a second: the sliders answer first.
        app.add_js_file(SCRIPT, priority=200, loading_method="defer")
        app.add_css_file(STYLE)


def setup(app: Sphinx) -> dict:
    app.add_directive("theta-explorer", ThetaExplorerDirective)
    app.connect("config-inited", prefer_html, priority=100)
    app.connect("builder-inited", write_assets)
    app.connect("html-page-context", add_assets)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
