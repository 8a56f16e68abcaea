"""The Sphinx extension that lists where figures come from, on a book of one page with records of its own."""

import os
import subprocess
import sys
from pathlib import Path

from bs4 import BeautifulSoup

from stn_helpers.results import save_result

ROOT = Path(__file__).resolve().parent.parent
CONF = f"import sys\nsys.path.insert(0, {str(ROOT / 'tools')!r})\nextensions = ['myst_parser', 'records_extension']\n"


def build(folder: Path, page: str) -> subprocess.CompletedProcess:
    """Sphinx, on one page; the records are those in ``folder``."""
    source = folder / "source"
    source.mkdir()
    (source / "conf.py").write_text(CONF)
    (source / "index.md").write_text(f"# Page\n\n{page}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STN_RESULTS": str(folder)}
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(source), str(folder / "html")]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def tables(folder: Path) -> list[list[list[str]]]:
    page = BeautifulSoup((folder / "html" / "index.html").read_text(), "html.parser")
    return [[[cell.text for cell in row("th") + row("td")] for row in table("tr")] for table in page("table")]


def test_records_are_listed_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("STN_RESULTS", str(tmp_path))
    for cell, seed, seconds in (("cnn_R", 0, 60), ("cnn_R", 3, 120), ("fcn_TC", 0, 30), ("fcn_TC", 3, 30), ("fcn_R", 0, 6)):
        save_result(f"distorted/{cell}_{seed}", {"seconds": seconds}, seeds=[seed], command="python one.py")
    save_result("speed", {"ratio": 2}, seeds=[0, 1], command="python speed.py --save")
    done = build(tmp_path, "\n".join(f"```{{records}} {name}\n```\n" for name in ("distorted", "speed", "attention")))
    assert done.returncode == 0, done.stderr
    distorted, records, attention = tables(tmp_path)
    assert distorted[0] == ["cells", "minutes each", "seeds", "device", "torch", "date"]
    rows = {cells: rest for cells, *rest in distorted[1:]}
    assert len(rows) == 3
    assert rows["fcn R"][:2] == ["0.1", "0"]
    assert rows["cnn R, fcn TC"][:2] == ["0.5 to 2.0", "0, 3"] and "threads" in rows["cnn R, fcn TC"][2]
    (rest,) = rows.keys() - {"fcn R", "cnn R, fcn TC"}
    # 36 cells has the paper's table; read otherwise, two nets are measured on P and four on RTS
    assert len(rest.split(", ")) == 36 + 2 + 4 + 1 - 3 and rows[rest] == ["–"] * 5
    assert records[1][:3] == ["speed", "python speed.py --save", "0, 1"] and records[1][3:] == rows["fcn R"][2:]
    assert attention[1:] == [["all 5", *["–"] * 5]]


def test_a_name_that_is_neither_stops_the_build(tmp_path):
    done = build(tmp_path, "```{records} attention nothing\n```\n")
    assert done.returncode != 0 and "got attention, nothing" in done.stderr and "wanted an experiment (attention" in done.stderr
