"""The page without an index, a service or a key, and with an invalid address."""

import base64
import json
import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import KEY, Album, Site
from tests.browser.elements import PAGE, QUERY, Visits, tiles

pytestmark = pytest.mark.browser

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)


def test_without_an_index_the_page_shows_the_command(visit: Visits, empty_site: Site) -> None:
    here = visit(empty_site, expected=("503",))
    expect(here.page.locator("#problem code").first).to_have_text("viewfinder index s3://bucket/prefix")
    here.screenshot("no-index")


@pytest.mark.full
def test_a_new_index_is_found_by_trying_again(visit: Visits, empty_site: Site, album: Album) -> None:
    page = visit(empty_site, QUERY, expected=("503",)).page
    expect(page.get_by_role("heading", name="There is nothing to search yet")).to_be_visible()
    album.build(empty_site.store)
    empty_site.follower.refresh()
    page.get_by_role("button", name="Try again").click()
    expect(tiles(page)).to_have_count(PAGE)
    expect(page.locator("#problem")).to_be_hidden()


@pytest.mark.full
def test_an_unreachable_service_is_explained(visit: Visits, site: Site) -> None:
    page = visit(site, QUERY, expected=("net::ERR_CONNECTION_REFUSED",)).page
    expect(tiles(page)).to_have_count(PAGE)
    page.route("**/v1/search", lambda route: route.abort("connectionrefused"))
    page.get_by_label("Describe the images to find").fill("other")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="The service cannot be reached")).to_be_visible()


@pytest.mark.full
def test_a_filter_that_this_index_does_not_know_can_be_cleared(visit: Visits, site: Site) -> None:
    page = visit(site, f"{QUERY}&f=nonsense:1", expected=("400",)).page
    expect(page.locator("#problem")).to_contain_text("nonsense")
    page.get_by_role("button", name="Clear the filters").click()
    expect(tiles(page)).to_have_count(PAGE)


@pytest.mark.full
@pytest.mark.parametrize(
    ("address", "said", "remedy"),
    [
        ("sort=nonsense", "Unknown field 'nonsense'", "Clear the filters"),
        ("q=number&group=caption", "Field 'caption' cannot be grouped by", "Clear the filters"),
        ("q=number&min=0.9", "relevance", "Show less relevant images"),  # this index has not measured it
    ],
)
def test_what_the_index_does_not_have_can_be_given_up(
    visit: Visits, site: Site, address: str, said: str, remedy: str
) -> None:
    page = visit(site, f"/?{address}", expected=("400",)).page
    expect(page.locator("#problem")).to_contain_text(said)
    page.get_by_role("button", name=remedy).click()
    expect(tiles(page).first).to_be_visible()
    expect(page.locator("#problem")).to_be_hidden()


@pytest.mark.parametrize(
    "field", ["__proto__", *(pytest.param(name, marks=pytest.mark.full) for name in ("constructor", "toString"))]
)
def test_a_filter_may_have_the_name_of_a_property_of_javascript(visit: Visits, site: Site, field: str) -> None:
    # Regression: the script ended with an error, and the page stayed empty.
    page = visit(site, f"{QUERY}&f={field}:x", expected=("400",)).page
    expect(page.locator("#problem")).to_contain_text(field)
    page.get_by_role("button", name="Clear the filters").click()
    expect(tiles(page)).to_have_count(PAGE)


BLOCKED = """Object.defineProperty(window, "sessionStorage", {
  get() { throw new DOMException("Access is denied for this document.", "SecurityError"); },
})"""


def test_the_page_works_where_the_browser_blocks_site_data(visit: Visits, locked_site: Site) -> None:
    # Regression: the script ended at its first access, and the page stayed empty.
    page = visit(locked_site, QUERY, expected=("401",), script=BLOCKED).page
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    expect(tiles(page)).to_have_count(PAGE)
    page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": PNG})
    expect(page).to_have_url(re.compile("image=a.png"))
    expect(tiles(page)).to_have_count(PAGE)


@pytest.mark.full
@pytest.mark.parametrize(
    "address", ["q=a&like=nonsense", "like=00000000-0000-0000-0000-000000000000", "q=a&min=2", "q=a&min=high"]
)
def test_an_invalid_address_offers_a_new_search(visit: Visits, site: Site, address: str) -> None:
    page = visit(site, f"/?{address}", expected=("422", "404")).page
    page.get_by_role("button", name="New search").click()
    expect(page).to_have_url(f"{site.address}/")
    expect(tiles(page).first).to_be_visible()
    expect(page.locator("#problem")).to_be_hidden()


def test_a_key_is_requested_kept_and_sent_with_images(visit: Visits, locked_site: Site) -> None:
    here = visit(locked_site, QUERY, expected=("401",))
    page = here.page
    box = page.get_by_label("API key")
    expect(box).to_be_focused()
    here.screenshot("key")
    box.fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#problem .warning")).to_contain_text("unknown")
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    expect(tiles(page)).to_have_count(PAGE)
    expect(page.locator(".frame.shown img").nth(3)).not_to_have_js_property("naturalWidth", 0)
    tiles(page).first.click()
    expect(page.locator("#v-image")).not_to_have_js_property("naturalWidth", 0)
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Open the original").click()
    expect(opened.value).to_have_url(re.compile("^blob:"))
    page.reload()
    expect(page.locator("#viewer")).to_be_visible()
    kept = json.loads(page.evaluate("JSON.stringify([Object.keys(sessionStorage), localStorage.length])"))
    assert kept == [["viewfinder-api-key"], 0]
    assert KEY not in page.url
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Forget the key").click()
    expect(page.get_by_label("API key")).to_be_visible()


@pytest.mark.full
def test_results_start_again_when_their_collection_is_gone(visit: Visits, own_site: Site, album: Album) -> None:
    page = visit(own_site, viewport={"width": 1280, "height": 200}, expected=("410", "net::ERR_FAILED")).page
    page.route("**/content*", lambda route: route.abort())
    page.goto(own_site.address + QUERY)
    expect(tiles(page)).to_have_count(PAGE)
    old = own_site.follower.current
    assert old is not None
    album.build(own_site.store)
    own_site.follower.refresh()
    own_site.store.collections.drop(old.collection.name)
    page.mouse.wheel(0, 20_000)
    expect(page.locator("#notes")).to_contain_text("start again from the best")
    assert tiles(page).count() >= PAGE
