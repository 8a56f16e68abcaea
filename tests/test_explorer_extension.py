"""The Sphinx extension that puts explorers into the built book, on a book of three pages."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent

CONF = """
import sys
sys.path.insert(0, {tools!r})
project = "Three pages"
extensions = ["myst_nb", "explorer_extension"]
html_theme = "basic"
nb_execution_mode = "force"
nb_ipywidgets_js = {{}}
"""
WELCOME = """# Welcome

```{theta-explorer}
:family: attention
:digits: 3 1
:puzzle: Near
```
"""
CELL = "import torch\nfrom stn_helpers.explorer import ThetaExplorer\nThetaExplorer(torch.rand(8, 8), 'tps')"


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """The folder of the built pages."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    (source / "conf.py").write_text(CONF.format(tools=str(ROOT / "tools")))
    (source / "index.md").write_text(WELCOME + "\n```{toctree}\nplain\nchapter\n```\n")
    (source / "plain.md").write_text("# No explorer here\n")
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# Chapter"), nbformat.v4.new_code_cell(CELL)]
    )
    nbformat.write(notebook, source / "chapter.ipynb")
    environment = {**os.environ, "STN_SOURCE": "sklearn", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(source), str(built)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return built


def test_only_pages_with_an_explorer_load_it(pages):
    for name, loads in (("index", True), ("chapter", True), ("plain", False)):
        assert ("theta-explorer.js" in (pages / f"{name}.html").read_text()) == loads
        assert ("theta-explorer.css" in (pages / f"{name}.html").read_text()) == loads


@pytest.mark.parametrize(("name", "family"), [("index", "attention"), ("chapter", "tps")])
def test_the_explorer_lives_in_the_built_page(browser, pages, name, family):
    page = browser.new_page()
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto((pages / f"{name}.html").as_uri())
    explorer = page.locator(".theta-explorer")
    explorer.wait_for()
    assert explorer.count() == 1
    count = {"attention": 3, "tps": 2}[family]
    assert page.locator(".tx-sliders input").count() == count
    before = page.locator(".tx-screen canvas").evaluate("(c) => c.toDataURL()")
    page.locator(".tx-sliders input").first.focus()
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.locator(".tx-screen canvas").evaluate("(c) => c.toDataURL()") != before
    assert not faults
    page.close()


def test_a_puzzle_that_does_not_exist_stops_the_build(tmp_path):
    (tmp_path / "conf.py").write_text(CONF.format(tools=str(ROOT / "tools")))
    (tmp_path / "index.md").write_text(WELCOME.replace("Near", "Nearer"))
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(tmp_path), str(tmp_path / "out")]
    environment = {**os.environ, "STN_SOURCE": "sklearn", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "puzzle: wanted one of Near, Small, Out of reach, got 'Nearer'" in done.stderr
