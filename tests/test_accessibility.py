"""The built pages as someone sees them who reads by ear, by keyboard, on a phone or in the dark, by axe's rules.

Needs `make book` before (`make test` does it).
"""

import pytest
from axe_playwright_python.sync_playwright import Axe
from site_pages import CONTENT, DESK, PHONE, Visit

# A chapter has thousands of coloured words of code, and axe takes most of its time for them. Those of one colour on one
# ground look alike: the first of each stands for the others, which become plain text in the same place.
ONE_WORD_OF_EACH_COLOUR = """() => {
  const ground = element => {
    const colour = getComputedStyle(element).backgroundColor;
    return element.parentElement && /, 0\\)$/.test(colour) ? ground(element.parentElement) : colour;
  };
  const words = [...document.querySelectorAll("pre span:not([id]):not(:has(*))")].filter(word => word.checkVisibility());
  const looks = words.map(word => `${getComputedStyle(word).color} on ${ground(word)}`);
  words.forEach((word, i) => looks.indexOf(looks[i]) < i && word.replaceWith(...word.childNodes));
}"""


def grave_faults(page) -> list[str]:
    """What axe calls serious or critical, one line a place."""
    page.evaluate(ONE_WORD_OF_EACH_COLOUR)
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:200]} {node['failureSummary']}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


@pytest.mark.parametrize("scheme, screen", [("light", DESK), ("dark", DESK), ("light", PHONE)])
@pytest.mark.parametrize("name", CONTENT)
def test_accessibility(browser, site, name, scheme, screen):
    base = site.as_uri()
    with Visit(browser, f"{base}/{name}", base, viewport=screen, color_scheme=scheme) as visit:
        assert visit.page.locator("html").get_attribute("data-theme") == scheme
        grave = grave_faults(visit.page)
    assert grave == [], "\n".join(grave)


def test_a_single_faint_word_of_code_is_found(browser, site):
    base = site.as_uri()
    with Visit(browser, f"{base}/book/how_to_use.html", base, color_scheme="light") as visit:
        visit.page.evaluate("[...document.querySelectorAll('pre span:not([id])')].at(-1).style.color = '#ccc'")
        (fault,) = grave_faults(visit.page)
    assert fault.startswith("color-contrast") and "#cccccc" in fault
