"""The languages of the page, and its help."""

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import INDEX, Album, Site
from tests.browser.elements import PAGE, QUERY, Visits, searches, tiles
from viewfinder.service.http.routes.page import PAGE_DIRECTORY

pytestmark = pytest.mark.browser


def test_the_page_speaks_the_language_of_the_browser_and_can_be_switched(visit: Visits, site: Site) -> None:
    here = visit(site, QUERY, locale="zh-CN")
    page = here.page
    expect(tiles(page)).to_have_count(PAGE)
    expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
    expect(page.locator("#status")).to_contain_text("最相关的 40 张图片")
    tiles(page).first.focus()
    page.keyboard.press("x")
    here.screenshot("chinese")
    searched = searches(page)
    page.get_by_role("button", name="EN").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.locator("#status")).to_contain_text("The best 40 images")
    expect(page.locator("#selected")).to_have_text("1 image selected")
    expect(page).to_have_url(f"{site.address}{QUERY}&lang=en")
    assert searched == []  # only the texts change
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_contain_text("Select all from the last selected image")
    here.screenshot("help")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="viewfinder, start page").click()
    expect(page.get_by_role("heading", name="Describe what you are looking for.")).to_be_visible()
    expect(page).to_have_url(f"{site.address}/?lang=en")


def marked_texts(route: Route) -> None:
    """The English texts, each between marks."""

    def marked(text: Any) -> Any:
        if not isinstance(text, str):
            return {form: marked(each) for form, each in text.items()}
        parts = [part for part in re.split(r"(\{\w+\})", text) if part]
        return "".join(part if part.startswith("{") else f"⟦{part}⟧" for part in parts)

    text = (PAGE_DIRECTORY / "english.js").read_text().removeprefix("export default ").rstrip().removesuffix(";")
    table = {name: marked(each) for name, each in json.loads(text).items()}
    route.fulfill(content_type="text/javascript", body=f"export default {json.dumps(table)};")


VISIBLE_TEXTS = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.nodeType === Node.TEXT_NODE ? node.parentElement : node;
    if (element.closest("script, noscript, svg, kbd") || !element.checkVisibility()) continue;
    if (node.nodeType === Node.TEXT_NODE) found.push(node.data);
    else for (const name of ["aria-label", "title", "placeholder", "alt"]) found.push(element.getAttribute(name) ?? "");
  }
  return found;
}"""
# What the index says, units and dates as the browser writes them, and names.
DATA = re.compile(
    r"image number|<img src=x onerror=document.title='broken'>|sea|boat|snow|jpeg|png|JPEG|PNG|Season|Year|autumn"
    rf"|spring|{INDEX}|viewfinder|file://\S*|s3:\S*|/\S*|\b(ms|kB|bytes|byte|May)\b|EN|中文"
)


def outside(page: Page) -> list[str]:
    """The visible texts that are neither from the table nor data."""
    left = []
    for text in page.evaluate(VISIBLE_TEXTS):
        rest = text
        while (inner := re.sub(r"⟦[^⟦⟧]*⟧", "", rest)) != rest:
            rest = inner
        if re.search(r"[^\W\d_]", DATA.sub("", rest)):
            left.append(text)
    return left


@pytest.mark.full
def test_every_visible_text_comes_from_the_table(visit: Visits, site: Site, album: Album) -> None:
    here = visit(site, expected=("400", "404", "422"))
    page = here.page
    page.route("**/english.js", marked_texts)
    like = album.batch.ids[1]
    places = ["/", QUERY, f"{QUERY}&without=sea&like={like}&unlike={album.batch.ids[2]}&gte=size:10&group=tags"]
    places += [f"{QUERY}&open={like}", f"{QUERY}&f=tags:snow&f=tags:boat", "/?image=sea", f"{QUERY}#not=s3:boat"]
    for path in places:
        page.goto("about:blank")
        page.goto(site.address + path)
        page.wait_for_load_state("networkidle")
        expect(page.locator("#end p, #problem h2, #about").first).to_be_attached()
        assert outside(page) == [], path
    page.goto(site.address + QUERY)
    expect(tiles(page)).to_have_count(PAGE)
    page.locator("#refine-toggle").click()
    page.locator("#results .check").first.check()
    page.wait_for_load_state("networkidle")
    for opener, dialog in (("#help-open", "#help"), ("#share-open", "#share")):
        page.locator(opener).click()
        expect(page.locator(dialog)).to_be_visible()
        page.locator("#share-link").evaluate("box => box.value = ''")
        assert outside(page) == []
        page.keyboard.press("Escape")
    assert "⟦" in page.locator("#selected").inner_text()
