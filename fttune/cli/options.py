"""Options that several commands share, and the workspace that they name."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fttune.config.workspace import Workspace

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Another value for a dotted field; repeatable.")
]
Mlruns = Annotated[
    Path | None, typer.Option("--mlruns", envvar="FTTUNE_MLRUNS", help="The generated folder; default: mlruns.")
]
CacheGb = Annotated[
    float | None,
    typer.Option(
        "--cache-gb",
        envvar="FTTUNE_CACHE_GB",
        metavar="GB",
        help="Room for decoded images and what else is computed once; default: half of the disk's free space.",
    ),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE.py", help="Run a file that defines backbones; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def workspace_of(mlruns: Path | None, plugins: list[Path] | None = None, cache_gb: float | None = None) -> "Workspace":
    """Return the workspace of a command. Raises BadInput when it cannot be written, or tracked."""
    import os

    from fttune.config.urls import require_tracking_variable
    from fttune.config.workspace import Workspace

    workspace = Workspace.at(mlruns=mlruns, plugins=plugins or (), cache_gb=cache_gb)
    workspace.require_writable()
    require_tracking_variable(os.environ.get("MLFLOW_TRACKING_URI", ""))
    return workspace
