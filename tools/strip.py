"""Empty the chapters' outputs before a commit: `python tools/strip.py notebooks/*.ipynb`.

nbstripout does it; cells tagged keep_output keep theirs. To these it leaves no execution count, without which nbval
takes them for cells that were never run, so they get a 1.
"""

import sys
from pathlib import Path

import nbformat
from nbstripout import strip_output


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        notebook = strip_output(nbformat.read(path, as_version=4), keep_output=False, keep_count=False, keep_id=True)
        for cell in notebook.cells:
            if cell.get("outputs"):
                cell.execution_count = 1
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
