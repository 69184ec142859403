"""Copies of an image on the page: one hit, and the others behind it."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import COUNT, IMAGES, Site
from tests.browser.elements import PAGE, QUERY, Visits, searches, tiles
from viewfinder.client.requests import MAX_SIMILAR

pytestmark = pytest.mark.browser


def test_copies_are_one_hit_with_the_others_behind_it(visit: Visits, site: Site) -> None:
    here = visit(site, QUERY)
    page = here.page
    expect(tiles(page)).to_have_count(PAGE)
    searched = searches(page)
    page.get_by_label("Copies and similar images").select_option("exact")
    expect(tiles(page)).to_have_count(IMAGES)
    assert searched[-1]["collapse"] == "exact"
    assert "collapse=exact" in page.url
    buttons = page.locator("#results .similar")
    counts = [int(text.removeprefix("+").removesuffix(" similar")) for text in buttons.all_text_contents()]
    assert sum(counts) == COUNT - IMAGES
    shown = tiles(page).evaluate_all("all => all.map(({ dataset }) => dataset.id)")
    buttons.nth(1).click()
    expect(tiles(page)).to_have_count(IMAGES + MAX_SIMILAR)
    expect(buttons.nth(1)).to_have_attribute("aria-expanded", "true")
    expect(page.locator("#results .more")).to_have_text(f"and {counts[1] - MAX_SIMILAR} more")
    after = tiles(page).evaluate_all("all => all.map(({ dataset }) => dataset.id)")
    assert after[:2] + after[2 + MAX_SIMILAR :] == shown
    here.screenshot("similar")
    tiles(page).nth(3).click()
    expect(page.locator("#viewer")).to_be_visible()
    page.keyboard.press("Escape")
    page.locator("#results .check").nth(3).check()
    expect(page.locator("#selected")).to_have_text("1 image selected")
    buttons.nth(1).click()
    expect(tiles(page)).to_have_count(IMAGES)
    expect(page.locator("#results .more")).to_have_count(0)


@pytest.mark.full
def test_groups_have_no_collapsed_images(visit: Visits, site: Site) -> None:
    page = visit(site, f"{QUERY}&collapse=near&group=tags").page
    expect(page.locator("#results .heading")).to_have_count(3)
    expect(page.get_by_label("Copies and similar images")).to_be_disabled()
    expect(page.locator("#results .similar")).to_have_count(0)
