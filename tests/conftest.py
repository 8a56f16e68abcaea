"""Shared by all tests: the profile of hypothesis, and a browser that cannot reach the network."""

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples every time, and no deadline: the first call of a torch kernel can take half a second.
settings.register_profile("book", deadline=None, derandomize=True)
settings.load_profile("book")

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_build" / "html"

CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Network off: no name resolves but that of this machine.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


def missing(what: str) -> None:
    """Skip for want of ``what``; where everything has to be there (CI=true), fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Chromium, headless and without network: the system's, else the one of `playwright install chromium`."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as tool:
        try:
            chromium = tool.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_OPTIONS)
        except Error as error:
            missing(f"no browser (install chromium, or run: playwright install chromium): {error}")
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built book."""
    if not (SITE / "index.html").exists():
        missing("the book is not built: run make book")
    return SITE


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture(scope="session")
def site_server(site: Path) -> Iterator[str]:
    """The built book over http from this machine; the address it is served at, without a slash at the end."""
    handler = functools.partial(QuietHandler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
