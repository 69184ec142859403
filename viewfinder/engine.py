"""Index and search pictures in a few lines of Python: through a running service, or all in this process.

engine = ImageSearchEngine(mode="local")
engine.index_directory("photos", descriptions={"cat.jpg": "our cat on the sofa"})
print_results(engine.search("a cat", top_k=5))
"""

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from viewfinder.client import Client, ImageInput, SearchResult, Stats
from viewfinder.errors import ConfigurationError
from viewfinder.settings import Settings

if TYPE_CHECKING:
    from viewfinder.local import IndexResult

INSTALL_ALL = "pip install 'viewfinder[all]'"

EngineTarget = Literal["image", "caption"]
AnyPath = str | Path

_PATHS_SHOWN = 20


class ImageSearchEngine:
    """Indexes and searches pictures. Close it after use, best by `with`.

    `mode="service"` asks the service at `server`; the index there is made by the job. `mode="local"` needs neither
    service nor Ray: it holds the embedded store in `data_dir` by itself (or uses the Qdrant server that the settings
    name) and encodes in this process. Without `model_name` it follows the model of `index`, and for a new index takes
    the settings' one. What is not given comes from the settings.

    Raises `ConfigurationError` for a wrong argument or a missing package, `StoreBusyError` where another program holds
    the store, and `ModelMismatchError` where `index` was made by another model.
    """

    def __init__(
        self,
        mode: Literal["service", "local"] = "service",
        *,
        server: str | None = None,
        api_key: str | None = None,
        model_name: str | None = None,
        data_dir: AnyPath | None = None,
        index: str | None = None,
    ) -> None:
        self._backend: _Backend
        if mode == "service":
            if (model_name, data_dir, index) != (None, None, None):
                raise ConfigurationError("model_name, data_dir and index go with mode='local'; a service has its own.")
            self._backend = _Remote(Client.of(Settings.load(server=server, api_key=api_key)))
        elif mode == "local":
            self._backend = _open_local(Settings.load(data_dir=data_dir, index=index), model_name)
        else:
            raise ConfigurationError(f"Unknown mode {mode!r}; there are 'service' and 'local'.")

    def index_directory(self, path: AnyPath, descriptions: Mapping[str, str] | None = None) -> "IndexResult":
        """Index all pictures under a directory (or an `s3://` prefix); those that did not change are left alone.

        A key of `descriptions` is a URI, an absolute path, or a path relative to the directory; a description is
        searched with `target="caption"`. Pictures that cannot be read are told in the result, not raised.
        """
        return self._backend.index_directory(path, descriptions or {})

    def index_images(self, paths: Iterable[AnyPath], descriptions: Mapping[str, str] | None = None) -> "IndexResult":
        """Index single files. A key of `descriptions` is a path as given here, or its last part where that is unique.

        Raises `SourceError` where a file does not exist, before anything is indexed.
        """
        paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
        return self._backend.index_images(paths, descriptions or {})

    def search(
        self,
        text: str | None = None,
        top_k: int = 5,
        *,
        image: ImageInput | None = None,
        target: EngineTarget = "image",
    ) -> SearchResult:
        """The pictures that fit best a text or `image`, the path or the bytes of a picture.

        They are compared with the pictures themselves or with their descriptions.
        """
        if image is None:
            return self.search_batch([text or ""], top_k, target=target)[0]
        if text is not None:
            raise ConfigurationError("A search is by a text or by an image; Client adds up several with queries=.")
        return self._backend.search_image(image, top_k, target)

    def search_batch(
        self, texts: Sequence[str], top_k: int = 3, *, target: EngineTarget = "image"
    ) -> list[SearchResult]:
        """One result for each text, in their order."""
        return self._backend.search_texts(texts, top_k, target)

    def get_stats(self) -> Stats:
        """Model, collection and number of points."""
        return self._backend.stats()

    def close(self) -> None:
        """Let go of the store or of the connections."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def print_results(
    results: SearchResult | Iterable[SearchResult], console: Console | None = None, errors: Console | None = None
) -> None:
    """Print hits as a table, or one table for each result of `search_batch`; warnings go to standard error."""
    console, errors = console or Console(), errors or Console(stderr=True)
    for result in [results] if isinstance(results, SearchResult) else results:
        console.print(_table(result) if result.hits else "Nothing found.")
        for warning in result.warnings:
            errors.print(f"warning: {warning}", markup=False, soft_wrap=True)


def _table(result: SearchResult) -> Table:
    columns: list[Column | str] = ["score", "relevance", Column("picture", overflow="fold"), "caption", "size"]
    table = Table(*(["group"] if result.groups else []), *columns, box=SIMPLE_HEAD)
    groups = [([escape(str(group.value))], group.hits) for group in result.groups or ()] or [([], result.hits)]
    for name, hits in groups:
        for hit in hits:
            # Rounded down, as on the page: 100% is for what nothing unrelated comes near to.
            relevance = "" if hit.relevance is None else f"{math.floor(hit.relevance * 100)}%"
            size = f"{hit.width} x {hit.height}" if hit.width and hit.height else ""
            table.add_row(*name, f"{hit.score:.3f}", relevance, escape(hit.uri), escape(hit.caption or ""), size)
    return table


class _Backend(Protocol):
    def index_directory(self, path: AnyPath, descriptions: Mapping[str, str]) -> "IndexResult": ...

    def index_images(self, paths: Sequence[AnyPath], descriptions: Mapping[str, str]) -> "IndexResult": ...

    def search_texts(self, texts: Sequence[str], top_k: int, target: EngineTarget) -> list[SearchResult]: ...

    def search_image(self, image: ImageInput, top_k: int, target: EngineTarget) -> SearchResult: ...

    def stats(self) -> Stats: ...

    def close(self) -> None: ...


class _Remote:
    """A service; what it searches is indexed by a job, next to its Ray, and not through it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def index_directory(self, path: AnyPath, descriptions: Mapping[str, str]) -> "IndexResult":
        raise _use_the_job([path], descriptions)

    def index_images(self, paths: Sequence[AnyPath], descriptions: Mapping[str, str]) -> "IndexResult":
        raise _use_the_job(paths, descriptions)

    def search_texts(self, texts: Sequence[str], top_k: int, target: EngineTarget) -> list[SearchResult]:
        return self._client.search_batch(texts, limit=top_k, target=target)

    def search_image(self, image: ImageInput, top_k: int, target: EngineTarget) -> SearchResult:
        return self._client.search(image=image, limit=top_k, target=target)

    def stats(self) -> Stats:
        return self._client.stats()

    def close(self) -> None:
        self._client.close()


def _open_local(settings: Settings, model_name: str | None) -> _Backend:
    try:
        from viewfinder.local import LocalIndex
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"mode='local' needs {error.name}, which is not installed: {INSTALL_ALL}.") from error
    return LocalIndex.open(settings, model_name)


def _use_the_job(paths: Sequence[AnyPath], descriptions: Mapping[str, str]) -> ConfigurationError:
    command = ["python", "jobs/index.py"]
    note = ""
    if len(paths) > _PATHS_SHOWN:
        command += ["--source", "images.csv"]
        note = f"images.csv is a file with the column 'uri' and your {len(paths):,} paths in it."
    else:
        for path in paths:
            text = str(path)
            command += ["--source", text if "://" in text else str(Path(text).expanduser().absolute())]
    if descriptions:
        command += ["--captions", "captions.json"]
        note += " captions.json holds your descriptions as {path: text}."
    return ConfigurationError(
        "A service does not index, the job does. In a checkout of viewfinder run:\n"
        f"  {shlex.join(command)}\n{note}".rstrip()
    )
