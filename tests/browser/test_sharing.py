"""Links to a search."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.conftest import Album, Site
from tests.browser.elements import PAGE, QUERY, Visits, module, tiles

pytestmark = [pytest.mark.browser, pytest.mark.full]


def test_the_link_of_an_image_search_finds_the_same_elsewhere(visit: Visits, site: Site, album: Album) -> None:
    here = visit(site)
    page = here.page
    page.locator("#file").set_input_files(album.file(6))
    expect(tiles(page).first).to_contain_text("image number 6")
    page.get_by_role("button", name="Share", exact=True).click()
    link = page.get_by_role("textbox", name="Link to this search")
    expect(page.locator("#share-contents")).to_contain_text("a small copy of 006.jpg. Whoever has the link can see it")
    here.screenshot("share")
    address = link.input_value()
    assert len(address) < 5_000
    assert "data%3Aimage" in address.partition("#")[2]  # what stands behind the # is not sent to the service
    page.get_by_label("Include a small copy").uncheck()
    expect(link).to_have_value(f"{site.address}/?image=006.jpg")
    expect(page.locator("#share-contents")).to_contain_text("It does not contain 006.jpg")
    page.keyboard.press("Escape")
    expect(page.locator("#share")).to_be_hidden()

    other = visit(site, address.removeprefix(site.address)).page
    expect(other.locator("#parts img")).to_have_count(1)
    expect(tiles(other).first).to_contain_text("image number 6")
    expect(other).to_have_url(f"{site.address}/?image=006.jpg")
    other.reload()
    expect(tiles(other).first).to_contain_text("image number 6")


def test_the_copy_in_a_link_is_small_for_any_image(visit: Visits, site: Site) -> None:
    page = visit(site).page
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (900, 1200, 3), np.uint8))
    for format in ("PNG", "JPEG"):
        content = io.BytesIO()
        noise.save(content, format)
        given = base64.b64encode(content.getvalue()).decode()
        size, side = module(
            page,
            "uploads.js",
            """await (async () => {
              const bytes = Uint8Array.from(atob(given), (each) => each.charCodeAt(0));
              const copy = await it.smallCopy(new Blob([bytes]));
              return [copy.size, (await createImageBitmap(copy)).width];
            })()""",
            given,
        )
        assert size <= 3_000
        assert side >= 96


@pytest.mark.parametrize("copy", ["data:image/webp;base64,UklG!", "data:text/html,<b>", "x"])
def test_a_link_that_was_damaged_says_that_the_image_is_missing(visit: Visits, site: Site, copy: str) -> None:
    page = visit(site, f"/?image=a.png#copy={copy}").page
    expect(page.locator("#problem")).to_contain_text("not available in this tab")
    expect(page).to_have_url(f"{site.address}/?image=a.png")


def test_a_link_has_the_whole_state_but_no_key_and_no_selection(visit: Visits, site: Site) -> None:
    path = f"{QUERY}&gte=size%3A10&lang=zh#not=s3%3A%2F%2Fb%2Fa.jpg"
    page = visit(site, path).page
    expect(tiles(page)).to_have_count(PAGE)
    tiles(page).first.focus()
    page.keyboard.press("x")
    page.get_by_role("button", name="分享").click()
    expect(page.locator("#share-link")).to_have_value(site.address + path)
    expect(page.locator("#share-contents li")).to_have_count(4)
    expect(page.locator("#share-contents")).to_contain_text(re.compile("不包含你的 API 密钥和已选图片"))
    page.keyboard.press("Escape")
    page.evaluate("location.hash = 'not=s3://b/a.jpg&not=s3://b/b.jpg'")  # another link, opened in the same tab
    expect(page.get_by_role("group", name="已排除")).to_contain_text("2 张图片")
