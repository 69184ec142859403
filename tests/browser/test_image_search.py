"""Search by image on the page: chosen, dropped and pasted files, and images of the index."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Album, Site
from tests.browser.elements import PAGE, QUERY, Visits, searches, tiles

pytestmark = pytest.mark.browser


def tile_of(page: Page, album: Album, number: int) -> Any:
    return page.locator(f'#results a.tile[href*="open={album.batch.ids[number]}"]')


@pytest.mark.full
def test_more_and_less_like_this_become_parts_of_the_search(visit: Visits, site: Site, album: Album) -> None:
    here = visit(site, f"{QUERY}&open={album.batch.ids[4]}")
    page = here.page
    searched = searches(page)
    page.get_by_role("button", name="More like this").click()
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator("#status")).to_be_focused()
    expect(tile_of(page, album, 4)).to_have_count(0)  # the image itself is left out
    disliked = tiles(page).nth(2).get_attribute("href")
    tiles(page).nth(2).click()
    page.get_by_role("button", name="Less like this", exact=True).click()
    expect(page.locator("#parts li")).to_have_count(2)
    expect(page.locator("#status")).to_contain_text(" ms")
    here.screenshot("more-and-less")
    assert searched[-1]["queries"][1] == {"id": album.batch.ids[4], "weight": 1}
    assert searched[-1]["queries"][2]["id"] in str(disliked)
    assert searched[-1]["queries"][2]["weight"] < 0
    page.get_by_role("button", name="Look for less like this instead").click()
    expect(page.locator("#parts .minus")).to_have_count(2)
    page.get_by_role("button", name="Remove “less like this”").first.click()
    page.get_by_role("button", name="Remove “less like this”").first.click()
    expect(page).to_have_url(site.address + QUERY)


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


@pytest.mark.parametrize("give", [chosen, dropped, pytest.param(pasted, marks=pytest.mark.full)])
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
def test_an_image_and_a_text_are_searched_together(visit: Visits, site: Site, album: Album) -> None:
    page = visit(site).page
    searched = searches(page)
    chosen(page, album)
    expect(page.locator("#parts li")).to_have_count(1)
    page.get_by_label("Describe the images to find").fill("number")
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{site.address}/?q=number&image=006.jpg")
    expect(page.locator("#status")).to_contain_text(" ms")
    assert [sorted(part) for part in searched[-1]["queries"]] == [["text", "weight"], ["image", "weight"]]
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
def test_an_image_chosen_in_another_tab_is_reported_by_name(visit: Visits, site: Site) -> None:
    page = visit(site, "/?image=006.jpg").page
    expect(page.locator("#problem")).to_contain_text("not available in this tab")
    expect(page.locator("#problem")).to_contain_text("006.jpg")
    page.goto(f"{site.address}/?q=number&image=006.jpg")
    expect(page.locator("#notes")).to_contain_text("ignored")
    expect(tiles(page)).to_have_count(PAGE)


@pytest.mark.full
def test_a_tab_without_space_for_all_images_keeps_the_last(visit: Visits, site: Site, album: Album) -> None:
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
    expect(page.locator("#parts img")).to_have_count(0)  # the chip shows no broken image
    here.screenshot("no-image")
    with page.expect_file_chooser() as choosing:
        page.get_by_role("button", name="Choose another image").click()
    choosing.value.set_files(album.file(6))
    expect(tiles(page).first).to_contain_text("image number 6")
