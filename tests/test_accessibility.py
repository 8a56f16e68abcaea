"""The built pages as someone sees them who reads by ear, by keyboard, on a phone or in the dark, by axe's rules.

Needs `make book` before (`make test` does it).
"""

import pytest
from axe_playwright_python.sync_playwright import Axe
from site_pages import CONTENT, DESK, PHONE, Visit


@pytest.mark.parametrize("scheme, screen", [("light", DESK), ("dark", DESK), ("light", PHONE)])
@pytest.mark.parametrize("name", CONTENT)
def test_accessibility(browser, site, name, scheme, screen):
    base = site.as_uri()
    with Visit(browser, f"{base}/{name}", base, viewport=screen, color_scheme=scheme) as visit:
        assert visit.page.locator("html").get_attribute("data-theme") == scheme
        found = Axe().run(visit.page, options={"resultTypes": ["violations"]}).response["violations"]
    grave = [
        f"{fault['id']}: {node['html'][:200]} {node['failureSummary']}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
    assert grave == [], "\n".join(grave)
