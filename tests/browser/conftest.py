"""The page in a real browser, before a real service on a loopback port: its images, store and encoder are real."""

import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.indexing.sample_images import encoded_image
from viewfinder.images.decoding import ImageLimits, decode
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.encoder import Encoder
from viewfinder.service.generation.follower import Follower
from viewfinder.service.generation.models import Models
from viewfinder.service.http.api import build_api
from viewfinder.service.search_service import SearchService
from viewfinder.settings import Settings
from viewfinder.sources.uris import canonical_uri, point_id
from viewfinder.store import Collection, Store, StoreAddress, open_local
from viewfinder.store.records import PointBatch
from viewfinder.store.schema import ModelIdentity
from viewfinder.testing.models import tiny_checkpoint

INDEX = "holidays"
COUNT = 100
IMAGES = 7  # the rest are copies by their hash
SIZES = ((96, 64), (64, 64), (48, 72), (120, 60))
TAGS = (["sea"], ["sea", "boat"], ["snow"], [])
MARKUP = "<img src=x onerror=document.title='broken'>"
KEY = "a key for the tests"

# Kept after the run for people to look at.
SCREENSHOTS = Path(__file__).resolve().parents[1] / "output" / "browser"
START_LIMIT_S = 30
WAIT_LIMIT_S = 15  # a busy machine answers late
expect.set_options(timeout=WAIT_LIMIT_S * 1000)


@dataclass
class Album:
    """Images in a directory, with their points."""

    directory: Path
    checkpoint: Checkpoint
    batch: PointBatch

    def file(self, number: int) -> Path:
        return self.directory / f"{number:03}.jpg"

    def build(self, store: Store, index: str = INDEX) -> Collection:
        """Make a live collection of all images."""
        made = store.collections.create(index, ModelIdentity.of(self.checkpoint))
        store.points.upsert(made, self.batch, wait=True)
        store.collections.promote(index, made.name)
        store.collections.add_fields(made, {"meta.season": "keyword", "meta.year": "integer"})
        live = store.collections.live(index)
        assert live is not None
        return live


@dataclass
class Site:
    """A running service."""

    address: str
    store: Store
    followers: Sequence[Follower]

    @property
    def follower(self) -> Follower:
        """The follower of the default index."""
        return self.followers[0]


@dataclass
class Visit:
    """A browser tab on a site. Errors on its console fail the test, except those that are `expected`."""

    page: Page
    site: Site
    errors: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()

    def open(self, path: str = "/") -> None:
        self.page.goto(self.site.address + path)

    def screenshot(self, name: str) -> None:
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_timeout(300)  # images fade in; the screenshot is for people and not part of a test
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")


@pytest.fixture(scope="session")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    directory = tmp_path_factory.mktemp("album")
    checkpoint = locate(str(tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", seed=3)))
    encoder = Encoder.load(checkpoint, device="cpu")
    limits = ImageLimits(10**7, 10**7)
    pixels, payloads = [], []
    for number in range(COUNT):
        width, height = SIZES[number % len(SIZES)]
        content = encoded_image(number, (width, height))
        path = directory / f"{number:03}.jpg"
        path.write_bytes(content)
        pixels.append(decode(content, encoder.preprocess, limits).pixels)
        payloads.append(
            {
                "uri": canonical_uri(str(path)),
                "key": str(path),
                "caption": MARKUP if number == 0 else f"image number {number}",
                "width": width,
                "height": height,
                "format": "png" if number % 5 == 0 else "jpeg",
                "size": len(content),
                "image_hash": str(UUID(int=number % IMAGES)),
                "tags": TAGS[number % len(TAGS)],
                "last_modified": "2024-05-31T12:00:00Z",
                "meta": {"season": ("spring", "autumn")[number % 2], "year": 2020 + number % 3},
            }
        )
    captions, _ = encoder.encode_texts([payload["caption"] for payload in payloads])
    ids = [point_id(payload["uri"]) for payload in payloads]
    images = encoder.encode_images(np.stack(pixels))
    return Album(directory, checkpoint, PointBatch(ids, payloads, image=images, caption=captions))


@contextmanager
def serving(directory: Path, album: Album | None, *others: str, **settings: Any) -> Iterator[Site]:
    """A service over a store in `directory`, with the album or without any index, until the block ends.

    `others` are further indexes that it answers.
    """
    with ExitStack() as closing:
        store = open_local(StoreAddress(data_dir=directory))
        models = Models(lambda checkpoint: Encoder.load(checkpoint, device="cpu"), batch_size=8)
        # Tests call `refresh` themselves.
        followers = [Follower(store, each, models, refresh_s=3600) for each in (INDEX, *others)]
        service = SearchService(store, followers, Settings.load({}, index=INDEX, **settings))
        closing.callback(service.close)
        if album:
            album.build(store)
        for each in followers:
            each.refresh()
        server = uvicorn.Server(uvicorn.Config(build_api(service), port=0, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run)
        thread.start()
        closing.callback(thread.join)
        closing.callback(setattr, server, "should_exit", True)
        deadline = time.monotonic() + START_LIMIT_S
        while not server.started:
            assert thread.is_alive(), "The server did not start."
            assert time.monotonic() < deadline, "The server did not start in time."
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Site(f"http://127.0.0.1:{port}", store, followers)


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory, album: Album) -> Iterator[Site]:
    """A site for tests that only read."""
    with serving(tmp_path_factory.mktemp("store"), album) as running:
        yield running


@pytest.fixture
def own_site(tmp_path: Path, album: Album) -> Iterator[Site]:
    """A site for one test that changes the index."""
    with serving(tmp_path, album) as running:
        yield running


@pytest.fixture
def empty_site(tmp_path: Path) -> Iterator[Site]:
    """A site without an index."""
    with serving(tmp_path, None) as running:
        yield running


@pytest.fixture
def locked_site(tmp_path: Path, album: Album) -> Iterator[Site]:
    """A site that requires a key."""
    with serving(tmp_path, album, api_keys=hashlib.sha256(KEY.encode()).hexdigest()) as running:
        yield running


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable)
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Opens tabs: `visit(site, path, **options)`; the options are those of a browser context.

    `script` runs before those of the page.
    """
    visits: list[tuple[Visit, BrowserContext]] = []

    def open_tab(
        site: Site, path: str = "/", *, expected: tuple[str, ...] = (), script: str = "", **options: Any
    ) -> Visit:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        context.add_init_script(script)
        made = Visit(context.new_page(), site, expected=expected)
        made.page.set_default_timeout(WAIT_LIMIT_S * 1000)
        made.page.on("console", lambda line: made.errors.append(line.text) if line.type == "error" else None)
        made.page.on("pageerror", lambda error: made.errors.append(str(error)))
        visits.append((made, context))
        made.open(path)
        return made

    yield open_tab
    errors = []
    for made, context in visits:
        errors += [each for each in made.errors if not any(part in each for part in made.expected)]
        context.close()
    assert not errors
