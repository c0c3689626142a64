"""The command line. Imports typer and pathlib alone, so that `fttune --help` answers at once."""

from fttune.cli import commands, data, nightly, results, starting, sync  # noqa: F401 (they add their commands to `app`)
from fttune.cli.app import app
from fttune.cli.main import main

__all__ = ["app", "main"]
