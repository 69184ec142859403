"""Layout of the page, its keys and its accessibility."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import INDEX, SIZES, Album, Site
from tests.browser.elements import PAGE, QUERY, Visits, tiles

pytestmark = pytest.mark.browser

PHONE = {"viewport": {"width": 375, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.full), "dark"])
def test_both_colour_schemes_are_applied(visit: Visits, site: Site, scheme: str) -> None:
    here = visit(site, QUERY, color_scheme=scheme)
    expect(tiles(here.page)).to_have_count(PAGE)
    background = here.page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in re.findall(r"\d+", background)[:3]) / 3
    assert (brightness > 128) == (scheme == "light")
    here.screenshot(f"results-{scheme}")


def test_the_page_fits_a_phone(visit: Visits, site: Site, album: Album) -> None:
    for path, name in (("/", "first-visit"), (QUERY, "results"), (f"{QUERY}&open={album.batch.ids[5]}", "large")):
        here = visit(site, path, **PHONE)
        expect(tiles(here.page).first).to_be_visible()
        here.screenshot(f"phone-{name}")
        for overflowing in ("document.documentElement", "document.getElementById('viewer')"):
            assert here.page.evaluate(f"{overflowing}.scrollWidth <= innerWidth"), name


LONG = "A caption that describes everything in the image, " * 40


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
def test_long_and_missing_captions_keep_the_layout(visit: Visits, site: Site, options: dict[str, Any]) -> None:
    here = visit(site, **options)
    page = here.page
    with_odd_hits(page)
    page.goto(site.address + QUERY)
    expect(tiles(page)).to_have_count(PAGE)
    gaps = """tiles => tiles.map((tile) => {
      const [frame, caption] = [".frame", ".caption"].map((part) => tile.querySelector(part).getBoundingClientRect());
      return [caption.left - frame.left, caption.top - frame.bottom, caption.height].map(Math.round).join();
    })"""
    assert len(set(tiles(page).evaluate_all(gaps))) == 1  # an image without a caption shows its file name
    tiles(page).first.click()
    expect(page.get_by_role("button", name="Less like this")).to_be_visible()
    here.screenshot(f"long-caption-{'phone' if options else 'desk'}")
    assert page.evaluate("document.getElementById('viewer').scrollWidth <= innerWidth")
    if not options:
        expect(page.get_by_role("button", name="Less like this")).to_be_in_viewport()


@pytest.mark.full
def test_names_with_markup_and_control_characters_are_written_out(visit: Visits, site: Site) -> None:
    page = visit(site).page

    def change(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        hit = body["hits"][0]
        hit["uri"], hit["caption"] = "s3://b/\u202egpj.<b>\n.exe", None
        hit["payload"] |= {"tags": ["\u202e<u>tag</u>"], "meta": {"a\u202e": "<i>x</i>", "constructor": "own"}}
        route.fulfill(response=answer, json=body)

    page.route("**/v1/search", change)
    page.goto(site.address + QUERY)
    expect(tiles(page).first).to_contain_text("\\u202egpj.<b>\\u000a.exe")
    tiles(page).first.click()
    for shown in ("s3://b/\\u202egpj.<b>\\u000a.exe", "\\u202e<u>tag</u>", "A\\u202e", "<i>x</i>", "own"):
        expect(page.locator("#v-data")).to_contain_text(shown)
    expect(page.locator("#results :is(b, i, u), #viewer :is(b, i, u)")).to_have_count(0)
    assert "\u202e" not in page.locator("#viewer").inner_text()


@pytest.mark.full
def test_a_phone_does_not_show_the_hint_to_drop_images(visit: Visits, site: Site) -> None:
    for options, visible in (({}, True), (PHONE, False)):
        page = visit(site, **options).page
        expect(page.locator("#about")).to_contain_text(INDEX)
        assert page.get_by_text("You can also drop an image").is_visible() == visible


@pytest.mark.full
def test_rows_are_justified_before_any_image_is_loaded(visit: Visits, site: Site) -> None:
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


def test_the_grid_is_one_tab_stop_with_arrow_keys(visit: Visits, site: Site) -> None:
    page = visit(site, QUERY).page
    expect(tiles(page)).to_have_count(PAGE)
    assert page.locator('#results a.tile[tabindex="0"]').count() == 1
    page.keyboard.press("ArrowRight")
    expect(tiles(page).first).to_be_focused()
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
def test_every_control_has_a_name_and_a_visible_focus(visit: Visits, site: Site, album: Album) -> None:
    page = visit(site, f"{QUERY}&like={album.batch.ids[2]}").page
    expect(page.locator("#parts li")).to_have_count(1)
    expect(tiles(page)).to_have_count(PAGE)
    stops = set()
    page.get_by_role("button", name="Refine").click()
    page.locator(".skip").focus()
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
