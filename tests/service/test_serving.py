"""Starting the service on Ray Serve."""

import pytest
from ray.exceptions import GetTimeoutError

from viewfinder.errors import ViewfinderError
from viewfinder.service.serving import translate_start_errors


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (GetTimeoutError("Get timed out: the controller is not ready."), "Get timed out: the controller is not ready."),
        (TimeoutError("Proxies not available after 60s."), "Proxies not available after 60s."),
        (RuntimeError("Deploying application viewfinder failed.\nTraceback: ..."), "viewfinder failed. Try again"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_a_serve_that_does_not_start_is_one_message(error: Exception, reason: str) -> None:
    with pytest.raises(ViewfinderError) as raised, translate_start_errors():
        raise error
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)
