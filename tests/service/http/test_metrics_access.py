"""Access to the metrics."""

import hashlib

import pytest

from tests.service.conftest import World
from tests.service.http.guarded import ADMIN_KEY, KEYS, READ_KEY

pytestmark = pytest.mark.slow

METRICS_KEY = "metrics-key-" + "m" * 32
DIGEST = hashlib.sha256(METRICS_KEY.encode()).hexdigest()


class TestWithKeys:
    @pytest.fixture
    def configured(self) -> dict[str, object]:
        return {"api_keys": f"{KEYS},{DIGEST}:metrics"}

    @pytest.mark.parametrize(("key", "status"), [(READ_KEY, 403), (ADMIN_KEY, 200), (METRICS_KEY, 200), ("", 401)])
    def test_metrics_need_a_key_of_their_own_or_an_admin_key(self, world: World, key: str, status: int) -> None:
        """Regression: every key that may search showed the traffic of all others."""
        assert world.client.get("/metrics", headers={"x-api-key": key}).status_code == status

    @pytest.mark.parametrize("path", ["/v1/stats", "/v1/search?q=cat", "/v1/takedowns", "/nothing", "/metrics/"])
    def test_a_key_for_metrics_allows_nothing_else(self, served: World, path: str) -> None:
        answer = served.client.get(path, headers={"x-api-key": METRICS_KEY})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")

    def test_a_key_for_metrics_takes_nothing_down(self, served: World) -> None:
        path = "/v1/images/0e9c1f5e-5f4f-5b52-9d6b-6a1f8f1c2f0a"
        assert served.client.delete(path, headers={"x-api-key": METRICS_KEY}).status_code == 403


class TestAnonymous:
    @pytest.fixture
    def configured(self) -> dict[str, object]:
        return {"allow_anonymous": True}

    def test_anonymous_clients_do_not_read_metrics(self, world: World) -> None:
        assert world.client.get("/metrics").status_code == 403


def test_without_keys_this_machine_reads_metrics(world: World) -> None:
    assert world.client.get("/metrics").status_code == 200
