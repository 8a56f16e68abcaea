"""The built book in a real browser: whole, readable, and asking nobody for anything.

Needs `make book` before (`make test` does it). Every page is opened from the file system and over http.
"""

import re
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
from bs4 import BeautifulSoup
from site_pages import CONTENT, PAGES, PHONE, Visit


def test_the_book_is_built(site):
    assert CONTENT


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


@pytest.fixture(scope="module")
def nets(site):
    """The reference's page of nets."""
    return BeautifulSoup((site / "book/api/nets.html").read_text(), "html.parser")


def test_a_field_says_what_it_holds_if_the_source_does(nets):
    field = nets.find(id="stn_helpers.spatial_transformer.Glimpse.grid").find_next("dd").get_text()
    assert "B×H’×W’×2" in field and "where each output pixel looked" in field
    assert "Alias for field number" not in nets.get_text()


def test_a_short_name_in_the_reference_is_a_link_also_to_another_page(nets):
    said = nets.find(id="stn_helpers.localization.atn_localization").find_next("dd")
    (link,) = [link for link in said.find_all("a", href=True) if link.code and link.get_text() == "Attention"]
    assert link["href"] == "grids_and_samplers.html#stn_helpers.transforms.Attention"
