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


def fingerprint():
    """What the environment is made from: the list of dependencies, and the package in this folder."""
    return hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + str(ROOT).encode()).hexdigest()


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


def works(python):
    """False as well for an environment whose making was interrupted before pip was in it."""
    try:
        return subprocess.call([python, "-m", "pip", "--version"], stdout=subprocess.DEVNULL) == 0
    except OSError:
        return False


def install(venv, moved, torch_index, replace_torch):
    python = venv / "bin" / "python"
    fresh = moved or not works(python)
    if fresh:
        run(sys.executable, "-m", "venv", "--clear", venv)
    pip = [python, "-m", "pip"]
    if torch_index:
        if replace_torch and not fresh:
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
    moved = done.get("venv", str(venv)) != str(venv)  # its scripts name the old folder
    if moved:
        done = {}
    # No index asked for: whatever torch is there stays.
    torch_index = options.torch_index or done.get("torch_index", "")
    wanted = {"fingerprint": fingerprint(), "venv": str(venv), "torch_index": torch_index}
    if done == wanted and (venv / "bin" / "python").exists():
        return
    print(f"Setting up {os.path.relpath(venv)} (once; some minutes, most of it PyTorch)", flush=True)
    stamp.unlink(missing_ok=True)
    install(venv, moved, torch_index, replace_torch=torch_index != done.get("torch_index"))
    beside = stamp.with_suffix(".part")
    beside.write_text(json.dumps(wanted))
    os.replace(beside, stamp)


if __name__ == "__main__":
    main()
