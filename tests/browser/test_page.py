"""The web page as a person uses it."""

import re

import numpy as np
import pytest
from playwright.sync_api import Route, expect

from tests.browser.conftest import COUNT, INDEX, MARKUP, Album, Site
from tests.browser.elements import PAGE, QUERY, Visits, searches, tiles
from viewfinder.store.baselines import estimate

pytestmark = pytest.mark.browser


def test_the_start_page_shows_the_index_and_example_searches(visit: Visits, site: Site) -> None:
    here = visit(site)
    page = here.page
    expect(page.locator("#about")).to_contain_text(f"{COUNT} images in {INDEX}")
    expect(page.get_by_label("Describe the images to find")).to_be_focused()
    here.screenshot("first-visit")
    example = page.locator("#examples a").first
    wanted = example.text_content()
    example.click()
    expect(page.get_by_label("Describe the images to find")).to_have_value(str(wanted))
    expect(page.locator("#status")).to_contain_text(f"The best {PAGE} images")


def test_enter_searches_and_changes_the_address(visit: Visits, site: Site) -> None:
    page = visit(site).page
    page.get_by_label("Describe the images to find").fill("number 7")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text(" ms")
    expect(page).to_have_url(f"{site.address}/?q=number+7")
    expect(page).to_have_title("number 7 – viewfinder")


def test_scrolling_loads_all_images_and_then_reports_the_end(visit: Visits, site: Site) -> None:
    here = visit(site, QUERY)
    page = here.page
    end = page.get_by_text(f"End of results: {COUNT} images.")
    for _ in range(600):
        page.mouse.wheel(0, 4000)
        page.wait_for_timeout(100)
        if end.is_visible():
            break
    expect(end).to_be_visible()
    assert len(set(page.eval_on_selector_all("#results a.tile", "all => all.map(({ href }) => href)"))) == COUNT
    expect(page.locator("#status")).to_contain_text(f"{COUNT} images")


@pytest.mark.full
def test_a_slow_answer_does_not_replace_a_later_one(visit: Visits, site: Site) -> None:
    page = visit(site, expected=("net::ERR_FAILED",)).page
    held: list[Route] = []

    def hold_first(route: Route) -> None:
        if (route.request.post_data_json or {}).get("text") == "slow":
            held.append(route)
        else:
            route.continue_()

    page.route("**/v1/search", hold_first)
    box = page.get_by_label("Describe the images to find")
    box.fill("slow")
    box.press("Enter")
    expect(page.locator("#status")).to_have_text("Searching …")
    box.fill("number 9")
    box.press("Enter")
    expect(page.locator("#status")).to_contain_text(" ms")
    shown = tiles(page).first.get_attribute("href")
    assert len(held) == 1
    held[0].abort()
    expect(page.locator("#status")).to_contain_text(" ms")
    assert tiles(page).first.get_attribute("href") == shown
    expect(page.locator("#problem")).to_be_hidden()


def test_markup_in_a_caption_is_shown_as_text(visit: Visits, site: Site, album: Album) -> None:
    page = visit(site, f"/?q=markup&open={album.batch.ids[0]}").page
    expect(page.get_by_role("heading", name=MARKUP)).to_be_visible()
    assert page.locator('img[src="x"]').count() == 0
    expect(page).to_have_title("markup – viewfinder")


@pytest.mark.full
def test_warnings_of_the_service_are_shown(visit: Visits, site: Site) -> None:
    page = visit(site, "/?q=" + "+".join(["word"] * 200)).page
    expect(page.locator("#notes li").first).to_contain_text("tokens")


@pytest.mark.full
def test_rank_and_target_can_be_chosen(visit: Visits, site: Site) -> None:
    page = visit(site, "/?q=number+12").page
    expect(page.locator("#status")).to_contain_text(" ms")
    searched = searches(page)
    page.get_by_label("Rank by").select_option("words")
    expect(page).to_have_url(re.compile("rank=words"))
    expect(tiles(page).first).to_contain_text("image number 12")
    page.get_by_label("Rank by").select_option("clip")
    page.get_by_label("Search in").select_option("caption")
    expect(page).to_have_url(re.compile("target=caption"))
    expect(page.locator("#status")).to_contain_text(" ms")
    assert searched[0]["rank"] == "words"
    assert searched[-1]["target"] == "caption"


@pytest.mark.full
def test_the_address_restores_the_whole_state(visit: Visits, site: Site, album: Album) -> None:
    like, unlike, shown = album.batch.ids[3], album.batch.ids[8], album.batch.ids[1]
    page = visit(site).page
    expect(tiles(page).first).to_be_visible()
    searched = searches(page)
    path = f"/?q=number&like={like}&unlike={unlike}&f=tags:sea&f=meta.year:2021&target=both&open={shown}"
    for _ in range(2):
        page.goto(site.address + path)
        expect(page.get_by_role("heading", name="image number 1", exact=True)).to_be_visible()
        expect(page.locator("#parts li")).to_have_count(2)
        expect(page.get_by_role("button", name="sea", pressed=True)).to_be_attached()
    assert searched[0] == searched[1]
    assert searched[0] == {
        "queries": [{"text": "number", "weight": 1}, {"id": like, "weight": 1}, {"id": unlike, "weight": -0.5}],
        "limit": PAGE,
        "filter": {"and": [{"tags": {"eq": "sea"}}, {"meta.year": {"eq": 2021}}]},
        "target": "both",
    }


def test_back_and_forward_go_through_searches_and_images(visit: Visits, site: Site) -> None:
    page = visit(site, "/?q=one").page
    box = page.get_by_label("Describe the images to find")
    expect(tiles(page)).to_have_count(PAGE)
    box.fill("two")
    box.press("Enter")
    expect(page).to_have_url(re.compile("q=two"))
    expect(page.locator("#status")).to_contain_text(" ms")
    tiles(page).nth(2).click()
    expect(page.locator("#viewer")).to_be_visible()
    searched = searches(page)
    page.go_back()
    expect(page.locator("#viewer")).to_be_hidden()
    expect(box).to_have_value("two")
    page.go_back()
    expect(box).to_have_value("one")
    expect(tiles(page)).to_have_count(PAGE)
    page.go_forward()
    page.go_forward()
    expect(page.locator("#viewer")).to_be_visible()
    assert searched == []  # results of earlier searches are kept


@pytest.mark.full
def test_the_address_of_a_missing_image_shows_a_message(visit: Visits, site: Site) -> None:
    path = "/?q=number&open=00000000-0000-4000-8000-000000000000"
    page = visit(site, path, expected=("404",)).page
    expect(page.locator("#notes")).to_contain_text("not in the index")
    expect(page).to_have_url(f"{site.address}/?q=number")
    expect(tiles(page)).to_have_count(PAGE)


@pytest.mark.full
def test_the_viewer_steps_through_images(visit: Visits, site: Site) -> None:
    here = visit(site, QUERY)
    page = here.page
    expect(tiles(page)).to_have_count(PAGE)
    names = tiles(page).locator(".caption").all_text_contents()
    tiles(page).first.focus()
    page.keyboard.press("Enter")
    title = page.locator("#v-caption")
    expect(title).to_have_text(names[0])
    expect(page.get_by_role("button", name="Previous image")).to_be_disabled()
    expect(page.locator("#v-image")).not_to_have_js_property("naturalWidth", 0)
    here.screenshot("large")
    page.keyboard.press("ArrowRight")
    expect(title).to_have_text(names[1])
    page.get_by_role("button", name="Next image").click()
    expect(title).to_have_text(names[2])
    page.keyboard.press("ArrowLeft")
    expect(title).to_have_text(names[1])
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(tiles(page).nth(1)).to_be_focused()
    expect(page).to_have_url(site.address + QUERY)


def test_the_viewer_shows_the_metadata(visit: Visits, site: Site, album: Album) -> None:
    page = visit(site, f"/?open={album.batch.ids[1]}").page
    data = page.locator("#v-data")
    for said in ("64 × 64", "JPEG", "May 31, 2024", "Season", "autumn", "2021", album.file(1).name):
        expect(data).to_contain_text(said)
    expect(page.get_by_role("button", name="Less like this")).to_be_disabled()  # there is nothing to compare with
    data.get_by_role("button", name="boat").click()
    expect(page).to_have_url(f"{site.address}/?f=tags%3Aboat")
    expect(tiles(page)).to_have_count(25)


def test_filters_combine_and_can_be_removed(visit: Visits, site: Site) -> None:
    here = visit(site, QUERY)
    page = here.page
    searched = searches(page)
    chips = page.get_by_role("group", name="Filters")
    chips.get_by_role("button", name="sea").click()
    expect(chips.get_by_role("button", name="snow")).to_have_count(0)  # no image has both
    chips.get_by_role("button", name="boat").click()
    chips.get_by_role("button", name="png").click()
    expect(page.locator("#status")).to_contain_text("5 images")
    chips.get_by_role("button", name="jpeg").click()
    expect(page.locator("#status")).to_contain_text("25 images")
    here.screenshot("filtered")
    assert searched[-1]["filter"] == {
        "and": [{"tags": {"eq": "sea"}}, {"tags": {"eq": "boat"}}, {"format": {"in": ["png", "jpeg"]}}]
    }
    chips.get_by_role("button", name="2021").click()
    expect(page).to_have_url(re.compile(re.escape("meta.year%3A2021")))
    for name in ("sea", "boat", "png", "jpeg", "2021"):
        chips.get_by_role("button", name=name, pressed=True).click()
    expect(page).to_have_url(site.address + QUERY)


@pytest.mark.full
def test_images_without_a_description_are_browsed_in_the_order_of_a_field(visit: Visits, site: Site) -> None:
    here = visit(site)
    page = here.page
    searched = searches(page)
    page.get_by_role("link", name="Browse all, newest first").click()
    expect(page).to_have_url(re.compile(r"\?sort=-last_modified$"))
    expect(page.locator("#status")).to_contain_text("The first 40 images")
    sort = page.get_by_label("Sort by")
    sort.select_option("Year, highest first")
    expect(page).to_have_url(re.compile(r"sort=-meta\.year"))
    expect(page.get_by_label("Minimum relevance")).to_be_hidden()
    assert searched[-1] == {"limit": PAGE, "order_by": "-meta.year"}
    here.screenshot("browsed")
    page.get_by_role("group", name="Filters").get_by_role("button", name="boat").click()
    expect(tiles(page)).to_have_count(25)
    assert searched[-1]["order_by"] == "-meta.year"
    page.goto(f"{site.address}/?f=tags:boat")
    expect(tiles(page)).to_have_count(25)
    expect(sort).to_have_value("-last_modified")
    assert searched[-1] == {"limit": PAGE, "order_by": "-last_modified", "filter": {"and": [{"tags": {"eq": "boat"}}]}}


@pytest.mark.full
def test_hits_are_sorted_above_a_minimum_relevance(visit: Visits, own_site: Site) -> None:
    site = own_site
    live = site.store.collections.live(INDEX)
    assert live is not None
    baselines = estimate(site.store, live, lambda: np.empty((0, 0), np.float32))
    site.store.collections.update_metadata(live.name, baselines=baselines)
    site.follower.refresh()
    here = visit(site, QUERY)
    page = here.page
    searched = searches(page)
    sort, minimum = page.get_by_label("Sort by"), page.get_by_label("Minimum relevance")
    expect(sort).to_be_enabled()
    sort.select_option("newest first")
    expect(page).to_have_url(re.compile(r"sort=-last_modified"))
    expect(minimum).to_have_value("0.95")
    expect(page.locator("#status")).to_contain_text(" ms")
    assert (searched[-1]["order_by"], searched[-1]["min_relevance"]) == ("-last_modified", 0.95)
    minimum.select_option("80% or more")
    expect(page).to_have_url(re.compile(r"min=0\.8"))
    expect(page.locator("#status")).to_contain_text(" ms")
    here.screenshot("sorted")
    assert searched[-1]["min_relevance"] == 0.8
    page.reload()
    expect(sort).to_have_value("-last_modified")
    expect(minimum).to_have_value("0.8")
    page.get_by_label("Rank by").select_option("hybrid")
    expect(sort).to_be_disabled()
    expect(tiles(page).first).to_be_visible()
    assert "order_by" not in searched[-1]
    page.goto(f"{site.address}{QUERY}&min=1")
    page.get_by_role("button", name="Show less relevant images").click()
    expect(tiles(page)).to_have_count(PAGE)
    expect(page).to_have_url(site.address + QUERY)


@pytest.mark.full
def test_no_results_offer_to_clear_the_filters(visit: Visits, site: Site) -> None:
    here = visit(site, f"{QUERY}&f=tags:snow&f=tags:boat")
    page = here.page
    expect(page.locator("#problem")).to_contain_text("No image matches all these filters.")
    here.screenshot("nothing-found")
    page.get_by_role("button", name="Clear the filters").click()
    expect(tiles(page)).to_have_count(PAGE)
