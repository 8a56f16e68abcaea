"""The built book in a real browser: whole, readable, and asking nobody for anything.

Needs `make book` before (`make test` does it). Every page is opened from the file system and over http.
"""

import re
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from conftest import SITE

PAGES = sorted(
    name
    for name in (path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
    if not name.startswith("_static/") and name != "index.html"
)
CONTENT = [page for page in PAGES if page.startswith(("book/", "notebooks/"))]
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


def test_the_book_is_built(site):
    assert CONTENT


class Visit:
    """A page opened in the browser, with all that went wrong on the way."""

    def __init__(self, browser, address: str, base: str, viewport=DESK, **options) -> None:
        self.context = browser.new_context(viewport=viewport, **options)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.faults.append(f"script error: {error}"))
        self.page.on("requestfailed", lambda request: self.faults.append(f"failed: {request.url}"))
        self.page.on("response", self._response)
        self.page.on("request", lambda request: self._request(request.url, base))
        self.page.goto(address, wait_until="load")
        self.page.evaluate("() => window.MathJax?.startup?.promise")
        self.page.wait_for_load_state("networkidle")

    def _console(self, message) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"console {message.type}: {message.text}")

    def _response(self, response) -> None:
        if response.status >= 400:
            self.faults.append(f"status {response.status}: {response.url}")

    def _request(self, url: str, base: str) -> None:
        if not url.startswith((base, "data:", "blob:")):
            self.faults.append(f"request to another place: {url}")

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.context.close()


# Text of the page outside of code and of rendered formulas.
PROSE = """() => {
  const copy = document.querySelector("main").cloneNode(true);
  copy.querySelectorAll("pre, code, script, style, mjx-container").forEach(part => part.remove());
  return copy.textContent;
}"""


@pytest.mark.parametrize("scheme", ["file", "http"])
@pytest.mark.parametrize("name", PAGES)
def test_page(browser, site, site_server, name, scheme):
    base = {"file": site.as_uri(), "http": site_server}[scheme]
    with Visit(browser, f"{base}/{name}", base) as visit:
        page = visit.page
        assert visit.faults == []

        # Mathematics: every formula was set, none holds an error, none was left as text.
        unset = "nodes => nodes.filter(node => !node.querySelector('mjx-container')).map(node => node.textContent)"
        assert page.eval_on_selector_all(".math", unset) == []
        assert page.locator("mjx-merror, mjx-container [data-mjx-error]").count() == 0
        prose = page.evaluate(PROSE)
        assert re.findall(r"\\\(|\\\[|\\begin\{|\$[^$\n]*\$|\{\w+\}`[^`]*`", prose) == []

        # Pictures: loaded, and each says in words what it shows.
        pictures = page.eval_on_selector_all(
            "img", "nodes => nodes.map(node => [node.src, node.alt, node.naturalWidth])"
        )
        for source, words, width in pictures:
            assert width > 0, source
            assert words and not words.endswith((".png", ".svg")), f"{source} has no alternative text"

        page.set_viewport_size(PHONE)
        width = page.evaluate("document.documentElement.scrollWidth")
        wide = page.evaluate(
            """() => [...document.querySelectorAll("main *")]
                 .filter(node => node.getBoundingClientRect().right > innerWidth + 1)
                 .filter(node => !node.closest("pre, table, mjx-container"))  // these scroll inside themselves
                 .map(node => node.outerHTML.slice(0, 100)).slice(0, 5)"""
        )
        assert width <= PHONE["width"], wide
        assert visit.faults == []


@pytest.mark.parametrize("mode, screen", [("light", DESK), ("dark", DESK), ("light", PHONE)])
@pytest.mark.parametrize("name", CONTENT)
def test_accessibility(browser, site, name, mode, screen):
    base = site.as_uri()
    with Visit(browser, f"{base}/{name}", base, viewport=screen, color_scheme=mode) as visit:
        assert visit.page.locator("html").get_attribute("data-theme") == mode
        found = Axe().run(visit.page).response["violations"]
    grave = [
        f"{fault['id']}: {node['html'][:200]} {node['failureSummary']}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
    assert grave == [], "\n".join(grave)


def test_the_front_door_opens_the_welcome_page(browser, site):
    page = browser.new_page()
    page.goto(f"{site.as_uri()}/index.html")
    page.wait_for_url("**/book/welcome.html")
    page.close()


def test_search_finds_a_page(browser, site_server):
    with Visit(browser, f"{site_server}/search.html?q=transformer", site_server) as visit:
        visit.page.locator("#search-results li a").first.wait_for()
        assert visit.faults == []


def test_links_within_the_book_lead_somewhere(site):
    soups = {name: BeautifulSoup((site / name).read_text(), "html.parser") for name in PAGES}
    anchors = {name: {tag["id"] for tag in soup.find_all(id=True)} for name, soup in soups.items()}
    broken = []
    for name, soup in soups.items():
        for tag in soup.find_all("a", href=True):
            if urlsplit(tag["href"]).scheme:
                continue
            target, fragment = urldefrag(urljoin(f"/{name}", tag["href"]))
            target = unquote(urlsplit(target).path).lstrip("/")
            if not (site / target).is_file():
                broken.append(f"{name}: {tag['href']}")
            elif fragment and target in anchors and unquote(fragment) not in anchors[target]:
                broken.append(f"{name}: {tag['href']} (no such place)")
    assert broken == []
