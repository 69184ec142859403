"""Ranges, words to move away from, groups and image addresses on the page."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import SIZES, Album, Site
from tests.browser.elements import PAGE, QUERY, Visits, module, searches, tiles

pytestmark = pytest.mark.browser


def opened_panel(page: Page) -> Any:
    expect(tiles(page).first).to_be_visible()
    with page.expect_response("**/v1/search/batch"):
        page.get_by_role("button", name="Refine").click()
    panel = page.locator("#refine")
    expect(panel).to_be_visible()
    return panel


def test_ranges_are_those_of_the_index_and_the_service_explains_wrong_values(visit: Visits, site: Site) -> None:
    here = visit(site, QUERY, expected=("400",))
    page = here.page
    panel = opened_panel(page)
    searched = searches(page)
    widest = max(width for width, _ in SIZES)
    expect(panel.get_by_label("Width, at most")).to_have_attribute("placeholder", str(widest))
    expect(panel.get_by_label("Year, at least")).to_have_attribute("placeholder", "2020")
    expect(panel.get_by_label("Indexed, at least")).to_have_count(0)  # the images of this index have no such date
    here.screenshot("refine")
    panel.get_by_label("Year, at least").fill("2021")
    panel.get_by_label("Changed, at most").fill("2024-05-31")
    panel.get_by_label("File size, at most").fill("1.5 MB")
    page.keyboard.press("Enter")
    expect(page.get_by_role("group", name="Year").get_by_role("button", name="2021 or more")).to_be_visible()
    expect(page.locator("#status")).to_contain_text(" ms")
    assert searched[-1]["filter"] == {
        "and": [{"last_modified": {"lte": "2024-05-31"}}, {"size": {"lte": 1_500_000}}, {"meta.year": {"gte": 2021}}]
    }
    expect(panel.get_by_label("File size, at most")).to_have_value("1500 kB")
    panel.get_by_label("Width, at least").fill("wide")
    page.keyboard.press("Enter")
    expect(page.locator("#problem")).to_contain_text("its type is integer: expected a number, not 'wide'")
    page.get_by_role("button", name="Clear the filters").click()
    expect(tiles(page)).to_have_count(PAGE)
    expect(panel.get_by_label("Year, at least")).to_have_value("")
    expect(page).to_have_url(site.address + QUERY)


@pytest.mark.full
def test_the_search_moves_away_from_words(visit: Visits, site: Site) -> None:
    page = visit(site, QUERY).page
    panel = opened_panel(page)
    searched = searches(page)
    panel.get_by_label("Without").fill("boat， snow")  # a fullwidth comma, as in Chinese
    page.keyboard.press("Enter")
    expect(page.locator("#parts li")).to_contain_text("without boat， snow")
    expect(page.get_by_label("Rank by")).to_be_disabled()
    expect(page.locator("#status")).to_contain_text(" ms")
    assert searched[-1]["queries"] == [
        {"text": "image number", "weight": 1},
        {"text": "boat", "weight": -0.25},
        {"text": "snow", "weight": -0.25},
    ]
    page.get_by_role("button", name="Remove these words").click()
    expect(page).to_have_url(site.address + QUERY)
    page.goto(f"{site.address}/?without=snow")  # nothing else to look for
    expect(tiles(page)).to_have_count(PAGE)
    assert searched[-1]["queries"] == [{"text": "snow", "weight": -0.5}]


@pytest.mark.full
def test_hits_are_grouped_and_a_group_can_be_opened(visit: Visits, site: Site) -> None:
    here = visit(site, QUERY)
    page = here.page
    searched = searches(page)
    page.get_by_label("Group by").select_option("Tags")
    expect(page.get_by_label("Sort by")).to_be_disabled()
    headings = page.locator("#results .heading h2")
    expect(headings).to_have_count(3)
    assert sorted(headings.all_text_contents()) == ["boat", "sea", "snow"]
    expect(page.locator("#status")).to_contain_text("3 groups")
    assert searched[-1]["group_by"] == "tags"
    here.screenshot("groups")
    links = page.eval_on_selector_all("#results a.tile", "all => all.map(({ href }) => href)")
    assert len(links) > len(set(links))  # images with two tags are in both groups
    tiles(page).first.focus()
    page.keyboard.press("End")
    expect(tiles(page).last).to_be_focused()
    page.locator("#results .heading", has_text="boat").get_by_role("button", name="Show all").click()
    expect(page).to_have_url(re.compile(r"f=tags%3Aboat$"))
    expect(tiles(page)).to_have_count(25)
    page.go_back()
    expect(headings).to_have_count(3)
    page.goto(f"{site.address}{QUERY}&group=meta.season&f=meta.season:autumn")
    expect(headings).to_have_text(["autumn"])


@pytest.mark.full
def test_an_address_in_the_box_is_an_image_to_search_with(visit: Visits, site: Site) -> None:
    page = visit(site, expected=("422",)).page
    searched = searches(page)
    page.get_by_label("Describe the images to find").fill("https://example.org/cat.jpg")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("image_url=https"))
    expect(page.get_by_role("heading", name="This service does not load images from addresses")).to_be_visible()
    assert searched[-1] == {"image_url": "https://example.org/cat.jpg", "limit": PAGE}
    page.get_by_role("button", name="Remove this image").click()
    expect(tiles(page).first).to_be_visible()


ODD = ["meta.a:b", "meta.100%", "meta.%3A", "__proto__", "meta.<b>\n\u202e"]


@pytest.mark.full
def test_an_address_holds_any_query(visit: Visits, site: Site, album: Album) -> None:
    page = visit(site).page
    given = {
        "text": "a&b=c#d ＋+ \u202e<b>",
        "without": "x, y",
        "image": "a b#c.png",
        "url": "https://example.org/?a=1&b=2#c",
        "like": [album.batch.ids[0]],
        "unlike": [album.batch.ids[1]],
        "filters": [[field, ["2021", 2021, True, "null", '"x"', "a:b"]] for field in ODD],
        "ranges": [[field, {"gte": 0, "lte": "2024-05-31"}] for field in ODD],
        "target": "both",
        "rank": "hybrid",
        "sort": "-meta.a:b",
        "min": "0.5",
        "group": "meta.a:b",
        "collapse": "near",
        "open": album.batch.ids[2],
        "lang": "zh",
        "excluded": ["s3://b/a&not=b#c.jpg", "file:///\n\u202e.jpg"],
    }
    read = """(() => {
      const query = { ...given, filters: new Map(given.filters), ranges: new Map(given.ranges) };
      const link = new URL(it.address(query), location.href);
      const { filters, ranges, ...rest } = it.parse(link.search, link.hash);
      return { ...rest, filters: [...filters], ranges: [...ranges] };
    })()"""
    assert module(page, "address.js", read, given) == given
