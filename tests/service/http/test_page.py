"""The files of the web page: size, self-containment, caching, contrast in both colour schemes."""

import gzip
import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.service.conftest import World
from viewfinder.service.http.routes.page import IMMUTABLE, PAGE_DIRECTORY, WebPage

pytestmark = pytest.mark.slow

# Compressed bytes of the whole page, in both languages.
MAX_BYTES = 55_000
LANGUAGES = ("english", "chinese")


def files_of(index: str) -> list[str]:
    return re.findall(r'"(page/[^"]+)"', index)


def test_the_page_is_served_before_there_is_an_index(world: World) -> None:
    answer = world.client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for path in files_of(answer.text):
        assert world.client.get(f"/{path}").status_code == 200


def test_every_path_of_an_image_or_of_the_statistics_names_the_index() -> None:
    """Bodies get the index where they are sent, paths where they are written."""
    found = [
        (path.name, match[0])
        for path in PAGE_DIRECTORY.glob("*.js")
        for match in re.finditer(r".{9}v1/(?:images|stats|models|takedowns)", path.read_text())
        if not path.read_text()[: match.start()].rpartition("\n")[2].lstrip().startswith(("//", "*", "/*"))
    ]
    assert len(found) > 3
    assert [each for each in found if not re.match(r"indexed\([`\"]v1", each[1])] == []


def test_files_are_cached_forever_and_the_page_is_revalidated(world: World) -> None:
    index = world.client.get("/")
    assert index.headers["cache-control"] == "no-cache"
    again = world.client.get("/", headers={"if-none-match": index.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = world.client.get("/", headers={"if-none-match": 'W/"other"'})
    assert other.status_code == 200
    for path in files_of(index.text):
        assert world.client.get(f"/{path}").headers["cache-control"] == IMMUTABLE


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("app.js", "text/javascript; charset=utf-8"),
        ("style.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_files_have_their_types(world: World, name: str, media_type: str) -> None:
    version = WebPage.read().version
    answer = world.client.get(f"/page/{version}/{name}")
    assert answer.headers["content-type"] == media_type
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.content == (PAGE_DIRECTORY / name).read_bytes()


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_files_are_compressed_if_the_browser_accepts_it(world: World, encoding: str) -> None:
    with world.client.stream("GET", "/", headers={"accept-encoding": encoding}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["vary"] == "accept-encoding"
    assert (raw[:2] == b"\x1f\x8b") == (encoding == "gzip")
    assert b"<!doctype html>" in (gzip.decompress(raw) if encoding == "gzip" else raw)


@pytest.mark.parametrize("path", ["0/app.js", "{}/none.js", "{}/index.html", "{}/..%2Fapi.py", "{}/%2Fetc%2Fpasswd"])
def test_other_versions_and_other_files_are_not_found(world: World, path: str) -> None:
    assert world.client.get("/page/" + path.format(WebPage.read().version)).status_code == 404


def test_a_changed_file_changes_the_version(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text('<script src="page/app.js"></script>')
    (tmp_path / "app.js").write_text("one")
    before = WebPage.read(tmp_path)
    (tmp_path / "app.js").write_text("two")
    after = WebPage.read(tmp_path)
    assert before.version != after.version
    assert f'"page/{after.version}/app.js"'.encode() in after.files["index.html"].content


def test_head_has_the_headers_of_get(world: World) -> None:
    assert world.client.head("/").headers["etag"] == world.client.get("/").headers["etag"]


def test_the_page_is_small() -> None:
    assert sum(len(file.compressed) for file in WebPage.read().files.values()) < MAX_BYTES


def test_the_page_has_nothing_inline_and_nothing_from_other_hosts() -> None:
    index = (PAGE_DIRECTORY / "index.html").read_text()
    assert re.findall(r"<style|style=|<script>|\son\w+=|javascript:", index) == []
    for path in PAGE_DIRECTORY.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert re.findall(r"https?://|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text) == [], (
            path
        )


def test_every_module_is_preloaded_and_every_id_exists() -> None:
    index = (PAGE_DIRECTORY / "index.html").read_text()
    scripts = {path.name for path in PAGE_DIRECTORY.glob("*.js")}
    assert {path.removeprefix("page/") for path in files_of(index) if path.endswith(".js")} == scripts
    known = set(re.findall(r'\bid="([\w-]+)"', index))
    for name in scripts:
        used = re.findall(r'byId\("([\w-]+)"\)', (PAGE_DIRECTORY / name).read_text())
        assert set(used) <= known, name


def texts(language: str) -> dict[str, Any]:
    """The texts of the page in one language: each a string, or the forms of its plural."""
    module = (PAGE_DIRECTORY / f"{language}.js").read_text().removeprefix("export default ")
    pairs: list[tuple[str, Any]] = json.loads(module.rstrip().removesuffix(";"), object_pairs_hook=list)
    table = {name: dict(text) if isinstance(text, list) else text for name, text in pairs}
    assert len(table) == len(pairs), "a name is given twice"
    return table


def places(text: Any) -> set[str]:
    """The names of values in a text, in all its forms."""
    return set(re.findall(r"\{(\w+)\}", " ".join(text.values()) if isinstance(text, dict) else text))


def test_both_languages_have_the_same_texts_with_the_same_values() -> None:
    english, chinese = map(texts, LANGUAGES)
    assert list(english) == list(chinese)
    assert {name: places(text) for name, text in english.items()} == {
        name: places(text) for name, text in chinese.items()
    }
    assert all(set(text) == {"one", "other"} for text in english.values() if isinstance(text, dict))
    assert all(set(text) == {"other"} for text in chinese.values() if isinstance(text, dict))
    letters = re.compile(r"[a-z]{4,}")
    untranslated = {name for name, text in english.items() if text == chinese[name] and letters.search(str(text))}
    assert untranslated == set()


def test_every_text_is_used_and_every_used_one_exists() -> None:
    known = texts("english")
    files = [path for path in PAGE_DIRECTORY.iterdir() if path.stem not in LANGUAGES]
    text = "".join(path.read_text() for path in files)
    attributes = set(re.findall(r'data-(?:text|label|title|placeholder)="(\w+)"', text))
    calls = set(re.findall(r'\b(?:say|phrase)\("(\w+)"', text))
    assert attributes | calls <= known.keys()
    composed = ("problem_", "field_", "language_", "dates_", "numbers_", "files_")
    assert {name for name in known if f'"{name}"' not in text and not name.startswith(composed)} == set()


def test_the_errors_of_searches_are_named_in_the_language_of_the_page() -> None:
    codes = {
        "no_index",
        "not_ready",
        "model_unavailable",
        "store_unavailable",
        "store_error",
        "internal_error",
        "timeout",
    }
    codes |= {"unauthorized", "forbidden", "key_filter_mismatch", "rate_limited", "overloaded", "index_not_found"}
    codes |= {"invalid_filter", "invalid_request", "invalid_image", "no_relevance", "words_unavailable", "not_found"}
    codes |= {"image_url_disabled", "forbidden_address", "fetch_failed", "body_too_large", "body_too_slow"}
    codes |= {"invalid_cursor", "timeout", "unreachable"}
    assert {f"problem_{code}" for code in codes} == {name for name in texts("chinese") if name.startswith("problem_")}
    shown = {path.stem: path.read_text().count("error.message") for path in PAGE_DIRECTORY.glob("*.js")}
    # In `problem.js` marked as English, in `app.js` after a text of the page.
    assert {name for name, count in shown.items() if count} == {"app", "problem"}


def test_the_page_itself_has_no_text() -> None:
    index = (PAGE_DIRECTORY / "index.html").read_text()
    body = re.sub(r"<noscript>.*?</noscript>|<svg.*?</svg>", "", index.partition("<body")[2], flags=re.DOTALL)
    written = [text.strip() for text in re.findall(r">([^<]+)<", body) if text.strip()]
    assert written == ["viewfinder", "?"]
    assert re.findall(r'\s(?:aria-label|title|placeholder|alt)="[^"]+"', body) == []


def luminance(color: str) -> float:
    digits = color.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """The ratio of WCAG 2: at least 4.5 for text and 3 for controls."""
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_enough_contrast(scheme: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", (PAGE_DIRECTORY / "style.css").read_text(), re.DOTALL)
    color = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", blocks[scheme]))
    for text, ground in product(("ink", "soft", "accent"), ("paper", "raised", "wash")):
        assert contrast(color[text], color[ground]) >= 4.5, (text, ground)
    assert contrast(color["on-accent"], color["accent"]) >= 4.5
    for ground in ("paper", "raised"):
        assert contrast(color["edge"], color[ground]) >= 3, ground
