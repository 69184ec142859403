"""A page of a service with several indexes."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Request, expect

from tests.browser.conftest import INDEX, Album, serving
from tests.browser.elements import Visits, tiles

pytestmark = [pytest.mark.browser, pytest.mark.full]


def named(request: Request) -> bool:
    """True for a request about the index `drawings`."""
    if request.method == "GET":
        return parse_qs(urlsplit(request.url).query).get("index") == ["drawings"]
    return b'"index":"drawings"' in (request.post_data_buffer or b"")


def test_another_index_is_chosen_and_everything_is_asked_of_it(visit: Visits, album: Album, tmp_path: Path) -> None:
    with serving(tmp_path, album, "drawings", "empty") as site:
        album.build(site.store, "drawings")
        for each in site.followers:
            each.refresh()
        here = visit(site)
        page = here.page
        choice = page.get_by_role("combobox", name="Index", exact=True)
        expect(choice).to_have_value(INDEX)
        expect(page.locator("#about")).to_contain_text(INDEX)
        choice.select_option("drawings")
        expect(page).to_have_url(f"{site.address}/?index=drawings")
        expect(page.locator("#about")).to_contain_text("drawings")
        asked: list[Request] = []
        page.on("request", lambda request: asked.append(request) if "/v1/" in request.url else None)
        expect(choice).to_have_value("drawings")
        here.screenshot("indexes")
        page.get_by_role("searchbox").fill("image number 6")
        page.keyboard.press("Enter")
        expect(page).to_have_url(f"{site.address}/?index=drawings&q=image+number+6")
        tiles(page).first.click()
        expect(page.locator("#viewer")).to_be_visible()
        page.keyboard.press("Escape")
        page.locator("#brand").click()
        expect(page).to_have_url(f"{site.address}/?index=drawings")
        with page.expect_response("**/v1/search/image") as uploaded:
            page.locator("#file").set_input_files(album.file(6))
        assert uploaded.value.json()["collection"].startswith("drawings__"), "its body is not shown to scripts"
        expect(tiles(page).first).to_contain_text("image number 6")
        here.screenshot("indexes-results")
        unnamed = [each.url for each in asked if not named(each)]
        assert len(asked) > 10
        assert {each.removeprefix(site.address) for each in unnamed} == {"/v1/search/image"}

        lost = visit(site, "/?index=nothing", expected=("404",)).page
        expect(lost.locator("#problem")).to_contain_text(
            "there is no index 'nothing'; known are 'holidays', 'drawings'"
        )
        expect(lost.get_by_role("combobox", name="Index", exact=True)).to_be_visible()


def test_a_service_of_one_index_offers_no_choice(visit: Visits, album: Album, tmp_path: Path) -> None:
    with serving(tmp_path, album) as site:
        page = visit(site).page
        expect(page.locator("#about")).to_contain_text(INDEX)
        expect(page.locator("#index")).to_be_hidden()
