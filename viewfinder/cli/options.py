"""Options shared by several commands, and their parsers. Does not import ray, torch or open_clip."""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from viewfinder.cli.entry import EXIT_STATUSES
from viewfinder.models.registry import HUB_PREFIX, find
from viewfinder.settings import INDEX_PATTERN, INDEX_RULE, RAY_ADDRESS_PATTERN

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):/*(?P<rest>.*)", re.DOTALL)
_SCHEME_WITHOUT_COLON = re.compile(r"(?P<scheme>s3|file)/+(?P<rest>.*)", re.DOTALL | re.IGNORECASE)
# Options of other commands or programs that are given by mistake, and the ones that are meant.
_MEANT = {
    "index": {"--limit": "--max-objects", "--max-images": "--max-objects", "--caption": "--captions"},
    "search": {
        "--max-objects": "--limit",
        "--top": "--limit",
        "--query": "TEXT",
        "--text": "TEXT",
        "--url": "--image-url",
        "--caption": "--target caption",
        "--captions": "--target caption",
    },
    "reindex": {"--force": "--rebuild"},
    "serve": {"--bind": "--host", "--address": "--host", "--listen": "--host"},
    "takedown": {"--force": "--yes", "--id": "URI|ID"},
    "restore": {"--id": "URI|ID"},
    "size": {"--count": "--images", "--limit": "--images", "--objects": "--images", "--replicas": "--copies"},
}
_SCHEMES = ("s3", "file")


def examples(*lines: str, statuses: str = EXIT_STATUSES) -> str:
    """The end of a help text: examples, one per line, and the exit statuses."""
    # \b keeps the help formatter from joining the lines.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines) + f"\n\n{statuses}"


def parse_source(text: str) -> str:
    """Parse a source of images: `s3://bucket[/prefix]`, `file://` or a path. Refuses misspelled schemes."""
    match = _SCHEME.fullmatch(text) or _SCHEME_WITHOUT_COLON.fullmatch(text)
    if match is None or text.lower().startswith(("s3://", "file://")) or _is_path(text):
        return text
    scheme = match["scheme"].lower()
    near = scheme if scheme in _SCHEMES else next(iter(get_close_matches(scheme, _SCHEMES, n=1, cutoff=0.5)), None)
    if near is None:
        raise typer.BadParameter(f"{text!r} is not a source; write s3://bucket/prefix, file:///path or a path.")
    raise typer.BadParameter(f"{text!r} is not a source; did you mean {near}://{match['rest']}?")


def _is_path(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError:  # too long, or below a directory that may not be entered
        return False


def model_name(text: str) -> str:
    """Parse the name of a model; a directory becomes absolute. Raises `UnknownModelError` with the closest name."""
    # Without the packages of the extra `local`, open_clip's names are not known here, but to the server.
    with suppress(ModuleNotFoundError):
        if not text.startswith(HUB_PREFIX):
            return find(text).name
    return text


def whole(minimum: int, maximum: int | None = None) -> Callable[[Any], int]:
    """A parser of integers within bounds."""
    bounds = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"

    def parse(text: Any) -> int:
        digits = str(text)
        if digits.isdecimal() and minimum <= int(digits) and (maximum is None or int(digits) <= maximum):
            return int(digits)
        raise typer.BadParameter(f"{text!r} is not a whole number {bounds}.")

    return parse


def number(minimum: float, maximum: float | None = None) -> Callable[[Any], float]:
    """A parser of finite numbers within bounds."""
    bounds = f"of at least {minimum:g}" if maximum is None else f"from {minimum:g} to {maximum:g}"

    def parse(text: Any) -> float:
        value = _finite_or_nan(text)
        if minimum <= value and (maximum is None or value <= maximum):
            return value
        raise typer.BadParameter(f"{text!r} is not a number {bounds}.")

    return parse


def positive(text: Any) -> float:
    """Parse a finite number above 0."""
    value = _finite_or_nan(text)
    if value > 0:
        return value
    raise typer.BadParameter(f"{text!r} is not a number above 0.")


def _finite_or_nan(text: Any) -> float:
    """The number, or nan, which is outside all bounds."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def choice(*names: str) -> Callable[[Any], str]:
    """A parser of one of some names, in any case."""

    def parse(text: Any) -> str:
        for name in names:
            if str(text).lower() == name.lower():
                return name
        raise typer.BadParameter(
            f"{text!r} is not one of {', '.join(map(repr, names))}.{_did_you_mean(str(text), names)}"
        )

    return parse


def index_name(text: str) -> str:
    """Parse the name of an index."""
    if INDEX_PATTERN.fullmatch(text):
        return text
    raise typer.BadParameter(f"{text!r} is not a name of an index: {INDEX_RULE}.")


def http_address(text: str) -> str:
    """Parse the address of a service."""
    if text.startswith(("http://", "https://")):
        return text
    raise typer.BadParameter(f"{text!r} is not an address: it must begin with http:// or https://.")


def _did_you_mean(text: str, names: Sequence[str]) -> str:
    near = get_close_matches(text.lower(), [name.lower() for name in names], n=1, cutoff=0.4)
    return f" Did you mean {next(name for name in names if name.lower() == near[0])!r}?" if near else ""


class Command(typer.core.TyperCommand):
    """A command that knows the options that are often given by mistake."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse an option that another command or program has, and name the one that is meant."""
        meant = _MEANT.get(self.name or "", {})
        for argument in itertools.takewhile("--".__ne__, args):
            name = argument.partition("=")[0]
            if name in meant:
                ctx.fail(f"No such option: {name}. Did you mean {meant[name]}?")
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options. Typer would put the Python type after the name of an argument."""
        rows: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                is_argument = parameter.param_type_name == "argument"
                name = str(getattr(parameter, "metavar", None) or record[0]) if is_argument else record[0]
                rows["Arguments" if is_argument else "Options"].append((name, record[1]))
        for heading, found in rows.items():
            if found:
                with formatter.section(heading):
                    formatter.write_dl(found)


class RayCommand(Command):
    """A command with `--ray [ADDRESS]`: the address is optional, and sources may follow."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give `--ray` its value, empty if no address follows."""
        return super().parse_args(ctx, join_ray_address(args))


def join_ray_address(args: Sequence[str]) -> list[str]:
    """Write `--ray ADDRESS` as `--ray=ADDRESS` and a bare `--ray` as `--ray=`."""
    joined: list[str] = []
    rest = iter(range(len(args)))
    for position in rest:
        if args[position] == "--":
            return joined + list(args[position:])
        following = args[position + 1] if position + 1 < len(args) else ""
        if args[position] != "--ray":
            joined.append(args[position])
        # Any other text is a separate argument; an address of Ray Client is refused with the settings.
        elif RAY_ADDRESS_PATTERN.fullmatch(following) or following.startswith("ray://"):
            joined.append(f"--ray={following}")
            next(rest)
        else:
            joined.append("--ray=")
    return joined


ratio = number(0, 1)


def optional(*flags: str, help: str, metavar: str, parser: Callable[[str], Any] | None = None) -> Any:
    """An option without a default; `flags` default to the parameter's name."""
    return typer.Option(*flags, help=help, metavar=metavar, parser=parser, show_default=False)


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ConfigOption = Annotated[
    str | None,
    optional("--config", metavar="FILE", help="Read settings from this TOML file."),
]
IndexNameOption = Annotated[
    str | None,
    optional("--index", metavar="NAME", help="Name of the index. [default: VIEWFINDER_INDEX]", parser=index_name),
]
ServerOption = Annotated[
    str | None,
    optional("--server", metavar="URL", help="Ask the service at this address.", parser=http_address),
]
SubjectArgument = Annotated[
    str,
    typer.Argument(metavar="URI|ID", help="URI, path or id of the image.", show_default=False),
]
CaptionsOption = Annotated[
    list[str] | None,
    optional(
        metavar="URI",
        help="Captions by URI, key, or path relative to this file: a JSON, JSONL, CSV, TSV or Parquet file. "
        "Repeatable; the last one that names an image decides.",
        parser=parse_source,
    ),
]
ReportOption = Annotated[
    str | None,
    optional(
        metavar="DIR",
        help="Directory or s3:// prefix for summary.json and failures.jsonl. [default: in VIEWFINDER_DATA_DIR]",
        parser=parse_source,
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, but change nothing.")]
MaxFailureRatioOption = Annotated[
    float, typer.Option(parser=ratio, metavar="R", help="Fail the run if a larger share of objects fails.")
]
PruneMaxRatioOption = Annotated[
    float, typer.Option(parser=ratio, metavar="R", help="Refuse to delete a larger share of points.")
]
PruneCaptionsOption = Annotated[
    bool,
    typer.Option("--prune-captions", help="Remove captions of listed images that the captions files do not have."),
]
PruneCaptionsMaxRatioOption = Annotated[
    float, typer.Option(parser=ratio, metavar="R", help="Refuse to remove a larger share of captions.")
]
RetryFailedOption = Annotated[
    bool, typer.Option("--retry-failed", help="Try again the objects that failed permanently in an earlier run.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
EvaluationSetOption = Annotated[
    str | None,
    optional(
        "--evaluation-set",
        "--golden",
        metavar="FILE",
        help='Queries with known answers, JSONL of {"text", "relevant": [URIs]}, local or s3://.',
        parser=parse_source,
    ),
]
RayOption = Annotated[
    str | None,
    optional(
        "--ray",
        metavar="[ADDRESS]",
        help="Run on Ray: on the cluster at ADDRESS, else on this machine. [default: RAY_ADDRESS]",
    ),
]
