"""Advice on the command line after a failed search."""

import pytest

from viewfinder.cli.advice import advice
from viewfinder.errors import ConfigurationError, FilterError, ServiceError, ServiceUnavailableError, ViewfinderError
from viewfinder.query.errors import AddressError, QueryImageError, UnknownImageError

ID = "6701f23b-0000-5000-8000-000000000000"
UNKNOWN = f"id: the index holds no image {ID!r}."


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            QueryImageError.of("image_url", AddressError("forbidden_address", "The address is not a URL.")),
            "image_url: The address is not a URL. Pass a file with --image.",
        ),
        (
            ServiceError("fetch_failed", "image_url: reading failed.", "Send it to POST /v1/search/image.", "r", 422),
            "image_url: reading failed. Pass a file with --image. (fetch_failed, request r)",
        ),
        (
            ServiceError("invalid_request", "offset: too large", "GET /docs lists the fields.", "", 422),
            "offset: too large. See 'viewfinder search --help'. (invalid_request)",
        ),
        (UnknownImageError(ID), "--id: the index holds no image 'photos/x.png'."),
        (ServiceError("not_found", UNKNOWN, "Use the id of a hit.", "", 404), "no image 'photos/x.png'."),
        (FilterError("Unknown field 'widht'."), "Unknown field 'widht'."),
    ],
)
def test_the_advice_is_about_the_command(error: ViewfinderError, says: str) -> None:
    with pytest.raises(ViewfinderError) as raised, advice(given_id="photos/x.png"):
        raise error
    assert says in str(raised.value)
    assert not any(word in str(raised.value) for word in ("POST", "GET", ID))
    assert raised.value.exit_status == error.exit_status


@pytest.mark.parametrize("kind", [ServiceError, ServiceUnavailableError])
def test_the_kind_of_error_stays(kind: type[ServiceError]) -> None:
    with pytest.raises(ServiceError) as raised, advice():
        raise kind("timeout", "No answer.", "Try again.", "r", 504)
    assert type(raised.value) is kind
    assert str(raised.value) == "No answer. Try again. (timeout, request r)"


def test_a_wrong_setting_is_unchanged() -> None:
    with pytest.raises(ConfigurationError, match=r"^wrong$"), advice():
        raise ConfigurationError("wrong")
