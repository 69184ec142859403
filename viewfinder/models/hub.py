"""Files of the Hugging Face hub, fetched or found in its cache."""

from pathlib import Path
from typing import cast

from viewfinder.errors import UnknownModelError

WAY_OUT = (
    "Name a local checkpoint directory instead, or fill the cache where the hub can be reached and bring it here: "
    "HF_HOME says where it lies, HF_HUB_OFFLINE=1 does without the hub."
)


def download(name: str, repository: str, files: list[str]) -> Path:
    """The folder of the hub's cache with those of these files that the repository has."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    # What its HTTP library raises for a lost connection; which library that is differs between versions of the client.
    transport_error = cast(type[Exception], HfHubHTTPError.__bases__[0])
    # One snapshot call resolves the repository once: hf_hub_download retries an unreachable hub for 23 s a file.
    try:
        return Path(snapshot_download(repository, allow_patterns=files))
    except HFValidationError as error:
        raise UnknownModelError(
            f"Unknown model {name!r}: {repository!r} is no name of a hub repository (ORG/NAME)."
        ) from error
    except RepositoryNotFoundError as error:
        raise UnknownModelError(
            f"Model {name!r}: the Hugging Face hub has no repository {repository!r}, or does not show it without a "
            f"token (HF_TOKEN). {WAY_OUT}"
        ) from error
    except (OSError, transport_error) as error:
        raise UnknownModelError(
            f"Model {name!r}: the Hugging Face hub could not be reached, and its cache on this machine lacks "
            f"{repository!r} ({', '.join(files[:2])}). {WAY_OUT}"
        ) from error
