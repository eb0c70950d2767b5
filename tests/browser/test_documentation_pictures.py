"""The pictures of docs/pictures, of a ledger in which every service is in another state; run with `make pictures`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from browser.conftest import Look, Site

pytestmark = [pytest.mark.slow, pytest.mark.figures, pytest.mark.timeout(300)]
PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"


def test_pictures_of_the_pages_are_taken(site: Site, look: Callable[..., Look]) -> None:
    site.refill(lambda states: states.everything())
    light, dark = look("light"), look("dark")
    light.page.set_viewport_size({"width": 1280, "height": 640})
    light.go("/plugin/rollouts", ".canary-table")
    light.page.screenshot(path=str(PICTURES / "rollouts-light.png"))
    row = light.page.locator(".canary-tr", has=light.page.locator(".canary-name", has_text="checkout"))
    row.locator("button:has-text('Abort')").click()
    light.page.screenshot(path=str(PICTURES / "rollouts-abort.png"))
    dark.page.set_viewport_size({"width": 1280, "height": 1000})
    dark.go("/plugin/rollouts?rollout=search-12", ".canary-picture svg")
    dark.resized(1280)
    dark.page.set_viewport_size({"width": 1280, "height": 1000})
    dark.page.screenshot(path=str(PICTURES / "rollout-dark.png"))
    light.page.set_viewport_size({"width": 390, "height": 844})
    light.go("/plugin/rollouts?rollout=search-12", ".canary-picture svg")
    light.page.screenshot(path=str(PICTURES / "rollout-phone.png"))
    assert light.troubles + dark.troubles == []
