"""The book's own Sphinx extension: a cache that knows the package, pages that ask no other host."""

import hashlib
import importlib.util
import pkgutil
import re
import shutil
import sys
from pathlib import Path

from digits_ready import digits
from docutils.nodes import Element
from nbclient.output_widget import OutputWidget
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.nodes import make_refnode

ROOT = Path(__file__).resolve().parent.parent


def execution_key() -> str:
    """Names the cache's folder: the cache compares cells, this what they use (package, results, digits)."""
    total = hashlib.sha256(digits().encode())
    for folder in ("stn_helpers", "results"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                total.update(f"\0{path.relative_to(ROOT).as_posix()}\0".encode())
                total.update(path.read_bytes())
    return total.hexdigest()[:16]


def cache_folder() -> Path:
    return ROOT / "_build" / ".jupyter_cache" / execution_key()


def choose_cache(app: Sphinx, config: Config) -> None:
    config.nb_execution_cache_path = str(cache_folder())


def say_nothing(widget: OutputWidget) -> None:
    """In place of the message in which nbclient tells the kernel what an Output widget, that of ``interact``, shows.

    It goes out on the socket on which nbclient waits for the reply that the cell is done, and the reply may then go
    unnoticed until the cell's time is up (nbclient's issue 312): ten minutes. The pages show no live widgets and need no
    such message.
    """


def skip_bare_fields(app: Sphinx, what: str, name: str, member, skip: bool, options) -> bool | None:
    """Leave out fields of a NamedTuple that the source says nothing about; Python calls them "Alias for field number 0"."""
    if not (getattr(member, "__doc__", "") or "").startswith("Alias for field number"):
        return None
    place = app.env.temp_data  # where autodoc keeps what it is at
    said = ModuleAnalyzer.for_module(place["autodoc:module"]).find_attr_docs()
    return (place["autodoc:class"], name) not in said


def find_short_name(app: Sphinx, env: BuildEnvironment, node: Element, content: Element) -> Element | None:
    """Link a short name in a docstring to the one thing of the package that has it: `fit` to stn_helpers.training.fit."""
    if node.get("refdomain") != "py":
        return None
    name = node["reftarget"].removeprefix("stn_helpers.")
    things = env.get_domain("py").objects
    meant = [full for full, thing in things.items() if full.endswith(f".{name}") and not thing.aliased]
    here = getattr(sys.modules.get(node.get("py:module")), name, None)
    if len(meant) != 1 or (here is not None and here is not pkgutil.resolve_name(meant[0])):
        return None  # several, or another one than the module's own: Sphinx warns, and a warning fails the build
    thing = things[meant[0]]
    return make_refnode(app.builder, node["refdoc"], thing.docname, thing.node_id, content, meant[0])


def add_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Copy MathJax (one script and its fonts) out of the package sphinx-mathjax-offline."""
    if error or app.builder.format != "html":
        return
    package = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent
    source, target = package / "static" / "mathjax", Path(app.outdir, "_static", "mathjax")
    fonts = Path("output", "chtml", "fonts", "woff-v2")
    shutil.copytree(source / fonts, target / fonts, dirs_exist_ok=True)
    shutil.copy(source / "tex-chtml.js", target)


# Setting a page's formulas keeps the browser busy for half a second. What the reader does comes first: sliders answer
# before, and the formulas follow as soon as the page has nothing else to do.
MATHJAX_WHEN_IDLE = """
window.MathJax = window.MathJax || {};
window.MathJax.startup = {
  pageReady: () => new Promise((ready) => (window.requestIdleCallback || setTimeout)(ready))
    .then(() => MathJax.startup.defaultPageReady()),
};
"""


def mend_page(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Leave out what no page needs, and set right what the tools below get wrong."""

    def is_widget_state(script) -> bool:
        return "jupyter.widget" in getattr(script, "attributes", {}).get("type", "")

    # Live widgets: without a kernel and a script from a CDN they show nothing.
    context["script_files"] = [script for script in context["script_files"] if not is_widget_state(script)]
    body = context.get("body", "")
    body = re.sub(r'<script type="application/vnd\.jupyter\.widget-view.*?</script>', "", body, flags=re.DOTALL)
    # Docutils gives the entries of its list of citations a role that is deprecated, and is no list item.
    body = body.replace('role="doc-biblioentry"', 'role="listitem"')
    # A table too wide for the screen scrolls inside itself; with a place in the order of Tab, the arrow keys move it.
    context["body"] = body.replace('<table class="table">', '<table class="table" tabindex="0">')


def setup(app: Sphinx) -> dict:
    OutputWidget.sync_state = say_nothing
    app.connect("config-inited", choose_cache)
    app.connect("autodoc-skip-member", skip_bare_fields)
    app.connect("missing-reference", find_short_name)
    app.connect("html-page-context", mend_page, priority=900)
    app.connect("build-finished", add_mathjax)
    app.add_js_file(None, body=MATHJAX_WHEN_IDLE, priority=600)  # after Sphinx's own settings for MathJax
    return {"parallel_read_safe": True, "parallel_write_safe": True}
