"""A check of a page in the browser with axe."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page


def check_accessible(tab: Page) -> None:
    """Fail if axe finds something on a page, or if it is wider than 400 pixels there."""
    found = Axe().run(tab).response["violations"]
    assert not [(each["id"], [node["html"][:200] for node in each["nodes"]][:3]) for each in found]
    size = tab.viewport_size
    tab.set_viewport_size({"width": 400, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400
    if size is not None:
        tab.set_viewport_size(size)
