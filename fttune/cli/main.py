"""The entry point: errors to messages and exit codes, signals to an end in order."""

import typer

from fttune.cli.app import app


def main() -> None:
    """Run the command line: errors as one message, exit 0 ok, 1 failed, 2 bad input, 130 Ctrl-C, 143 SIGTERM."""
    import os
    import sys
    import traceback
    from pathlib import Path

    from fttune.errors import FttuneError, Interrupted
    from fttune.files import cannot_write

    _install_signal_handlers()
    try:
        app()
    except (FttuneError, OSError) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        told = error if isinstance(error, FttuneError) else cannot_write(Path(error.filename or "."), error)
        typer.echo(str(told), err=True)
        sys.exit(told.exit_code)
    except Interrupted as interruption:
        typer.echo("interrupted; run the same command again", err=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(interruption.exit_code)  # sys.exit would wait for a tracking server that does not answer


def _install_signal_handlers() -> None:
    """Let the first SIGINT or SIGTERM end the work in order, and the second one at once.

    Where a parent passes them on, as signals of their own, a terminal sends each to both: one order may come in two
    ways, but two in the same way are two orders.
    """
    import os
    import signal

    from fttune import interruption
    from fttune.cli.supervisor import PASSED_ON

    direct: list[int] = []
    passed_on: list[int] = []
    orders = {as_which: order for order, as_which in PASSED_ON.items()}

    def interrupt(signum: int, _frame: object) -> None:
        way = passed_on if signum in orders else direct
        way.append(orders.get(signal.Signals(signum), signum))
        if len(way) > 1:
            os._exit(128 + way[-1])
        if len(direct) + len(passed_on) == 1:
            interruption.interrupt(way[0])

    interruption.raise_dropped_again()
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
