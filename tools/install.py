"""Make the virtual environment ready: `python3 tools/install.py --venv .venv [--torch-index URL]`.

Called by `make` before everything else, so it must be quick when there is nothing to do: a stamp inside the
environment remembers what was installed. The stamp is written last, so an interrupted run is done again.
Only the standard library is used, and no syntax that an older Python 3 could not read: it must get as far as
being told that it is too old.
"""

import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def fingerprint(venv):
    """What the environment was made from: the list of dependencies, and the folders that it points to."""
    parts = [(ROOT / "pyproject.toml").read_bytes(), str(ROOT).encode(), str(venv).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def read_stamp(stamp):
    try:
        return json.loads(stamp.read_text())
    except (OSError, ValueError):
        return {}


def torch_requirements():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [line for line in project["dependencies"] if line.startswith("torch")]


def run(*command):
    print("+", *command, flush=True)
    code = subprocess.call([str(part) for part in command])
    if code:
        sys.exit(f"Set-up stopped: the command above failed (exit status {code}). Run make again to go on.")


def install(venv, torch_index, replace_torch):
    python = venv / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", venv)
    pip = [python, "-m", "pip"]
    if torch_index:
        if replace_torch:
            run(*pip, "uninstall", "--yes", "torch", "torchvision")
        run(*pip, "install", "--index-url", torch_index, *torch_requirements())
    run(*pip, "install", "--editable", f"{ROOT}[book,test]")
    run(python, ROOT / "tools" / "check_torch.py")


def main():
    if sys.version_info < (3, 11):  # noqa: UP036
        sys.exit(
            f"This book needs Python 3.11 or newer, and {sys.executable} is {sys.version.split()[0]}.\n"
            "Name a newer one, such as: make book PYTHON=python3.12"
        )
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=pathlib.Path, default=ROOT / ".venv", help="folder of the environment")
    parser.add_argument("--torch-index", default="", help="package index for torch and torchvision")
    options = parser.parse_args()

    venv = options.venv.absolute()
    stamp = venv / "stn_helpers_ready.json"
    done = read_stamp(stamp)
    wanted = fingerprint(venv)
    # No index asked for: whatever torch is there stays.
    other_torch = bool(options.torch_index) and options.torch_index != done.get("torch_index")
    if done.get("fingerprint") == wanted and not other_torch:
        return
    print(f"Setting up {os.path.relpath(venv)} (once; some minutes, most of it PyTorch)", flush=True)
    stamp.unlink(missing_ok=True)
    install(venv, options.torch_index, replace_torch=other_torch)
    record = {"fingerprint": wanted, "torch_index": options.torch_index or done.get("torch_index", "")}
    beside = stamp.with_suffix(".part")
    beside.write_text(json.dumps(record))
    os.replace(beside, stamp)


if __name__ == "__main__":
    main()
