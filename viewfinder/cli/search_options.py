"""The options of `viewfinder search`, and their parsers."""

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from viewfinder.cli.options import choice, number, optional, ratio, whole
from viewfinder.client import Collapse, Rank, Target
from viewfinder.client.requests import DEFAULT_COLLAPSE_THRESHOLD, DEFAULT_LIMIT, MAX_LIMIT, is_blank
from viewfinder.json_objects import parse_unrepeated


def _query_text(text: str) -> str:
    if is_blank(text):
        raise typer.BadParameter("The text is empty: it has no visible character.")
    return text


def _hybrid_weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, separator, value = part.partition("=")
        if not separator:
            raise typer.BadParameter(f"{text!r} does not have the form clip=1,words=0.5.")
        weights[choice("clip", "words")(name.strip())] = number(0, 100)(value)
    if not any(weights.get(name, 1.0) for name in ("clip", "words")):
        raise typer.BadParameter("At least one weight must be above 0.")
    return weights


def _filter_conditions(text: str) -> dict[str, Any]:
    try:
        document = parse_unrepeated(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{text[:200]!r} is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise typer.BadParameter(f"{text!r} is not a JSON object.")
    return document


TextArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="TEXT", help="Description of the images, in plain words.", show_default=False, parser=_query_text
    ),
]
ImageOption = Annotated[Path | None, optional(help="Find images similar to this file.", metavar="PATH")]
ImageUrlOption = Annotated[str | None, optional(help="Find images similar to the one at this address.", metavar="URL")]
IdOption = Annotated[
    str | None, optional("--id", help="Find images similar to this image of the index.", metavar="URI|ID")
]
TargetOption = Annotated[
    Target,
    typer.Option(
        metavar="|".join(get_args(Target)),
        help="Compare with images, with captions, or with both.",
        parser=choice(*get_args(Target)),
    ),
]
RankOption = Annotated[
    Rank,
    typer.Option(
        metavar="|".join(get_args(Rank)),
        help="Rank by the model, by the words of captions, or by both.",
        parser=choice(*get_args(Rank)),
    ),
]
WeightsOption = Annotated[
    dict[str, float] | None,
    optional(help="Weights of --rank hybrid, for example clip=1,words=0.5.", metavar="WEIGHTS", parser=_hybrid_weights),
]
FilterOption = Annotated[
    dict[str, Any] | None,
    optional(
        "--filter",
        help='Conditions on the payload, for example {"width": {"gte": 800}}.',
        metavar="JSON",
        parser=_filter_conditions,
    ),
]
OrderByOption = Annotated[
    str | None,
    optional(
        "--order-by",
        help="Order by a field of numbers or dates: size, or -last_modified for the newest first. With a query it "
        "needs --min-relevance or --threshold.",
        metavar="FIELD",
    ),
]
MinRelevanceOption = Annotated[
    float | None,
    optional("--min-relevance", help="Leave out hits with a lower relevance, 0 to 1.", metavar="X", parser=ratio),
]
ThresholdOption = Annotated[
    float | None, optional(help="Leave out hits with a lower cosine.", metavar="X", parser=number(-1, 1))
]
OffsetOption = Annotated[int | None, optional(help="Skip the N best hits.", metavar="N", parser=whole(0))]
LimitOption = Annotated[
    int | None,
    optional(
        "--limit",
        "-k",
        "--top-k",
        help=f"Maximum number of hits, or of groups, 1 to {MAX_LIMIT}. [default: {DEFAULT_LIMIT}]",
        metavar="N",
        parser=whole(1, MAX_LIMIT),
    ),
]
DiversityOption = Annotated[float | None, optional(help="Variety among the hits, 0 to 1.", metavar="X", parser=ratio)]
GroupByOption = Annotated[str | None, optional(help="Group hits by a payload field.", metavar="FIELD")]
GroupSizeOption = Annotated[
    int | None, optional(help="Hits in each group, 1 to 10. [default: 3]", metavar="N", parser=whole(1, 10))
]
CollapseOption = Annotated[
    Collapse | None,
    optional(
        help="Show one hit for copies of an image, or for similar images.",
        metavar="|".join(get_args(Collapse)),
        parser=choice(*get_args(Collapse)),
    ),
]
CollapseThresholdOption = Annotated[
    float | None,
    optional(
        help=f"Lowest cosine of similar images, for --collapse near. [default: {DEFAULT_COLLAPSE_THRESHOLD}]",
        metavar="X",
        parser=ratio,
    ),
]
AllOption = Annotated[bool, typer.Option("--all", help="Print all hits; with --json, one per line.")]
