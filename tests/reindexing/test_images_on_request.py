"""Images that are indexed on request while the model changes are in the index of the new model."""

import base64
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.fixtures.reindexing import NAMES, Index
from tests.indexing.sample_images import encoded_image, fill
from tests.service.conftest import load, local_client
from viewfinder.service.generation.follower import Follower
from viewfinder.service.generation.models import Models
from viewfinder.service.http.api import build_api
from viewfinder.service.search_service import SearchService
from viewfinder.settings import Settings
from viewfinder.sources.uris import point_id

pytestmark = [pytest.mark.slow, pytest.mark.full]

# Two rounds of the build, because the first one finds new images, and the catch-up.
MINIMUM_LISTINGS = 3


def test_images_that_arrive_during_a_reindex_are_in_the_new_collection(index: Index, tmp_path: Path) -> None:
    world = index.world
    uploads = f"{world.source}-uploads"
    Path(f"{world.bucket}-uploads").mkdir()
    follower = Follower(index.store, world.index, Models(load, batch_size=8), refresh_s=3600)
    service = SearchService(
        index.store,
        [follower],
        Settings.load(index=world.index, uploads_uri=f"{uploads}/from-clients", request_timeout_s=600),
    )
    follower.refresh()
    listings: list[int] = []
    posted: list[str] = []

    def post(client: TestClient, number: int) -> None:
        listings.append(number)
        name = f"new-{number}.jpg"
        fill(world.bucket, [name], first_seed=100 + number)
        sent: dict[str, Any] = {"image": base64.b64encode(encoded_image(200 + number)).decode(), "caption": f"{number}"}
        answer = client.post("/v1/images", json={"images": [{"uri": f"{world.source}/{name}"}, sent]}).json()
        assert answer["indexed"] == 2, answer
        posted.extend(each["id"] for each in answer["images"])

    try:
        with local_client(build_api(service)) as client:
            before = index.live
            assert index.reindex(meanwhile=lambda number: post(client, number)) == 0
            assert index.live.name != before.name
            follower.refresh()
            hits = client.post("/v1/search", json={"text": "anything", "limit": 200}).json()["hits"]
            assert index.reindex() == 0
            assert index.summary["counts"]["unchanged"] == len(hits)
    finally:
        service.close()
    assert len(listings) >= MINIMUM_LISTINGS
    assert {hit["id"] for hit in hits} == {*posted, *(point_id(f"{world.source}/{name}") for name in NAMES)}
    assert f"{uploads}/from-clients" in index.live.recorded.sources
    captions = {hit["caption"] for hit in hits}
    assert captions == {None, *map(str, listings)}
