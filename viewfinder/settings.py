"""All settings, in one frozen record that a program builds once at its entry point.

A program calls `Settings.load()` in its `main()` or builder and passes values down. `viewfinder.environment` reads the
values; `docs/configuration.md` lists every field, and a test compares both.
"""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from viewfinder.environment import read_environment
from viewfinder.errors import ConfigurationError
from viewfinder.keys_file import read_keys

DEFAULT_SERVER = "http://localhost:8000"
DEFAULT_GRACE_S = 300.0

# Qdrant allows more, but index names appear in aliases, file names and shell commands.
INDEX_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
INDEX_RULE = "1 to 63 lower-case letters, digits, '-' or '_', of which the first is a letter or digit"

MIN_CURSOR_KEY = 16
KEY_PATTERN = re.compile(r"([0-9a-f]{64})(:admin|:metrics)?")
RAY_ADDRESS_PATTERN = re.compile(r"auto|local|[\w.-]+:\d+|\[[0-9a-fA-F:]+\]:\d+")
# As browsers send it: without a path or a trailing slash.
ORIGIN_PATTERN = re.compile(r"https?://[^/?#@\s]+")


def _absolute_path(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"the home directory in {str(path)!r} does not exist on this machine") from error


AbsolutePath = Annotated[Path, AfterValidator(_absolute_path)]
Quantization = Literal["none", "int8", "4bit"]
VectorType = Literal["float32", "float16"]
OnDisk = Literal["vectors", "indexes", "graphs"]
CaptionLanguage = Literal[
    "none",
    "basque",
    "catalan",
    "czech",
    "danish",
    "dutch",
    "english",
    "esperanto",
    "estonian",
    "finnish",
    "french",
    "german",
    "hungarian",
    "indonesian",
    "irish",
    "italian",
    "lithuanian",
    "norwegian",
    "polish",
    "portuguese",
    "romanian",
    "spanish",
    "swedish",
    "turkish",
]
"""The languages in Latin letters whose words have stems (`viewfinder.store.words`)."""


class Settings(BaseModel):
    """All settings with their defaults; each is set by `VIEWFINDER_<NAME>`."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    # The index
    model: str = Field(
        "ViT-B-32::openai",
        min_length=1,
        description="CLIP model of a new index and, if set, the target of a re-index: ARCH::TAG, hf-hub:ORG/NAME, "
        "a local checkpoint directory, `demo` or `demo-small`.",
    )
    index: str = Field(
        "images",
        description="Name of the index, which is its alias in Qdrant: 1 to 63 lower-case letters, digits, `-` or `_`.",
    )
    indexes: tuple[str, ...] = Field(
        (),
        description="Names of the indexes that the service answers, separated by commas. Requests that name none ask "
        "VIEWFINDER_INDEX, which must be among them if it is set, else the first. Unset: VIEWFINDER_INDEX alone.",
    )
    data_dir: AbsolutePath = Field(
        Path("~/.viewfinder"),
        description="Directory of the embedded store, run reports and the temporary files of runs, on the head node "
        "of a cluster.",
    )

    # Qdrant
    qdrant_url: str | None = Field(
        None, description="Address of a Qdrant server. Unset: the embedded store in `DATA_DIR/qdrant`."
    )
    qdrant_api_key: SecretStr | None = Field(None, description="Qdrant's API key or token.")
    qdrant_grpc_url: str | None = Field(
        None,
        description="Address at which points are written to the same server by gRPC, such as `http://qdrant:6334`; "
        "`https` is TLS, and the port is 6334 if it has none. Unset: by REST.",
    )
    qdrant_timeout_s: float = Field(60.0, gt=0, le=3600, description="Time limit of one request to Qdrant, in seconds.")
    qdrant_retry_s: float = Field(
        120.0, ge=0, le=86_400, description="Time that a job keeps retrying while Qdrant is unavailable, in seconds."
    )

    qdrant_max_request_mb: int = Field(
        32,
        ge=1,
        le=1024,
        description="Maximum size of one request to Qdrant, in MB: the server's `service.max_request_size_mb`, or the "
        "limit of a proxy before it. Larger batches are divided; a point that exceeds it alone is a failed object.",
    )

    quantization: Quantization = Field(
        "none",
        description="Format of vectors in memory, for new collections: float32 (`none`), `int8` or `4bit`; the "
        "originals are on disk in any case. In the embedded store `none` is the same as `int8`.",
    )
    vector_type: VectorType = Field(
        "float32",
        description="Format of the original vectors on disk, for new collections: `float32`, or "
        "`float16` at half the size.",
    )
    on_disk: OnDisk = Field(
        "vectors",
        description="Parts of new collections that a Qdrant server reads from its disk: the original `vectors`; with "
        "`indexes` the payload indexes too; with `graphs` the graphs of the vectors as well.",
    )

    caption_language: CaptionLanguage = Field(
        "english",
        description="Language of captions in Latin letters, for new collections: a search by words finds `cats` with "
        "`cat`. `none` compares such words as they are. Words in other letters need no setting.",
    )

    # S3
    s3_endpoint_url: str | None = Field(
        None,
        description="Address of an S3-compatible endpoint. Unset: AWS. Credentials, region and profile come from "
        "boto3's own chain.",
    )
    s3_anonymous: bool = Field(False, description="Read public buckets without signing requests.")
    s3_addressing: Literal["auto", "path", "virtual"] = Field(
        "auto",
        description="Place of the bucket's name in an address: `path` (https://host/bucket/key) or `virtual` "
        "(https://bucket.host/key). `auto`: virtual on AWS, else the profile's or path, and virtual where the endpoint "
        "answers SecondLevelDomainForbidden.",
    )
    s3_requester_pays: bool = Field(
        False, description="Accept the charges for requests and transfer of requester-pays buckets."
    )

    # Ray
    ray_address: str | None = Field(
        None,
        description="Ray cluster that runs the job, as HOST:PORT or `auto`; `local` starts one on this machine.",
    )

    # Limits of one image
    max_image_bytes: int = Field(
        100 * 1024**2,
        ge=1024,
        description="Maximum size of an object, in bytes. Larger ones are not fetched and count as failed.",
    )
    max_image_pixels: int = Field(
        200_000_000,
        ge=4096,
        description="Maximum size of an image, in pixels. Larger ones are not decoded and count as failed.",
    )
    max_query_image_bytes: int = Field(
        20 * 1024**2, ge=1024, description="Maximum size of an image in a query, sent or fetched, in bytes."
    )
    min_decoded_ratio: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Minimum share of the rows of an image whose end is missing or damaged. With less it counts as "
        "failed. 1 allows images that lack only their end marker.",
    )
    decode_timeout_s: float = Field(20.0, gt=0, le=600, description="Time limit for decoding one image, in seconds.")
    decode_memory_bytes: int = Field(
        2 * 1024**3, ge=256 * 1024**2, description="Memory limit of a decoder process, in bytes."
    )

    # The pipeline
    fetch_batch_size: int = Field(64, ge=1, le=4096, description="Objects in one fetch-and-decode task.")
    fetch_threads: int = Field(16, ge=1, le=256, description="Concurrent reads in one fetch-and-decode task.")
    encode_batch_size: int | None = Field(
        None,
        ge=1,
        le=8192,
        description="Images in one batch of an encoder. Unset: 256 on a GPU, 32 for each CPU core.",
    )
    encoders: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Encoder actors. Unset: one for each GPU of the cluster; without GPUs, one for every 8 CPU cores.",
    )
    write_batch_size: int = Field(128, ge=1, le=2048, description="Points in one upsert (the embedded store uses 32).")
    writers: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Concurrent streams of upserts into Qdrant. Unset: 4 with GPUs, else one for "
        "every 4 CPU cores, up to 4.",
    )

    # The encoder
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Device of the encoder. `auto`: a GPU if there is one, else the CPU."
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Number format of the encoder's weights. `auto`: bfloat16 on GPUs and CPUs that support it, "
        "float16 on older GPUs, else float32.",
    )
    runtime: Literal["auto", "torch", "openvino"] = Field(
        "auto",
        description="Library that computes the model on a CPU; GPUs use torch. `auto`: OpenVINO once the model is "
        "exported, until then torch, and the model is exported in the background. `openvino`: the model is exported "
        "first, and an error if it cannot be.",
    )

    # The service
    host: str = Field(
        "127.0.0.1",
        description="Address that `viewfinder serve` listens on. `serve run` takes its own from a Serve configuration.",
    )
    port: int = Field(
        8000,
        ge=0,
        le=65_535,
        description="Port that `viewfinder serve` listens on; 0 takes a free one. Commands and clients look for the "
        "service there if `VIEWFINDER_SERVER` is unset.",
    )
    min_replicas: int = Field(1, ge=0, le=1000, description="Minimum number of service replicas.")
    max_replicas: int = Field(4, ge=1, le=1000, description="Maximum number of service replicas.")
    replica_cpus: float = Field(1.0, gt=0, le=256, description="CPU cores for one replica.")
    replica_gpus: float = Field(0.0, ge=0, le=16, description="GPUs for one replica; fractions are allowed.")
    batch_size: int = Field(
        16, ge=1, le=512, description="Maximum number of queries that a replica encodes in one batch."
    )
    max_models: int = Field(
        2,
        ge=1,
        le=64,
        description="Maximum number of models that a replica keeps in memory for its indexes, the most recently used; "
        "indexes of the same model share it. A change of model takes one more while the next one is loaded.",
    )
    queue_size: int = Field(
        256,
        ge=1,
        le=100_000,
        description="Maximum number of requests that wait in a replica. Further ones get status 503.",
    )
    request_timeout_s: float = Field(
        30.0, gt=0, le=3600, description="Time limit of one request to the service, in seconds."
    )
    search_timeout_s: float = Field(
        5.0,
        ge=1,  # Qdrant's own limit is in whole seconds
        le=3600,
        description="Time that a search waits for Qdrant, in seconds. Then its answer is status 504. A job waits for "
        "`VIEWFINDER_QDRANT_TIMEOUT_S`.",
    )
    refresh_s: float = Field(
        5.0, gt=0, le=3600, description="Interval at which a replica checks which collection is live, in seconds."
    )
    grace_s: float = Field(
        DEFAULT_GRACE_S,
        ge=0,
        le=86_400,
        description="Time that a replica keeps the previous collection and model after a change, for "
        "open cursors, in seconds.",
    )
    api_keys_file: AbsolutePath | None = Field(
        None,
        description="JSON file with more API keys, which may have filters and indexes (docs/searching.md). It is read "
        "when the service starts.",
    )
    api_keys: tuple[SecretStr, ...] = Field(
        (),
        description="SHA-256 hex digests of the API keys, separated by commas. `:admin` after a "
        "digest allows takedowns, indexing and metrics, `:metrics` metrics alone.",
    )
    cursor_keys: tuple[SecretStr, ...] = Field(
        (),
        description="Secrets that sign cursors and addresses of thumbnails, of 16 characters or more, separated by "
        "commas: the first signs, all "
        "are accepted. Unset: a random one for each deployment, so that cursors end with it.",
    )
    allow_anonymous: bool = Field(
        False, description="Allow searches without a key from any address. Takedowns still need an admin key."
    )
    allow_image_url: bool = Field(
        False, description="Allow the service to fetch query images from public addresses (`image_url`)."
    )
    max_body_bytes: int = Field(
        30 * 1024**2,
        ge=1024,
        le=1024**3,
        description="Maximum size of the body of a request that may contain images, in bytes; others may have 4 MiB, "
        "or this if it is less. Larger ones get status 413.",
    )
    requests_per_minute: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Requests a minute to each replica from one API key or, without keys, one "
        "address. Unset: no limit.",
    )
    trusted_proxies: tuple[str, ...] = Field(
        (),
        description="Addresses or networks (CIDR) of reverse proxies whose `X-Forwarded-For` names the client for "
        "`requests_per_minute`, separated by commas.",
    )
    cors_origins: tuple[str, ...] = Field(
        (),
        description="Origins (`https://host`) whose pages may call the service, separated by commas. `*` allows all.",
    )
    fast_proxy: bool = Field(
        False,
        description="Use Ray Serve's fast proxy, which listens on all addresses. Set it before `ray "
        "start`, on every node.",
    )

    traces: bool = Field(
        False,
        description="Export spans of OpenTelemetry from the service. `OTEL_*` variables of its processes name the "
        "collector and the sampler.",
    )
    uploads_uri: str | None = Field(
        None,
        description="S3 prefix or local directory in which the service stores images that are sent to "
        "`POST /v1/images`; it becomes a source of the index. Unset: only images of recorded sources can be indexed by "
        "a request.",
    )
    thumbnailers: int = Field(
        1, ge=1, le=64, description="Processes for thumbnails in a replica; they run at a lower priority than searches."
    )
    thumbnail_cache_bytes: int = Field(
        64 * 1024**2, ge=0, le=64 * 1024**3, description="Maximum size of the thumbnail cache of a replica, in bytes."
    )
    redirect_originals: bool = Field(
        False,
        description="Answer requests for originals in S3 with a redirect to an address in the bucket, valid for five "
        "minutes, instead of sending them through the service. Clients must reach the bucket's endpoint.",
    )

    # The command line
    server: str = Field(
        DEFAULT_SERVER,
        description="Address of the service that `viewfinder` and the client use. Unset: port `VIEWFINDER_PORT` of "
        "this machine.",
    )
    api_key: SecretStr | None = Field(None, description="API key that `viewfinder` and the client send to the service.")

    @field_validator("api_keys", "cors_origins", "cursor_keys", "indexes", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("api_keys_file")
    @classmethod
    def _readable(cls, path: Path | None) -> Path | None:
        read_keys(path)
        return path

    @field_validator("api_keys")
    @classmethod
    def _digests(cls, entries: tuple[SecretStr, ...], info: ValidationInfo) -> tuple[SecretStr, ...]:
        # Name the entry by number: a key pasted instead of its digest must not appear in a log.
        digests = []
        for number, entry in enumerate(entries, start=1):
            if not (match := KEY_PATTERN.fullmatch(entry.get_secret_value().lower())):
                raise ValueError(
                    f"entry {number} of {len(entries)} is not the SHA-256 digest of a key, 64 hex digits with or "
                    "without ':admin' or ':metrics' after it; make one with 'viewfinder key'"
                )
            digests.append(match[1])
            if match[1] in digests[:-1]:
                raise ValueError(f"entry {number} of {len(entries)} repeats an earlier digest")
        of_file = read_keys(info.data.get("api_keys_file"))
        if any(each.partition(":")[0] in digests for each in of_file):
            raise ValueError("a digest is also in VIEWFINDER_API_KEYS_FILE: remove it in one of them")
        return tuple(SecretStr(each) for each in (*(entry.get_secret_value().lower() for entry in entries), *of_file))

    @field_validator("allow_anonymous")
    @classmethod
    def _without_filters(cls, allowed: bool, info: ValidationInfo) -> bool:
        if allowed and any("{" in entry.get_secret_value() for entry in info.data.get("api_keys", ())):
            raise ValueError(
                "a key in VIEWFINDER_API_KEYS_FILE has a filter or indexes, but without a key everything can be seen"
            )
        return allowed

    @field_validator("cursor_keys")
    @classmethod
    def _long_enough(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for number, key in enumerate(keys, start=1):
            if len(key.get_secret_value()) < MIN_CURSOR_KEY:
                raise ValueError(
                    f"entry {number} of {len(keys)} is shorter than {MIN_CURSOR_KEY} characters; make one with "
                    "'openssl rand -hex 32'"
                )
        return keys

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not ORIGIN_PATTERN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not an origin like https://example.org or http://localhost:3000")
        return origins

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(
                    f"{network!r} is not an address or network like 10.0.0.5 or 10.0.0.0/8: {error}"
                ) from None
        return networks

    @field_validator("index")
    @classmethod
    def _index_name(cls, value: str) -> str:
        if not INDEX_PATTERN.fullmatch(value):
            raise ValueError(f"{value!r} is not a name of an index: {INDEX_RULE}")
        return value

    @field_validator("indexes")
    @classmethod
    def _index_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for number, name in enumerate(names):
            if not INDEX_PATTERN.fullmatch(name):
                raise ValueError(f"{name!r} is not a name of an index: {INDEX_RULE}")
            if name in names[:number]:
                raise ValueError(f"{name!r} is given twice")
        return names

    @field_validator("ray_address")
    @classmethod
    def _cluster_address(cls, value: str | None) -> str | None:
        if value is None or RAY_ADDRESS_PATTERN.fullmatch(value):
            return value
        if value.startswith(("http://", "https://")):
            host = re.split(r"[:/]", value.partition("://")[2])[0]
            raise ValueError(
                f"{value!r} is the address of the cluster's job server; write {host or 'HOST'}:6379, and give the job "
                "server to 'ray job submit' with --address"
            )
        if value.startswith("ray://"):
            raise ValueError(
                f"{value!r} is an address of Ray Client, with which jobs do not work: their files would be on this "
                "machine, not on the cluster. Use 'ray job submit', or HOST:PORT on a node of the cluster"
            )
        raise ValueError(f"{value!r} is not HOST:PORT, 'auto' or 'local'")

    @field_validator("uploads_uri")
    @classmethod
    def _prefix(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"s3://[^/]|file:///|/", value):
            raise ValueError(f"{value!r} is not s3://BUCKET/PREFIX or an absolute path")
        return value

    @field_validator("qdrant_url", "qdrant_grpc_url", "s3_endpoint_url", "server")
    @classmethod
    def _http_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError(f"must begin with http:// or https://, not {value!r}")
        return value

    @field_validator("qdrant_grpc_url")
    @classmethod
    def _second_address(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and urlsplit(value).path.strip("/"):
            raise ValueError(f"{value!r} has a path, which gRPC has not; give it a host name or port of its own")
        if value is not None and "qdrant_url" in info.data and info.data["qdrant_url"] is None:
            raise ValueError("needs VIEWFINDER_QDRANT_URL, the address of the same server for REST")
        return value

    @property
    def service_url(self) -> str:
        """Address of the service: the one that is named, else the one on this machine."""
        return self.server if "server" in self.model_fields_set else f"http://localhost:{self.port}"

    @property
    def served_indexes(self) -> tuple[str, ...]:
        """The indexes that the service answers, the default one first."""
        first = self.index if self.index in self.indexes or not self.indexes else self.indexes[0]
        return (first, *(each for each in self.indexes if each != first))

    @classmethod
    def load(
        cls, environment: Mapping[str, str] | None = None, *, config: str | Path | None = None, **flags: object
    ) -> "Settings":
        """The settings from `flags` (None means not given), `environment`, `.env`, the TOML file and the defaults.

        `environment` defaults to that of the process together with `.env`; `.env` is not read if it is given. The TOML
        file is `config`, else the one in `VIEWFINDER_CONFIG`.
        Raises `ConfigurationError` that lists all problems.
        """
        given = read_environment(list(cls.model_fields), environment, config, flags)
        problems = list(given.problems)
        try:
            settings = cls.model_validate(given.values)
        except ValidationError as error:
            problems += [given.describe(detail) for detail in error.errors()]
        if problems:
            raise ConfigurationError("\n".join(["The configuration is wrong:", *(f"  {line}" for line in problems)]))
        return settings
