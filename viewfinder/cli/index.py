"""`viewfinder index`: bring an index up to date with its sources."""

import logging
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from viewfinder.cli.entry import DONE, FAILED, job, job_settings, open_execution
from viewfinder.cli.options import (
    CaptionsOption,
    ConfigOption,
    DryRunOption,
    IndexNameOption,
    JsonOption,
    MaxFailureRatioOption,
    PruneCaptionsMaxRatioOption,
    PruneCaptionsOption,
    PruneMaxRatioOption,
    RayOption,
    ReportOption,
    RetryFailedOption,
    examples,
    model_name,
    optional,
    parse_source,
    whole,
)
from viewfinder.errors import SourceError
from viewfinder.extras import packages_of
from viewfinder.indexing.options import MAX_FAILURE_RATIO, PRUNE_MAX_RATIO, IndexOptions
from viewfinder.settings import Settings
from viewfinder.sources.uris import canonical_uri, file_path, spellings

logger = logging.getLogger("viewfinder.index")

EPILOG = examples(
    "viewfinder index photos/",
    "viewfinder index s3://bucket/2023 s3://bucket/2024 --captions captions.csv",
    "viewfinder index s3://bucket --prune --ray auto",
)

# Files that are given by mistake: lists, captions and documents in a format that no source has.
_NOT_SOURCES = frozenset(
    {".doc", ".docx", ".htm", ".html", ".ini", ".json", ".log", ".md", ".ods", ".pdf", ".py", ".rar", ".rst", ".rtf"}
    | {".tar", ".toml", ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml", ".zip"}
)

SourcesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SRC",
        help="s3://bucket[/prefix], a directory, or a table of URIs (CSV, TSV, JSONL, Parquet).",
        show_default=False,
        parser=parse_source,
    ),
]
SourcesOption = Annotated[
    list[str] | None, optional("--source", metavar="SRC", help="Same as SRC.", parser=parse_source)
]
IncludeOption = Annotated[list[str] | None, optional(metavar="GLOB", help="Index only objects that match. Repeatable.")]
ExcludeOption = Annotated[list[str] | None, optional(metavar="GLOB", help="Skip objects that match. Repeatable.")]
ModelOption = Annotated[
    str | None,
    optional(
        metavar="NAME",
        parser=model_name,
        help="Model of a new index. [default: that of the live collection, else VIEWFINDER_MODEL]",
    ),
]
MaxObjectsOption = Annotated[int | None, optional(parser=whole(1), metavar="N", help="Index only the first N objects.")]
PruneOption = Annotated[bool, typer.Option("--prune", help="Delete points whose objects are gone.")]


def index_command(
    src: SourcesArgument = None,
    source: SourcesOption = None,
    captions: CaptionsOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    index: IndexNameOption = None,
    model: ModelOption = None,
    max_objects: MaxObjectsOption = None,
    prune: PruneOption = False,
    prune_max_ratio: PruneMaxRatioOption = PRUNE_MAX_RATIO,
    prune_captions: PruneCaptionsOption = False,
    prune_captions_max_ratio: PruneCaptionsMaxRatioOption = PRUNE_MAX_RATIO,
    retry_failed: RetryFailedOption = False,
    dry_run: DryRunOption = False,
    report: ReportOption = None,
    max_failure_ratio: MaxFailureRatioOption = MAX_FAILURE_RATIO,
    ray: RayOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Index images of buckets, directories or lists of URIs.

    Unchanged objects are skipped. Runs in this process with all CPU cores, or with --ray or RAY_ADDRESS as a Ray job.
    """
    options = IndexOptions(
        sources=(*(src or ()), *(source or ())),
        captions=tuple(captions or ()),
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        index=index,
        model=model,
        max_objects=max_objects,
        prune=prune,
        prune_max_ratio=prune_max_ratio,
        prune_captions=prune_captions,
        prune_captions_max_ratio=prune_captions_max_ratio,
        retry_failed=retry_failed,
        dry_run=dry_run,
        report=report,
        max_failure_ratio=max_failure_ratio,
    )
    _check_index_options(options)
    settings, on_ray = job_settings(config, index, ray)
    check_local_sources(options.sources)
    check_local_files(*options.captions)
    with job():
        raise typer.Exit(_run_index(options, settings, on_ray=on_ray, as_json=as_json))


def _check_index_options(options: IndexOptions) -> None:
    """Refuse options that contradict each other or need another one."""
    if not options.sources:
        raise typer.BadParameter("At least one source is required.", param_hint="'SRC'")
    if options.prune_max_ratio != PRUNE_MAX_RATIO and not options.prune:
        raise typer.BadParameter("Needs --prune.", param_hint="'--prune-max-ratio'")
    if options.prune and options.max_objects is not None:
        raise typer.BadParameter(
            "Needs a complete listing, so it cannot be combined with --max-objects.", param_hint="'--prune'"
        )
    if options.prune_captions and not options.captions:
        raise typer.BadParameter("Needs --captions with all captions files.", param_hint="'--prune-captions'")


def check_local_sources(sources: Sequence[str]) -> None:
    """Raise `SourceError` if a file cannot be a source, or if each source is a path that does not exist."""
    for text in sources:
        path = Path(file_path(canonical_uri(text)))
        if path.suffix.lower() in _NOT_SOURCES and _is_file(path):
            raise SourceError(
                f"{str(path)!r} is neither an image nor a list of URIs. A list is a table with a column 'uri', such as "
                "a CSV, TSV, JSONL or Parquet file. Captions go to --captions."
            )
    if not any(map(_exists, sources)):
        check_local_files(*sources)


def check_local_files(*texts: str | None) -> None:
    """Raise `SourceError` for a path that does not exist or cannot be reached, before any slow import.

    None and `s3://` are not checked.
    """
    for text in texts:
        if text is None or _exists(text):
            continue
        path = _typed_path(text)
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise SourceError(f"{str(path)!r} cannot be read: {error.strerror}.") from error
        siblings = [each.name for each in path.absolute().parent.glob("*")]
        near = get_close_matches(path.name, siblings, n=1)
        hint = f" Did you mean {str(path.with_name(near[0]))!r}?" if near else ""
        raise SourceError(f"No such file or directory: {str(path)!r}.{hint}")


def _exists(text: str) -> bool:
    """True for `s3://`, and for a path that exists in any spelling."""
    uri = canonical_uri(text)
    return uri.startswith("s3://") or any(_is_there(Path(file_path(each))) for each in spellings(uri))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # below a directory that may not be entered, or too long
        return False


def _is_file(path: Path) -> bool:
    return _is_there(path) and path.is_file()


def _typed_path(text: str) -> Path:
    """Return the path as it was given. Raises `SourceError` for the home directory of an unknown user."""
    path = Path(file_path(canonical_uri(text)) if "://" in text else text)
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise SourceError(f"The home directory in {text!r} does not exist on this machine.") from error


def _run_index(options: IndexOptions, settings: Settings, *, on_ray: bool, as_json: bool) -> int:
    """Run the job, print its report and return the exit status."""
    with packages_of("local", "'viewfinder index'"):
        from viewfinder.cli.index_report import show_plan, show_summary
        from viewfinder.cli.progress import ConsoleProgress
        from viewfinder.indexing import preflight
        from viewfinder.indexing.report import IndexPlan
        from viewfinder.indexing.run import index
        from viewfinder.reindexing.status import incomplete_change

    preflight.check(options, settings)
    with open_execution(settings, "index", on_ray=on_ray) as (store, executor):
        result = index(options, settings, store, executor, progress=ConsoleProgress())
        if incomplete := incomplete_change(store, settings.index):
            logger.warning("%s", incomplete)
    if isinstance(result, IndexPlan):
        show_plan(result, as_json=as_json)
        return FAILED if result.problems else DONE
    show_summary(result, as_json=as_json)
    return FAILED if result.problem else DONE
