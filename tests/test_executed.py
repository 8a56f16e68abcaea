"""The chapters as the build executed them: they print what is stored in them for comparison.

Needs `make book` before (`make test` does it). nbval compares the same cells, but executes the chapters once more.
"""

import json
import sys
from pathlib import Path

import pytest
from conftest import ROOT, missing
from jupyter_cache import get_cache

sys.path.append(str(ROOT / "tools"))
from book_extension import cache_folder

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def printed(cells: list[dict]) -> dict[str, str]:
    """Cell id → all that the cell put out as text, for the cells whose output is compared."""
    compared = [cell for cell in cells if "nbval-check-output" in cell["metadata"].get("tags", [])]
    return {cell["id"]: "".join(text_of(output) for output in cell["outputs"]) for cell in compared}


def text_of(output: dict) -> str:
    """What was printed, or the text of a cell's value; in a file it may lie in several lines."""
    return "".join(output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"])


@pytest.fixture(scope="module")
def cache():
    folder = cache_folder()
    if not folder.is_dir():
        missing("this state of the book is not built: run make book")
    return get_cache(folder)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_build_printed_what_is_stored(path: Path, cache):
    stored = printed(json.loads(path.read_text())["cells"])
    executed = cache.get_cache_bundle(cache.match_cache_file(path).pk).nb
    assert printed(executed.cells) == stored


def test_some_outputs_are_compared():
    """The test above could not fail if no cell carried the tag."""
    assert sum(len(printed(json.loads(path.read_text())["cells"])) for path in NOTEBOOKS) > 10
