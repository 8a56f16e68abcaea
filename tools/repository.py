"""Write the repository's address wherever it stands: `make repository URL=https://github.com/owner/name`.

The address that counts is [project.urls] Repository in pyproject.toml. Files are changed as text, so a
notebook keeps every other byte.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("pyproject.toml", "_config.yml", "environment.yml", "README.md", "book/*.md", "notebooks/*.ipynb")
ADDRESS = re.compile(r"https://[a-z0-9.-]+\.[a-z]+/(?P<owner>[\w-]+)/(?P<name>[\w.-]*\w)")


def current(root: Path = ROOT) -> str:
    """The address in pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"]


def spellings(address: str) -> list[str]:
    """The address itself, and what Binder, Colab and GitHub Pages make of it."""
    match = ADDRESS.fullmatch(address)
    if not match or address.endswith(".git"):
        raise ValueError(f"URL: wanted https://host/owner/name (no .git, nothing behind), got {address!r}")
    owner, name = match["owner"], match["name"]
    return [address, f"/gh/{owner}/{name}", f"/github/{owner}/{name}", f"{owner.lower()}.github.io/{name}"]


def rewrite(address: str, root: Path = ROOT) -> list[Path]:
    """Put ``address`` in the place of the present one; the files that changed."""
    pairs = list(zip(spellings(current(root)), spellings(address), strict=True))
    changed = []
    for path in sorted(path for place in PLACES for path in root.glob(place)):
        text = before = path.read_bytes().decode()
        for old, new in pairs:
            text = re.sub(re.escape(old) + r"(?![\w-])", new, text)
        if text != before:
            path.write_bytes(text.encode())
            changed.append(path)
    return changed


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1]:
        sys.exit("Name the address: make repository URL=https://github.com/owner/name")
    try:
        for path in rewrite(sys.argv[1]):
            print(path.relative_to(ROOT))
    except ValueError as error:
        sys.exit(str(error))
