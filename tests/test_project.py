"""What has to agree across files: dependencies, addresses, notebooks, workflows; and the tools under `make`."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import nbformat
import pytest
import yaml
from conftest import ROOT

sys.path.append(str(ROOT / "tools"))
import check_torch
import digits_ready
import install
import repository

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ADDRESS = PROJECT["urls"]["Repository"]
FIRST_CELL = f"""\
# On Colab, install the helper package; anywhere else this cell does nothing.
import sys

if "google.colab" in sys.modules:
    %pip install -q "stn_helpers @ git+{ADDRESS}"
"""


def read_yaml(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text())


def tracked() -> list[Path]:
    """The files under version control."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def python_minors() -> list[int]:
    """The minor versions of Python 3 that pyproject.toml admits."""
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    return list(range(int(low), int(high)))


# Dependencies -------------------------------------------------------------------------------------------------


def test_every_dependency_is_bounded_above():
    extras = PROJECT["optional-dependencies"]
    assert set(extras) == {"book", "cluster", "svhn", "test"}
    for line in sum(extras.values(), PROJECT["dependencies"]):
        assert re.search(r"<|==", line), line


def test_lower_bounds_admit_what_colab_brings_along():
    assert "torch>=2.6,<3" in PROJECT["dependencies"]


def test_conda_environment_names_no_dependency_of_its_own():
    environment = read_yaml("environment.yml")
    assert environment["dependencies"] == [
        f"python{PROJECT['requires-python']}",
        "pip",
        {"pip": ["--editable .[book,test]"]},
    ]


def test_workflows_run_the_oldest_and_the_newest_python():
    minors = python_minors()
    matrix = read_yaml(".github/workflows/tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == [f"3.{minors[0]}", f"3.{minors[-1]}"]
    pages = read_yaml(".github/workflows/pages.yml")["jobs"]["build"]["steps"]
    assert [step["with"]["python-version"] for step in pages if "setup-python" in step.get("uses", "")] == [
        f"3.{minors[-1]}"
    ]


@pytest.mark.parametrize("name", ["tests", "pages"])
def test_workflows_have_least_permissions_and_released_actions(name):
    workflow = read_yaml(f".github/workflows/{name}.yml")
    assert workflow["permissions"] == {"contents": "read"}
    more = {job: steps["permissions"] for job, steps in workflow["jobs"].items() if "permissions" in steps}
    assert more == ({"deploy": {"pages": "write", "id-token": "write"}} if name == "pages" else {})
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert re.fullmatch(r"actions/[\w-]+@v\d+\.\d+\.\d+", step.get("uses", "actions/x@v0.0.0"))


# The repository's address -------------------------------------------------------------------------------------


def test_address_is_the_same_everywhere():
    assert read_yaml("_config.yml")["repository"]["url"] == ADDRESS
    assert ADDRESS in (ROOT / "README.md").read_text()


def test_make_repository_changes_every_place_and_back(tmp_path):
    """On a copy: the old address is nowhere left; written back, every byte is as before."""
    for path in tracked():
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    texts = [path for path in tmp_path.rglob("*") if path.suffix in {".md", ".toml", ".yml", ".ipynb", ".py"}]
    before = {path: path.read_bytes() for path in texts}
    old = "/".join(ADDRESS.split("/")[-2:])
    new = "https://example.org/Some-One/a.fork"

    changed = repository.rewrite(new, root=tmp_path)
    assert {path.name for path in changed} >= {"pyproject.toml", "_config.yml", "README.md"}
    assert set(changed) >= {tmp_path / path.relative_to(ROOT) for path in NOTEBOOKS}
    assert [path for path in texts if old in path.read_text()] == []
    assert repository.current(tmp_path) == new

    repository.rewrite(ADDRESS, root=tmp_path)
    assert {path: path.read_bytes() for path in texts} == before


@pytest.mark.parametrize(
    "address",
    [
        "http://github.com/a/b",
        "git@github.com:a/b.git",
        "https://github.com/a/b.git",
        "https://github.com/a/b/",
        "https://github.com/a",
        'https://github.com/a/b"',
        "",
    ],
)
def test_make_repository_rejects_what_is_no_address(address, tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with pytest.raises(ValueError, match="URL: wanted https://"):
        repository.rewrite(address, root=tmp_path)
    assert (tmp_path / "pyproject.toml").read_bytes() == (ROOT / "pyproject.toml").read_bytes()


# Notebooks ----------------------------------------------------------------------------------------------------


def test_contents_list_every_notebook_and_page():
    contents = (ROOT / "_toc.yml").read_text()
    listed = set(re.findall(r"(?:file|root): (\S+)", contents))
    pages = [*NOTEBOOKS, *(ROOT / "book").rglob("*.md")]
    assert listed == {path.relative_to(ROOT).with_suffix("").as_posix() for path in pages}


def test_the_reference_has_a_place_for_every_module():
    documented = {
        f"api/{page.stem}": re.findall(r"automodule:: stn_helpers\.(\S+)", page.read_text())
        for page in (ROOT / "book" / "api").glob("*.md")
    }
    overview = (ROOT / "book" / "api.md").read_text()
    promised = {page: re.findall(r"`(\w+)`", names) for page, names in re.findall(r"- {doc}`(\S+)`: (.*)", overview)}
    packages = {page: list(dict.fromkeys(name.partition(".")[0] for name in names)) for page, names in documented.items()}
    assert promised == packages

    package = ROOT / "stn_helpers"
    names = {".".join(path.relative_to(package).with_suffix("").parts) for path in package.rglob("*.py")}
    modules = {name.removesuffix(".__init__") for name in names if not name.endswith("__main__")}
    behind = {"__init__", "checkpoint", "experiments", "experiments.tables", "explorer.presets", "files", "stand_in"}
    assert {name for names in documented.values() for name in names} == modules - behind


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
class TestNotebook:
    def test_first_code_cell_installs_the_package_on_colab(self, path):
        first = next(cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code")
        assert "".join(first["source"]) == FIRST_CELL.rstrip("\n")
        assert "remove-cell" in first["metadata"]["tags"]

    def test_nothing_is_stored_but_what_is_compared_or_kept(self, path):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code":
                stored = cell["outputs"] or cell["execution_count"] is not None
                kept = {"keep_output", "nbval-check-output"} & set(cell["metadata"].get("tags", []))
                assert kept or not stored, "outputs stored: run make strip"

    def test_cells_have_ids_of_their_own(self, path):
        notebook = json.loads(path.read_text())
        ids = [cell["id"] for cell in notebook["cells"]]
        assert len(set(ids)) == len(ids)
        assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (4, "python3")

    def test_file_is_written_as_jupyter_writes_it(self, path):
        text = path.read_text()
        assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"


def test_names_of_figures_are_the_books_own():
    """A name is an anchor for the whole book: the build refuses two, minutes later."""
    cells = [cell for path in NOTEBOOKS for cell in json.loads(path.read_text())["cells"]]
    figures = [cell["metadata"].get("mystnb", {}).get("figure", {}) for cell in cells]
    names = [figure["name"] for figure in figures if "name" in figure]
    assert names
    assert [name for name in names if names.count(name) > 1] == []


# Files --------------------------------------------------------------------------------------------------------


def test_files_are_small_and_know_no_machine():
    for path in tracked():
        assert path.stat().st_size < 1_000_000, path
        if path.suffix in {".py", ".md", ".ipynb", ".toml", ".yml", ".json", ".css", ".js", ""}:
            found = re.search(r"(?<![\w.])/(?:home|root|Users|tmp|work)/\w+", path.read_text())
            assert not found or path == Path(__file__), f"{path}: {found[0]}"


def test_wheel_holds_package_and_results(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", tmp_path, ROOT]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = [path for path in tracked() if path.parts[len(ROOT.parts)] in ("stn_helpers", "results")]
    for path in wanted:
        name = path.relative_to(ROOT).as_posix()
        assert (f"stn_helpers/{name}" if name.startswith("results/") else name) in held
    assert "stn_helpers/py.typed" in held  # else a type checker does not see the hints of an installed package


# The tools under make -----------------------------------------------------------------------------------------


def test_torch_and_torchvision_fit():
    assert check_torch.find_problem() is None


def test_torch_and_torchvision_that_do_not_fit_are_named(tmp_path):
    """A torchvision whose compiled operators are missing, as with a pair from two indexes."""
    (tmp_path / "torchvision.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "check_torch.py"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "do not fit together:\n    RuntimeError: operator torchvision::nms does not exist" in done.stderr
    assert "make book TORCH_INDEX=" in done.stderr


class TestInstall:
    @pytest.fixture
    def commands(self, monkeypatch) -> list[list[str]]:
        """What the set-up would run; nothing is run."""
        run: list[list[str]] = []
        monkeypatch.setattr(install, "run", lambda *command: run.append([str(part) for part in command]))
        return run

    @staticmethod
    def set_up(venv: Path, monkeypatch, torch_index: str = "") -> None:
        (venv / "bin").mkdir(parents=True, exist_ok=True)
        (venv / "bin" / "python").touch()
        monkeypatch.setattr(sys, "argv", ["install.py", f"--venv={venv}", f"--torch-index={torch_index}"])
        install.main()

    def test_done_once(self, tmp_path, commands, monkeypatch):
        self.set_up(tmp_path / "venv", monkeypatch)
        assert any(str(ROOT) + "[book,test]" in command for command in commands)
        assert commands[-1][-1].endswith("check_torch.py")
        commands.clear()
        self.set_up(tmp_path / "venv", monkeypatch)
        assert commands == []

    def test_interrupted_it_is_done_again(self, tmp_path, commands, monkeypatch):
        def interrupted(*command):
            if "pip" in command:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(install, "run", interrupted)
            self.set_up(tmp_path / "venv", patch)
        self.set_up(tmp_path / "venv", monkeypatch)
        assert commands

    def test_an_environment_half_made_or_moved_is_made_anew(self, tmp_path, commands, monkeypatch):
        self.set_up(tmp_path / "venv", monkeypatch)
        assert commands[0][1:] == ["-m", "venv", "--clear", str(tmp_path / "venv")]  # it has no pip
        commands.clear()
        monkeypatch.setattr(install, "works", lambda python: True)
        (tmp_path / "venv").rename(tmp_path / "moved")
        self.set_up(tmp_path / "moved", monkeypatch)
        assert commands[0][1:] == ["-m", "venv", "--clear", str(tmp_path / "moved")]

    def test_changed_dependencies_are_installed(self, tmp_path, commands, monkeypatch):
        self.set_up(tmp_path / "venv", monkeypatch)
        commands.clear()
        monkeypatch.setattr(install, "fingerprint", lambda: "another list")
        self.set_up(tmp_path / "venv", monkeypatch)
        assert commands

    def test_torch_comes_first_and_from_its_index(self, tmp_path, commands, monkeypatch):
        self.set_up(tmp_path / "venv", monkeypatch, "https://example.org/cpu")
        torch = next(i for i, line in enumerate(commands) if "https://example.org/cpu" in line)
        rest = next(i for i, line in enumerate(commands) if str(ROOT) + "[book,test]" in line)
        assert torch < rest
        assert [line.split(">")[0] for line in commands[torch][-2:]] == ["torch", "torchvision"]
        assert "https://example.org/cpu" not in commands[rest]
        commands.clear()
        self.set_up(tmp_path / "venv", monkeypatch)  # without an index what is there stays
        self.set_up(tmp_path / "venv", monkeypatch, "https://example.org/cpu")
        assert commands == []
        monkeypatch.setattr(install, "works", lambda python: True)
        self.set_up(tmp_path / "venv", monkeypatch, "https://example.org/other")
        assert any("uninstall" in line for line in commands)


def test_digits_are_asked_for_again_when_the_question_changes(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(digits_ready, "RECORD", tmp_path / "_build" / "digits.json")
    monkeypatch.setattr(digits_ready, "make_ready", lambda: asked.append(1) or f"answer {len(asked)}")
    monkeypatch.setenv("STN_DATA", str(tmp_path))
    assert [digits_ready.digits(), digits_ready.digits()] == ["answer 1", "answer 1"]
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").touch()
    assert [digits_ready.digits(), digits_ready.digits()] == ["answer 2", "answer 2"]
    monkeypatch.setenv("STN_SOURCE", "sklearn")
    assert digits_ready.digits() == "answer 3"


@pytest.fixture
def small_book(tmp_path) -> Path:
    """The folder of a book of two chapters, with this book's settings and tools."""
    for name in ("tools", "assets"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "_config.yml", tmp_path)
    for folder in ("book", "notebooks", "stn_helpers"):
        (tmp_path / folder).mkdir()
    (tmp_path / "book" / "references.bib").touch()
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: notebooks/1\nchapters:\n- file: notebooks/2\n")
    return tmp_path


def test_a_chapter_is_executed_once_and_its_failure_fails_the_build(small_book):
    def write(number: int, source: str) -> None:
        cells = [nbformat.v4.new_markdown_cell(f"# Chapter {number}", id="a"), nbformat.v4.new_code_cell(source, id="b")]
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, small_book / "notebooks" / f"{number}.ipynb")

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "STN_SOURCE": "sklearn"}
        command = [Path(sys.executable).with_name(program), *arguments]
        return subprocess.run(command, cwd=small_book, env=environment, capture_output=True, text=True)

    def execute() -> tuple[int, int]:
        """Exit status, and how many chapters were executed, by the command that comes before the build."""
        done = run("python", "tools/execute.py")
        assert ("ZeroDivisionError" in done.stdout and "2.ipynb" in done.stderr) == bool(done.returncode)
        return done.returncode, done.stderr.count("Executing: ")

    def build() -> tuple[int, int]:
        """The same of the build."""
        done = run("jupyter-book", "build", ".", "--all", "-W", "--keep-going", "-n")
        return done.returncode, done.stdout.count("Executing notebook")

    write(1, "print(1)")
    write(2, "1 / 0")
    assert execute() == (1, 2)
    assert execute() == (1, 1)
    assert build() == (1, 1)
    write(2, "print(2)")
    assert execute() == (0, 1)
    assert build() == (0, 0)
    (small_book / "stn_helpers" / "new.py").write_text("")  # what the chapters import has changed
    assert execute() == (0, 2)


def test_an_old_python_is_told_so(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    with pytest.raises(SystemExit, match="needs Python 3.11 or newer"):
        install.main()


def test_make_help_lists_every_target():
    listed = subprocess.check_output(["make", "help"], cwd=ROOT, text=True)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert re.findall(r"^  (\w+): ", listed, re.MULTILINE) == phony
