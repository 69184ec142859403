"""Selecting images on the page, and what is done with them."""

import csv
import io
import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Site
from tests.browser.elements import PAGE, QUERY, Visits, module, searches, tiles

pytestmark = pytest.mark.browser


def downloaded(page: Page, button: str) -> str:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return Path(download.value.path()).read_text(encoding="utf-8-sig")


def test_selected_images_are_downloaded_or_excluded(visit: Visits, site: Site) -> None:
    here = visit(site, QUERY)
    page = here.page
    expect(tiles(page)).to_have_count(PAGE)
    shown = page.eval_on_selector_all("#results .caption", "all => all.map(({ textContent }) => textContent)")
    boxes = page.locator("#results .check")
    tiles(page).nth(1).focus()
    page.keyboard.press("x")
    expect(boxes.nth(1)).to_be_checked()
    tiles(page).nth(3).click(modifiers=["Shift"])
    expect(page.locator("#selected")).to_have_text("3 images selected")
    boxes.nth(2).uncheck()
    expect(page.locator("#selected")).to_have_text("2 images selected")
    here.screenshot("selected")
    listed = json.loads(downloaded(page, "Download JSON"))
    rows = list(csv.DictReader(io.StringIO(downloaded(page, "Download CSV"), newline="")))
    assert [row["caption"] for row in rows] == [hit["caption"] for hit in listed] == [shown[1], shown[3]]
    assert [row["uri"] for row in rows] == [hit["uri"] for hit in listed]
    searched = searches(page)
    page.get_by_role("button", name="Exclude").click()
    expect(page.locator("#selection")).to_be_hidden()
    expect(page.get_by_role("group", name="Excluded")).to_contain_text("2 images")
    expect(page.locator("#status")).to_contain_text(" ms")
    assert searched[-1]["filter"] == {"and": [{"not": {"uri": {"in": [hit["uri"] for hit in listed]}}}]}
    left = page.locator("#results .caption").all_text_contents()
    assert not {shown[1], shown[3]} & set(left)
    page.reload()
    expect(page.get_by_role("group", name="Excluded")).to_contain_text("2 images")


@pytest.mark.full
def test_a_selection_stays_through_other_searches(visit: Visits, site: Site) -> None:
    page = visit(site, QUERY).page
    expect(tiles(page)).to_have_count(PAGE)
    page.get_by_role("button", name="Refine").focus()
    tiles(page).first.click()
    page.keyboard.press("x")
    expect(page.get_by_role("button", name="Select", exact=True, pressed=True)).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#selected")).to_have_text("1 image selected")
    page.get_by_role("group", name="Filters").get_by_role("button", name="snow").click()
    expect(tiles(page)).to_have_count(25)
    page.get_by_role("button", name="Select all 25 on the page").click()
    kept = page.locator("#selected").text_content()
    assert kept in ("25 images selected", "26 images selected")
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(page.locator("#selection")).to_be_hidden()
    expect(page.locator("#results .check:checked")).to_have_count(0)


@pytest.mark.full
def test_a_csv_is_quoted_and_runs_no_formula(visit: Visits, site: Site) -> None:
    page = visit(site).page
    captions = [
        'says "hello", twice',
        "two\r\nlines",
        "=HYPERLINK(1)",
        "+1",
        "-1",
        "@SUM(A1)",
        " =1",
        "\t=1",
        "＝1",
        "海滩; 猫",
        "",
        " spaces ",
    ]
    hits = [{"uri": "s3://b/ä,1.jpg", "id": "1", "caption": each, "score": -0.25, "more": 1} for each in captions]
    text = module(page, "export.js", "it.toCsv(given)", hits)
    assert text.startswith("\ufeff")
    rows = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline="")))
    assert [row["caption"] for row in rows] == [
        f"'{each}" if each.strip().startswith(("=", "+", "-", "@", "＝")) else each for each in captions
    ]
    assert {(row["uri"], row["score"], row["width"]) for row in rows} == {("s3://b/ä,1.jpg", "-0.25", "")}
    assert text.count("\r\n") == len(captions) + 1 + 1  # and that in the caption of two lines
