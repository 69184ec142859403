"""`viewfinder doctor`: check this machine. Changes nothing, and works without the packages of the extras."""

import importlib.util
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer

from viewfinder.cli import output
from viewfinder.cli.doctor import machine, network, store
from viewfinder.cli.doctor.finding import Finding
from viewfinder.cli.doctor.packages import EXTRAS, not_installed, package_of, packages
from viewfinder.cli.entry import FAILED
from viewfinder.cli.options import ConfigOption, JsonOption, examples, optional, parse_source
from viewfinder.errors import ConfigurationError, ViewfinderError
from viewfinder.settings import Settings

EPILOG = examples(
    "viewfinder doctor",
    "viewfinder doctor --source s3://bucket/prefix",
    statuses="Exit status: 0 nothing failed, 1 a check failed, 2 wrong usage.",
)
_QDRANT_ADVICE = (
    "Start it: docker run -p 6333:6333 qdrant/qdrant. Or unset VIEWFINDER_QDRANT_URL and use the embedded store."
)
_BUCKET_ADVICE = "Check the name and what the credentials allow (s3:ListBucket, s3:GetObject), and VIEWFINDER_S3_*."
_TORCH_ADVICE = "Install torch again: pip install --force-reinstall torch."
_RAY_ADVICE = "Make Ray's directory readable, or set RAY_TMPDIR to another one."
_SERVICE_ADVICE = "Correct VIEWFINDER_SERVER, or the proxy of the environment."
_DIRECTORY_ADVICE = "Check the path. The address of a bucket begins with s3://."


def doctor_command(
    source: Annotated[
        str | None,
        optional(
            "--source",
            help="Check that this s3:// prefix or directory can be read.",
            metavar="SRC",
            parser=parse_source,
        ),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that this machine is set up.

    Checks packages, settings, store, model, GPU, Ray, port and keys.
    """
    found = examine(source, config=config)
    if as_json:
        output.print_json([asdict(check) for check in found])
    else:
        rows = [[check.name, check.state, _shown_finding(check), check.advice] for check in found]
        output.print_table(["check", "state", "found", "what to do"], rows)
    if any(check.state == "failed" for check in found):
        raise typer.Exit(FAILED)


def _shown_finding(check: Finding) -> str:
    """The result of a check for a table, without the versions of packages, which are in the JSON document."""
    if check.state == "ok" and check.name in [name for _, name, _ in EXTRAS]:
        return f"{check.found.count(',') + 1} packages; versions: --json"
    return check.found


def examine(source: str | None = None, *, config: str | None = None) -> list[Finding]:
    """Run all checks, in the order in which they would stop a first run. With a `source`, read it too."""
    checks = [machine.python(), *packages()]
    try:
        settings = Settings.load(config=config)
    except ConfigurationError as error:
        return [*checks, Finding("settings", "failed", str(error), "Correct or remove these settings.")]
    # Name, check, modules that the check needs, advice if it fails.
    planned: list[tuple[str, Callable[[], Finding], tuple[str, ...], str]] = [
        ("settings", lambda: machine.settings_given(settings), (), ""),
        ("data directory", lambda: machine.data_directory(settings), (), "Set VIEWFINDER_DATA_DIR."),
        ("Qdrant", lambda: store.qdrant(settings), ("qdrant_client", "numpy"), _QDRANT_ADVICE),
        ("model", lambda: machine.model(settings), (), "Set VIEWFINDER_MODEL; 'viewfinder models' lists names."),
        ("GPU", lambda: machine.gpu(settings), ("torch",), _TORCH_ADVICE),
        ("Ray", lambda: network.ray_cluster(settings), ("ray",), _RAY_ADVICE),
        (f"port {settings.port}", lambda: network.port(settings), (), "Correct VIEWFINDER_HOST and VIEWFINDER_PORT."),
        ("API keys", lambda: network.api_keys(settings), (), ""),
    ]
    if settings.model_fields_set & {"server", "api_key"}:
        planned.append(("service", lambda: network.service(settings), (), _SERVICE_ADVICE))
    advice = _BUCKET_ADVICE if (source or "").startswith("s3:") else _DIRECTORY_ADVICE
    planned.append(("source", lambda: network.source_read(settings, source), (), advice))
    return checks + [_run_check(*each) for each in planned]


def _run_check(name: str, check: Callable[[], Finding], modules: tuple[str, ...], advice: str) -> Finding:
    """Run a check; an error becomes a failed finding with `advice`."""
    if missing := [package_of(module) for module in modules if importlib.util.find_spec(module) is None]:
        return not_installed(name, *missing)
    try:
        return check()
    except ModuleNotFoundError as error:
        return not_installed(name, package_of(str(error.name)))
    except ViewfinderError as error:
        return Finding(name, "failed", str(error), advice)
    except (ImportError, OSError, ValueError) as error:  # a broken package, or a file that cannot be read
        return Finding(name, "failed", f"{type(error).__name__}: {error}", advice)
