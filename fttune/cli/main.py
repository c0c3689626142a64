"""The entry point: errors to messages and exit codes, signals to an end in order."""

import typer

from fttune.cli.app import app

REPEAT_SECONDS = 0.01


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

    Python drops what is raised in a destructor or a weak reference's callback. An interruption that was raised there is
    raised again.
    """
    import os
    import signal
    import sys

    from fttune.errors import Interrupted

    received: list[int] = []

    def interrupt(signum: int, _frame: object) -> None:
        if received:
            os._exit(128 + signum)
        received.append(signum)
        raise Interrupted(signum)

    def again(_signum: int, _frame: object) -> None:
        raise Interrupted(received[0])

    show = sys.unraisablehook

    def unraisable(dropped: "sys.UnraisableHookArgs") -> None:
        if isinstance(dropped.exc_value, Interrupted):
            signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS)
        else:
            show(dropped)

    sys.unraisablehook = unraisable
    signal.signal(signal.SIGALRM, again)
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
