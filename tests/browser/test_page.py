"""The web page as a person uses it."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, Request, Route, expect

from tests.browser.conftest import COUNT, INDEX, KEY, MARKUP, SIZES, Album, Site, Visit

pytestmark = pytest.mark.browser

Visits = Callable[..., Visit]
PAGE = 40
PHONE = {"viewport": {"width": 375, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
QUERY = "/?q=image+number"


def tiles(page: Page) -> Any:
    return page.locator("#results a.tile")


def tile_of(page: Page, album: Album, number: int) -> Any:
    return page.locator(f'#results a.tile[href*="open={album.batch.ids[number]}"]')


def searches(page: Page) -> list[Any]:
    """The bodies of all JSON searches from now on."""
    bodies: list[Any] = []

    def note(request: Request) -> None:
        if request.url.endswith("/v1/search"):
            bodies.append(request.post_data_json)

    page.on("request", note)
    return bodies


# --- Arriving


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_are_designed(visit: Visits, site: Site, scheme: str) -> None:
    here = visit(site, QUERY, color_scheme=scheme)
    expect(tiles(here.page)).to_have_count(PAGE)
    background = here.page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in re.findall(r"\d+", background)[:3]) / 3
    assert (brightness > 128) == (scheme == "light")
    here.screenshot(f"results-{scheme}")


def test_fits_a_phone(visit: Visits, site: Site, album: Album) -> None:
    for path, name in (("/", "first-visit"), (QUERY, "results"), (f"{QUERY}&open={album.batch.ids[5]}", "large")):
        here = visit(site, path, **PHONE)
        expect(tiles(here.page).first).to_be_visible()
        here.screenshot(f"phone-{name}")
        for overflowing in ("document.documentElement", "document.getElementById('viewer')"):
            assert here.page.evaluate(f"{overflowing}.scrollWidth <= innerWidth"), name


LONG = "A caption that tells everything about everything, " * 40


def with_odd_hits(page: Page) -> None:
    """The service's own answers, but the first hit has a long caption and a long tag, and the second no caption."""

    def change(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        if body["hits"]:
            first, second, *_ = body["hits"]
            first["caption"], first["payload"]["tags"] = LONG, ["tag-without-any-space-" * 10]
            second["caption"] = None
        route.fulfill(response=answer, json=body)

    page.route("**/v1/search", change)


@pytest.mark.full
@pytest.mark.parametrize("options", [{}, PHONE], ids=["desk", "phone"])
def test_long_captions_and_missing_ones_keep_their_places(visit: Visits, site: Site, options: dict[str, Any]) -> None:
    here = visit(site, **options)
    page = here.page
    with_odd_hits(page)
    page.goto(site.address + QUERY)
    expect(tiles(page)).to_have_count(PAGE)
    gaps = """tiles => tiles.map((tile) => {
      const [frame, caption] = [".frame", ".caption"].map((part) => tile.querySelector(part).getBoundingClientRect());
      return [caption.left - frame.left, caption.top - frame.bottom, caption.height].map(Math.round).join();
    })"""
    assert len(set(tiles(page).evaluate_all(gaps))) == 1  # what has no caption has its file's name there
    tiles(page).first.click()
    expect(page.get_by_role("button", name="Less like this")).to_be_visible()
    here.screenshot(f"long-caption-{'phone' if options else 'desk'}")
    assert page.evaluate("document.getElementById('viewer').scrollWidth <= innerWidth")
    if not options:
        expect(page.get_by_role("button", name="Less like this")).to_be_in_viewport()


@pytest.mark.full
def test_a_phone_does_not_show_the_hint_to_drop_images(visit: Visits, site: Site) -> None:
    for options, told in (({}, True), (PHONE, False)):
        page = visit(site, **options).page
        expect(page.locator("#about")).to_contain_text(INDEX)
        assert page.get_by_text("You can also drop an image").is_visible() == told


# --- Searching


def test_enter_searches_and_the_address_says_so(visit: Visits, site: Site) -> None:
    page = visit(site).page
    page.get_by_label("Describe the images to find").fill("number 7")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text(" ms")
    expect(page).to_have_url(f"{site.address}/?q=number+7")
    expect(page).to_have_title("number 7 – viewfinder")


@pytest.mark.full
def test_rows_are_justified_before_any_image_has_come(visit: Visits, site: Site) -> None:
    page = visit(site, expected=("net::ERR_FAILED",)).page
    page.route("**/content*", lambda route: route.abort())
    page.goto(site.address + QUERY)
    expect(tiles(page)).to_have_count(PAGE)
    boxes = page.evaluate(
        "[...document.querySelectorAll('.frame')].map((frame) => {"
        "  const { x, y, width, height } = frame.getBoundingClientRect(); return { x, y, width, height } })"
    )
    rows: dict[int, list[dict[str, float]]] = {}
    for box in boxes:
        rows.setdefault(round(box["y"]), []).append(box)
    assert len(rows) > 3
    right = [max(box["x"] + box["width"] for box in row) for row in rows.values()]
    assert max(right[:-1]) - min(right[:-1]) < 1
    for row in rows.values():
        assert max(box["height"] for box in row) - min(box["height"] for box in row) < 1
    shapes = {round(width / height, 1) for width, height in SIZES}
    assert {round(box["width"] / box["height"], 1) for box in boxes} <= shapes


def test_scrolling_brings_all_images_and_then_says_so(visit: Visits, site: Site) -> None:
    here = visit(site, QUERY)
    page = here.page
    end = page.get_by_text(f"End of results: {COUNT} images.")
    for _ in range(20):
        page.mouse.wheel(0, 4000)
        page.wait_for_load_state("networkidle")
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


def test_a_caption_that_is_markup_stays_text(visit: Visits, site: Site, album: Album) -> None:
    page = visit(site, f"/?q=markup&open={album.batch.ids[0]}").page
    expect(page.get_by_role("heading", name=MARKUP)).to_be_visible()
    assert page.locator('img[src="x"]').count() == 0
    expect(page).to_have_title("markup – viewfinder")


@pytest.mark.full
def test_warnings_of_the_service_are_shown(visit: Visits, site: Site) -> None:
    page = visit(site, "/?q=" + "+".join(["word"] * 200)).page
    expect(page.locator("#notes li").first).to_contain_text("tokens")


@pytest.mark.full
def test_words_and_targets_are_a_choice_away(visit: Visits, site: Site) -> None:
    page = visit(site, "/?q=number+12").page
    expect(page.locator("#status")).to_contain_text(" ms")
    asked = searches(page)
    page.get_by_label("Rank by").select_option("words")
    expect(page).to_have_url(re.compile("rank=words"))
    expect(tiles(page).first).to_contain_text("image number 12")
    page.get_by_label("Rank by").select_option("clip")
    page.get_by_label("Search in").select_option("caption")
    expect(page).to_have_url(re.compile("target=caption"))
    expect(page.locator("#status")).to_contain_text(" ms")
    assert asked[0]["rank"] == "words"
    assert asked[-1]["target"] == "caption"


# --- The address


@pytest.mark.full
def test_the_whole_state_survives_a_reload(visit: Visits, site: Site, album: Album) -> None:
    like, unlike, shown = album.batch.ids[3], album.batch.ids[8], album.batch.ids[1]
    page = visit(site).page
    expect(tiles(page).first).to_be_visible()
    asked = searches(page)
    path = f"/?q=number&like={like}&unlike={unlike}&f=tags:sea&f=meta.year:2021&target=both&open={shown}"
    for _ in range(2):
        page.goto(site.address + path)
        expect(page.get_by_role("heading", name="image number 1", exact=True)).to_be_visible()
        expect(page.locator("#parts li")).to_have_count(2)
        expect(page.get_by_role("button", name="sea", pressed=True)).to_be_attached()
    assert asked[0] == asked[1]
    assert asked[0] == {
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
    asked = searches(page)
    page.go_back()
    expect(page.locator("#viewer")).to_be_hidden()
    expect(box).to_have_value("two")
    page.go_back()
    expect(box).to_have_value("one")
    expect(tiles(page)).to_have_count(PAGE)
    page.go_forward()
    page.go_forward()
    expect(page.locator("#viewer")).to_be_visible()
    assert asked == []  # what was seen already is remembered


@pytest.mark.full
def test_an_image_that_is_gone_does_not_break_its_address(visit: Visits, site: Site) -> None:
    path = "/?q=number&open=00000000-0000-4000-8000-000000000000"
    page = visit(site, path, expected=("404",)).page
    expect(page.locator("#notes")).to_contain_text("not in the index")
    expect(page).to_have_url(f"{site.address}/?q=number")
    expect(tiles(page)).to_have_count(PAGE)


# --- One image


@pytest.mark.full
def test_the_large_view_goes_from_image_to_image(visit: Visits, site: Site) -> None:
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
    expect(page.get_by_role("button", name="Less like this")).to_be_disabled()  # than what?
    data.get_by_role("button", name="boat").click()
    expect(page).to_have_url(f"{site.address}/?f=tags%3Aboat")
    expect(tiles(page)).to_have_count(25)


@pytest.mark.full
def test_more_and_less_like_this_become_parts_of_the_search(visit: Visits, site: Site, album: Album) -> None:
    here = visit(site, f"{QUERY}&open={album.batch.ids[4]}")
    page = here.page
    asked = searches(page)
    page.get_by_role("button", name="More like this").click()
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator("#status")).to_be_focused()
    expect(tile_of(page, album, 4)).to_have_count(0)  # nobody looks for what he has
    disliked = tiles(page).nth(2).get_attribute("href")
    tiles(page).nth(2).click()
    page.get_by_role("button", name="Less like this", exact=True).click()
    expect(page.locator("#parts li")).to_have_count(2)
    expect(page.locator("#status")).to_contain_text(" ms")
    here.screenshot("more-and-less")
    assert asked[-1]["queries"][1] == {"id": album.batch.ids[4], "weight": 1}
    assert asked[-1]["queries"][2]["id"] in str(disliked)
    assert asked[-1]["queries"][2]["weight"] < 0
    page.get_by_role("button", name="Look for less like this instead").click()
    expect(page.locator("#parts .minus")).to_have_count(2)
    page.get_by_role("button", name="Remove “less like this”").first.click()
    page.get_by_role("button", name="Remove “less like this”").first.click()
    expect(page).to_have_url(site.address + QUERY)


# --- An image of one's own


def chosen(page: Page, album: Album) -> None:
    page.locator("#file").set_input_files(album.file(6))


DROPPED = """([name, bytes]) => {
  const carried = new DataTransfer();
  carried.items.add(new File([new Uint8Array(bytes)], name, { type: "image/jpeg" }));
  const event = (type) => new DragEvent(type, { dataTransfer: carried, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event("dragenter"));
  if (document.getElementById("drop").hidden) throw new Error("nothing says that it can be dropped");
  document.body.dispatchEvent(event("drop"));
}"""

PASTED = """([name, bytes]) => {
  const carried = new DataTransfer();
  carried.items.add(new File([new Uint8Array(bytes)], name, { type: "image/jpeg" }));
  document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: carried, bubbles: true }));
}"""


def dropped(page: Page, album: Album) -> None:
    page.evaluate(DROPPED, ["006.jpg", list(album.file(6).read_bytes())])


def pasted(page: Page, album: Album) -> None:
    page.evaluate(PASTED, ["006.jpg", list(album.file(6).read_bytes())])


@pytest.mark.parametrize("give", [chosen, dropped, pasted])
def test_an_image_finds_itself(visit: Visits, site: Site, album: Album, give: Callable[[Page, Album], None]) -> None:
    here = visit(site)
    page = here.page
    expect(tiles(page).first).to_be_visible()
    give(page, album)
    expect(page).to_have_url(f"{site.address}/?image=006.jpg")
    expect(page.locator("#status")).to_contain_text(" ms")
    expect(tiles(page).first).to_contain_text("image number 6")
    expect(page.locator("#drop")).to_be_hidden()


@pytest.mark.full
def test_an_image_goes_together_with_words(visit: Visits, site: Site, album: Album) -> None:
    page = visit(site).page
    asked = searches(page)
    chosen(page, album)
    expect(page.locator("#parts li")).to_have_count(1)
    page.get_by_label("Describe the images to find").fill("number")
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{site.address}/?q=number&image=006.jpg")
    expect(page.locator("#status")).to_contain_text(" ms")
    assert [sorted(part) for part in asked[-1]["queries"]] == [["text", "weight"], ["image", "weight"]]
    page.get_by_role("button", name="Remove this image").click()
    expect(page).to_have_url(f"{site.address}/?q=number")


@pytest.mark.full
def test_a_search_by_image_survives_a_reload(visit: Visits, site: Site, album: Album) -> None:
    page = visit(site).page
    chosen(page, album)
    expect(tiles(page).first).to_contain_text("image number 6")
    page.reload()
    expect(tiles(page).first).to_contain_text("image number 6")
    expect(page.locator("#parts img")).not_to_have_js_property("naturalWidth", 0)


@pytest.mark.full
def test_an_image_of_another_tab_is_missed_by_its_name(visit: Visits, site: Site) -> None:
    page = visit(site, "/?image=006.jpg").page
    expect(page.locator("#problem")).to_contain_text("not available in this tab")
    expect(page.locator("#problem")).to_contain_text("006.jpg")
    page.goto(f"{site.address}/?q=number&image=006.jpg")
    expect(page.locator("#notes")).to_contain_text("ignored")
    expect(tiles(page)).to_have_count(PAGE)


@pytest.mark.full
def test_a_tab_without_room_for_all_its_images_keeps_the_last(visit: Visits, site: Site, album: Album) -> None:
    page = visit(site).page
    page.evaluate("sessionStorage.setItem('viewfinder-image:earlier', 'data:,' + 'x'.repeat(5 * 1024 * 1024 - 200))")
    chosen(page, album)
    expect(tiles(page).first).to_contain_text("image number 6")
    assert page.evaluate("Object.keys(sessionStorage)") == ["viewfinder-image:006.jpg"]


@pytest.mark.full
def test_a_file_that_is_not_an_image_is_explained(visit: Visits, site: Site, album: Album) -> None:
    here = visit(site, expected=("422",))
    page = here.page
    page.locator("#file").set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"})
    expect(page.locator("#problem")).to_contain_text("This image cannot be read")
    expect(page.locator("#parts img")).to_have_count(0)  # no torn image in its chip
    here.screenshot("no-image")
    with page.expect_file_chooser() as choosing:
        page.get_by_role("button", name="Choose another image").click()
    choosing.value.set_files(album.file(6))
    expect(tiles(page).first).to_contain_text("image number 6")


# --- Filters


def test_filters_combine_and_let_go(visit: Visits, site: Site) -> None:
    here = visit(site, QUERY)
    page = here.page
    asked = searches(page)
    chips = page.get_by_role("group", name="Filters")
    chips.get_by_role("button", name="sea").click()
    expect(chips.get_by_role("button", name="snow")).to_have_count(0)  # no image has both
    chips.get_by_role("button", name="boat").click()
    chips.get_by_role("button", name="png").click()
    expect(page.locator("#status")).to_contain_text("5 images")
    chips.get_by_role("button", name="jpeg").click()
    expect(page.locator("#status")).to_contain_text("25 images")
    here.screenshot("filtered")
    assert asked[-1]["filter"] == {
        "and": [{"tags": {"eq": "sea"}}, {"tags": {"eq": "boat"}}, {"format": {"in": ["png", "jpeg"]}}]
    }
    chips.get_by_role("button", name="2021").click()
    expect(page).to_have_url(re.compile(re.escape("meta.year%3A2021")))
    for name in ("sea", "boat", "png", "jpeg", "2021"):
        chips.get_by_role("button", name=name, pressed=True).click()
    expect(page).to_have_url(site.address + QUERY)


@pytest.mark.full
def test_nothing_found_offers_a_way_out(visit: Visits, site: Site) -> None:
    here = visit(site, f"{QUERY}&f=tags:snow&f=tags:boat")
    page = here.page
    expect(page.locator("#problem")).to_contain_text("No image matches all these filters.")
    here.screenshot("nothing-found")
    page.get_by_role("button", name="Clear the filters").click()
    expect(tiles(page)).to_have_count(PAGE)


# --- By keyboard


def test_the_grid_is_one_stop_that_arrows_move_through(visit: Visits, site: Site) -> None:
    page = visit(site, QUERY).page
    expect(tiles(page)).to_have_count(PAGE)
    assert page.locator('#results a.tile[tabindex="0"]').count() == 1
    tiles(page).first.focus()
    for pressed, index in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("Home", 0)):
        page.keyboard.press(pressed)
        expect(tiles(page).nth(index)).to_be_focused()
    top = "document.activeElement.getBoundingClientRect().top + scrollY"
    first = page.evaluate(top)
    page.keyboard.press("ArrowDown")
    assert page.evaluate(top) > first
    assert page.locator('#results a.tile[tabindex="0"]').count() == 1
    page.keyboard.press("ArrowUp")
    expect(tiles(page).first).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_label("Describe the images to find")).to_be_focused()


@pytest.mark.full
def test_everything_to_press_has_a_name_and_a_visible_focus(visit: Visits, site: Site, album: Album) -> None:
    page = visit(site, f"{QUERY}&like={album.batch.ids[2]}").page
    expect(page.locator("#parts li")).to_have_count(1)
    expect(tiles(page)).to_have_count(PAGE)
    stops = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        stop = page.evaluate(
            "(() => { const at = document.activeElement; const { outlineStyle } = getComputedStyle(at);"
            " const box = at.closest('#search'); return { tag: at.tagName,"
            " seen: outlineStyle !== 'none' || (box !== null && getComputedStyle(box).boxShadow !== 'none'),"
            " name: at.ariaLabel || at.labels?.[0]?.textContent || at.textContent.trim() } })()"
        )
        if stop["tag"] == "BODY":
            break
        assert stop["seen"], stop
        assert stop["name"], stop
        stops.add(stop["tag"])
    assert stops == {"A", "BUTTON", "INPUT", "SELECT"}


@pytest.mark.full
def test_counts_and_problems_are_announced(visit: Visits, site: Site) -> None:
    page = visit(site, QUERY).page
    expect(page.get_by_role("status").first).to_contain_text(f"The best {PAGE} images")
    assert page.locator("#problem").get_attribute("aria-live") == "assertive"
    expect(page.get_by_role("list", name="Images", exact=True)).not_to_have_attribute("aria-busy", "true")


@pytest.mark.full
def test_no_animation_with_reduced_motion(visit: Visits, site: Site) -> None:
    page = visit(site, QUERY, reduced_motion="reduce").page
    expect(tiles(page)).to_have_count(PAGE)
    assert page.evaluate("getComputedStyle(document.querySelector('.frame img')).transitionDuration") in ("0s", "")


# --- When something is wrong


def test_without_an_index_the_command_is_there(visit: Visits, empty_site: Site) -> None:
    here = visit(empty_site, expected=("503",))
    expect(here.page.locator("#problem code").first).to_have_text("viewfinder index s3://bucket/prefix")
    here.screenshot("no-index")


@pytest.mark.full
def test_an_index_that_comes_is_found_by_trying_again(visit: Visits, empty_site: Site, album: Album) -> None:
    page = visit(empty_site, QUERY, expected=("503",)).page
    expect(page.get_by_role("heading", name="There is nothing to search yet")).to_be_visible()
    album.build(empty_site.store)
    empty_site.follower.refresh()
    page.get_by_role("button", name="Try again").click()
    expect(tiles(page)).to_have_count(PAGE)
    expect(page.locator("#problem")).to_be_hidden()


@pytest.mark.full
def test_a_service_that_is_away_is_explained(visit: Visits, site: Site) -> None:
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
@pytest.mark.parametrize("address", ["q=a&like=nonsense", "like=00000000-0000-0000-0000-000000000000"])
def test_an_address_that_cannot_be_asked_leads_back_to_the_start(visit: Visits, site: Site, address: str) -> None:
    page = visit(site, f"/?{address}", expected=("422", "404")).page
    page.get_by_role("button", name="New search").click()
    expect(page).to_have_url(f"{site.address}/")
    expect(tiles(page).first).to_be_visible()
    expect(page.locator("#problem")).to_be_hidden()


def test_a_key_is_asked_for_kept_and_sent_with_images(visit: Visits, locked_site: Site) -> None:
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
