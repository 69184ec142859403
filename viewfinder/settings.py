"""What can be configured, in one frozen record read once from the environment at the edge of a program.

A program calls `Settings.load()` in its `main()` or builder and passes values down; no other module reads the
environment. `docs/configuration.md` lists every field; a test holds the two together.
"""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from viewfinder.errors import ConfigurationError

PREFIX = "VIEWFINDER_"

# Qdrant takes more, but an index name stands in aliases, file names and shell lines.
INDEX_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"

KEY_PATTERN = re.compile(r"([0-9a-f]{64})(:admin)?")
# As browsers send it: no path, no slash at the end.
ORIGIN_PATTERN = re.compile(r"https?://[^/?#@\s]+")


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"there is no such user's home directory on this machine: {str(path)!r}") from error


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Quantization = Literal["none", "int8", "4bit"]


class Settings(BaseSettings):
    """All settings with their defaults; each is set by `VIEWFINDER_<NAME>`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, validate_default=True
    )

    # What is indexed, and where it is kept
    model: str = Field(
        "ViT-B-32::openai",
        min_length=1,
        description="CLIP model of the first index, and what a re-index aims at: ARCH::TAG, hf-hub:ORG/NAME, "
        "a local checkpoint directory, `demo` or `demo-small`.",
    )
    index: str = Field("images", pattern=INDEX_PATTERN, description="Name of the index; the alias in Qdrant.")
    data_dir: AbsolutePath = Field(
        Path("~/.viewfinder"),
        description="Directory of the embedded store, caches and run reports, absolute, on the head node.",
    )

    # Qdrant
    qdrant_url: str | None = Field(
        None, description="Address of a Qdrant server. Unset: the embedded store in `DATA_DIR/qdrant`."
    )
    qdrant_api_key: SecretStr | None = Field(None, description="Qdrant's API key or token.")
    qdrant_grpc: bool = Field(False, description="Write to Qdrant by gRPC instead of REST.")
    qdrant_timeout_s: float = Field(60.0, gt=0, le=3600, description="Time limit of one request to Qdrant, in seconds.")
    qdrant_retry_s: float = Field(
        120.0, ge=0, le=86_400, description="How long a job goes on retrying an unavailable Qdrant, in seconds."
    )

    quantization: Quantization = Field(
        "none",
        description="How a Qdrant server holds the vectors of collections made from now on: float32 (`none`), `int8` "
        "or `4bit` in memory beside float32 on disk. The embedded store has float32 alone.",
    )

    # S3
    s3_endpoint_url: str | None = Field(
        None,
        description="Address of an S3-compatible endpoint. Unset: AWS. Credentials, region and profile come from "
        "boto3's own chain.",
    )
    s3_anonymous: bool = Field(False, description="Read public buckets without signing requests.")

    # Ray
    ray_address: str | None = Field(
        None, validation_alias="RAY_ADDRESS", description="Ray cluster to join. Unset: one on this machine."
    )

    # Limits of one picture
    max_image_bytes: int = Field(
        100 * 1024**2, ge=1024, description="Larger objects are recorded as failures and not fetched, in bytes."
    )
    max_image_pixels: int = Field(
        200_000_000, ge=4096, description="Larger pictures are recorded as failures before they are decoded, in pixels."
    )
    max_query_image_bytes: int = Field(
        20 * 1024**2, ge=1024, description="Larger pictures in queries are refused, sent or fetched, in bytes."
    )
    decode_timeout_s: float = Field(20.0, gt=0, le=600, description="Time limit for decoding one picture, in seconds.")
    decode_memory_bytes: int = Field(
        2 * 1024**3, ge=256 * 1024**2, description="Memory limit of a decoder process, in bytes."
    )

    # The pipeline
    fetch_batch_size: int = Field(
        64, ge=1, le=4096, description="Objects that one fetch-and-decode task holds at once."
    )
    fetch_threads: int = Field(16, ge=1, le=256, description="Concurrent reads of one fetch-and-decode task.")
    encode_batch_size: int | None = Field(
        None,
        ge=1,
        le=8192,
        description="Pictures of one batch, which an encoder's CPU cores divide. Unset: 256 on a GPU, 32 a core.",
    )
    encoders: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Encoder actors. Unset: one for each GPU of the cluster, without GPUs one for every 8 cores.",
    )
    write_batch_size: int = Field(128, ge=1, le=2048, description="Points of one upsert (the embedded store takes 32).")
    writers: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Concurrent streams of upserts into Qdrant. Unset: 4 with GPUs, else one for 4 cores, up to 4.",
    )

    # The encoder
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where the encoder runs.")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Weights of the encoder. `auto`: bfloat16 on GPUs and CPUs that compute in it; old GPUs float16.",
    )

    # The service
    host: str = Field(
        "127.0.0.1", description="Address of `make demo`; `serve run` takes its own from a Serve configuration."
    )
    port: int = Field(
        8000, ge=0, le=65_535, description="Port of `make demo`, and what `doctor` looks at; 0 takes a free one."
    )
    min_replicas: int = Field(1, ge=0, le=1000, description="Least number of service replicas.")
    max_replicas: int = Field(4, ge=1, le=1000, description="Largest number of service replicas.")
    replica_cpus: float = Field(1.0, gt=0, le=256, description="CPU cores of one replica.")
    replica_gpus: float = Field(0.0, ge=0, le=16, description="GPUs of one replica, fractions allowed.")
    batch_size: int = Field(16, ge=1, le=512, description="Most queries that a replica encodes in one batch.")
    queue_size: int = Field(
        256, ge=1, le=100_000, description="Requests that may wait in a replica; beyond it the answer is 503."
    )
    request_timeout_s: float = Field(30.0, gt=0, le=3600, description="Time limit of one request, in seconds.")
    refresh_s: float = Field(5.0, gt=0, le=3600, description="How often a replica looks for a moved alias, in seconds.")
    grace_s: float = Field(
        300.0,
        ge=0,
        le=86_400,
        description="How long a replica keeps the collection and model that it served before, for cursors, in seconds.",
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="SHA-256 hex digests of the API keys, separated by commas; `:admin` behind one grants takedowns.",
    )
    allow_anonymous: bool = Field(
        False, description="Let whoever reaches the service search without a key; takedowns still need an admin key."
    )
    allow_image_url: bool = Field(
        False, description="Let the service fetch pictures from public addresses (`image_url`)."
    )
    max_body_bytes: int = Field(
        30 * 1024**2, ge=1024, le=1024**3, description="Larger request bodies are refused with 413, in bytes."
    )
    requests_per_minute: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Requests a minute of one API key, or one address without keys, to each replica. Unset: no limit.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins (`https://host`) whose pages may call the service, separated by commas; `*` means all.",
    )
    fast_proxy: bool = Field(
        False,
        validation_alias="RAY_SERVE_ENABLE_HA_PROXY",
        description="Ray Serve's fast proxy, which listens on all addresses; set before `ray start`, on every node.",
    )

    thumbnailers: int = Field(
        1, ge=1, le=64, description="Processes of a replica that make thumbnails, at a lower priority than searches."
    )
    thumbnail_cache_bytes: int = Field(
        64 * 1024**2, ge=0, le=64 * 1024**3, description="Thumbnails that a replica keeps in memory, in bytes."
    )

    # The command line
    server: str = Field("http://localhost:8000", description="Address of the service that `viewfinder` asks.")
    api_key: SecretStr | None = Field(None, description="API key that `viewfinder` sends to that service.")

    @field_validator("api_keys", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("api_keys")
    @classmethod
    def _digests(cls, entries: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        # Which entry, not what it holds: somebody who pastes a key instead of its digest shall not find it in a log.
        digests = []
        for number, entry in enumerate(entries, start=1):
            if not (match := KEY_PATTERN.fullmatch(entry.get_secret_value().lower())):
                raise ValueError(
                    f"entry {number} of {len(entries)} is not the SHA-256 digest of a key, 64 hex digits with or "
                    "without ':admin' behind; make one with: printf %s \"$KEY\" | sha256sum"
                )
            digests.append(match[1])
            if match[1] in digests[:-1]:
                raise ValueError(f"entry {number} of {len(entries)} has the digest of an earlier one")
        return tuple(SecretStr(entry.get_secret_value().lower()) for entry in entries)

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not ORIGIN_PATTERN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not an origin, as https://example.org or http://localhost:3000")
        return origins

    @field_validator("qdrant_url", "s3_endpoint_url", "server")
    @classmethod
    def _http_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError(f"must begin with http:// or https://, not {value!r}")
        return value

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None, **overrides: object) -> "Settings":
        """Read the environment, with `overrides` (those that are not None) going first.

        `environment` is only looked through for misspelled names; pydantic reads the process's own.
        Raises `ConfigurationError` naming every problem at once.
        """
        problems = _unknown_names(os.environ if environment is None else environment)
        try:
            given = {name: value for name, value in overrides.items() if value is not None}
            settings = cls(**given)  # type: ignore[arg-type]  # pydantic checks them, and that is what is asked here
        except ValidationError as error:
            problems += [_problem(detail) for detail in error.errors()]
        if problems:
            raise ConfigurationError("\n".join(["The configuration is wrong:", *(f"  {line}" for line in problems)]))
        return settings


def _unknown_names(environment: Mapping[str, str]) -> list[str]:
    # pydantic's extra="forbid" does not look at the environment: a misspelled name would be ignored.
    fields = Settings.model_fields.items()
    known = [PREFIX + name.upper() for name, field in fields if field.validation_alias is None]
    lines = []
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else "docs/configuration.md lists all of them."
            lines.append(f"{name}: no such setting; {hint}")
    return lines


def _problem(detail: Mapping[str, object]) -> str:
    location = detail["loc"]
    name = str(location[0]) if isinstance(location, tuple) and location else "?"
    secret = name in ("qdrant_api_key", "api_keys", "api_key")
    message = str(detail["msg"]).removeprefix("Value error, ")
    value = repr(str(detail["input"]))
    given = "" if secret or value in message else f" (given: {value})"
    variable = name if name.isupper() else PREFIX + name.upper()
    return f"{variable}: {message[0].lower()}{message[1:]}{given}"
