"""`viewfinder models`: list the known models."""

from dataclasses import asdict

from viewfinder.cli import output
from viewfinder.cli.options import JsonOption, examples
from viewfinder.models.registry import REGISTRY

EPILOG = examples("viewfinder models", "viewfinder models --json")

# In characters; narrower terminals would break words within columns.
TABLE_WIDTH = 150


def models_command(as_json: JsonOption = False) -> None:
    """List the known models.

    Shows dimension, image size, maximum number of tokens, languages and licence. Also accepted: any open_clip
    ARCH::TAG, hf-hub:ORG/NAME, or a local checkpoint directory.
    """
    specs = list(REGISTRY.values())
    if as_json:
        output.print_json([asdict(spec) for spec in specs])
        return
    console = output.stdout()
    if console.is_terminal and console.width < TABLE_WIDTH:
        for spec in specs:
            sizes = f"{spec.dimension} dimensions, {spec.image_size} px, {spec.context_length} tokens"
            console.print(f"{spec.name}\n  {sizes}, {spec.languages}, {spec.licence}\n  {spec.good_for}")
        return
    headings = ["name", "dimension", "image", "tokens", "languages", "licence", "good for"]
    rows = [
        [
            spec.name,
            str(spec.dimension),
            f"{spec.image_size} px",
            str(spec.context_length),
            spec.languages,
            spec.licence,
            spec.good_for,
        ]
        for spec in specs
    ]
    output.print_table(headings, rows)
