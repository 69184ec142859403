"""Starting the service on Ray Serve."""

from types import SimpleNamespace

import pytest
from ray.exceptions import GetTimeoutError

from viewfinder.errors import ViewfinderError
from viewfinder.service.serving import translate_start_errors


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (GetTimeoutError("Get timed out: the controller is not ready."), "the controller is not ready. Try again when"),
        (TimeoutError("Proxies not available after 60s."), "Proxies not available after 60s. Try again when"),
        (RuntimeError("Deploying application viewfinder failed.\nTraceback: ..."), "viewfinder failed. Ray's logs are"),
        (TimeoutError(), "TimeoutError. Try again when"),
    ],
)
def test_a_serve_that_does_not_start_is_one_message(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(ViewfinderError) as raised, translate_start_errors():
        raise error
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


# As Ray Serve reports it.
FAILED = """The deployment failed to start 3 times in a row. This may be due to a problem with its constructor. Error:
ray::ServeReplica:viewfinder:Replica.initialize_and_get_metadata() (pid=1, ip=10.0.0.1, actor_id=2)
  File "/opt/viewfinder/models/devices.py", line 44, in choose_device
    raise ConfigurationError(
viewfinder.errors.ConfigurationError: The device 'cuda' is not available. Choose 'cpu' or 'auto'.
"""


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (FAILED, "on Ray Serve: The device 'cuda' is not available. Choose 'cpu' or 'auto'. Ray's logs are in"),
        ("", "on Ray Serve: Deploying application viewfinder failed. Ray's logs are in"),
    ],
)
def test_the_reason_of_a_replica_is_named(message: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Regression: only Serve's own error was printed, which has no reason, and the advice to try again.
    healthy, failed = SimpleNamespace(message=""), SimpleNamespace(message=message)
    application = SimpleNamespace(deployments={"proxy": healthy, "replica": failed})
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.serve.status", lambda: SimpleNamespace(applications={"viewfinder": application}))
    with pytest.raises(ViewfinderError) as raised, translate_start_errors():
        raise RuntimeError("Deploying application viewfinder failed")
    assert says in str(raised.value)
