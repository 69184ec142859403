"""CORS: pages of other sites are refused unless the settings allow them."""

import pytest

from tests.service.conftest import World

pytestmark = pytest.mark.slow

ORIGIN = "https://gallery.example"
PREFLIGHT = {"origin": ORIGIN, "access-control-request-headers": "x-api-key"}


class TestClosed:
    def test_responses_allow_no_other_site(self, served: World) -> None:
        answer = served.client.get("/v1/stats", headers={"origin": "http://localhost:3000"})
        assert answer.status_code == 200, "other programs on this machine may use the API"
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"

    def test_preflights_are_refused(self, served: World) -> None:
        answer = served.client.options("/v1/search", headers=PREFLIGHT | {"access-control-request-method": "POST"})
        assert answer.status_code >= 400
        assert "access-control-allow-origin" not in answer.headers


class TestOpen:
    @pytest.fixture
    def configured(self) -> dict[str, object]:
        return {"cors_origins": f"{ORIGIN}, http://localhost:3000"}

    def test_an_allowed_site_may_search_and_read_errors(self, served: World) -> None:
        preflight = served.client.options("/v1/search", headers=PREFLIGHT | {"access-control-request-method": "POST"})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == ORIGIN
        for body, status in (({"text": "a cat"}, 200), ({}, 422)):
            answer = served.client.post("/v1/search", json=body, headers={"origin": ORIGIN})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, ORIGIN)
            assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
            assert "access-control-allow-credentials" not in answer.headers

    def test_the_headers_of_openais_sdk_are_allowed(self, served: World) -> None:
        """Regression: the preflight failed, so the SDK could not be used in a page."""
        asked = "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,x-stainless-retry-count"
        headers = PREFLIGHT | {"access-control-request-method": "POST", "access-control-request-headers": asked}
        preflight = served.client.options("/v1/embeddings", headers=headers)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-headers"] == asked

    def test_an_allowed_site_cannot_take_images_down(self, served: World) -> None:
        path = "/v1/images/0e9c1f5e-5f4f-5b52-9d6b-6a1f8f1c2f0a"
        preflight = served.client.options(path, headers=PREFLIGHT | {"access-control-request-method": "DELETE"})
        assert preflight.status_code == 400

    def test_a_site_that_is_not_listed_is_refused(self, served: World) -> None:
        answer = served.client.post("/v1/search", json={"text": "a cat"}, headers={"origin": "https://evil.example"})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
