"""The command line: parse, call, print. Data on stdout, logs and progress on stderr, errors in one line."""

from __future__ import annotations

import os
import sys

import typer
from typer.exceptions import TyperException

from syncd import __version__
from syncd.cli import (
    alerts,
    connect,
    connections,
    doctor,
    history,
    keys,
    play,
    purge,
    run,
    show,
    tail,
    transfer,
    verify,
)
from syncd.cli.terminal import fail
from syncd.errors import SealError, UsageError

app = typer.Typer(
    name="syncd",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Keeps the Slack messages, Gong calls, Fathom meetings and Gmail threads of many workspaces in one SQL "
        "database.\n\nTry it: [bold]syncd demo[/bold]. Run it: [bold]syncd migrate[/bold], "
        "[bold]syncd connect[/bold], [bold]syncd serve[/bold]. Something wrong: [bold]syncd doctor[/bold]."
    ),
)
run.register(app)
history.register(app)
verify.register(app)
connect.register(app)
transfer.register(connections.app)
app.add_typer(connections.app, name="connections")
purge.register(app)
show.register(app)
alerts.register(app)
doctor.register(app)
tail.register(app)
app.add_typer(keys.app, name="keys")
play.register(app)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        typer.echo(f"syncd {__version__}")
        raise typer.Exit


def main() -> None:
    """The entry point: exit codes and one-line errors for everything below."""
    try:
        code = app(standalone_mode=False)
    except (UsageError, SealError) as error:
        fail(str(error), 2)
    except TyperException as error:
        words = getattr(error, "format_message", lambda: "wrong use")()
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(words)
            sys.exit(2)
        fail(f"{words} (see `syncd --help`)", 2)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output is gone; nothing is left to say
        sys.exit(0)
    except Exception as error:  # the last edge: a person gets a line, who debugs the traceback
        if os.environ.get("SYNCD_LOG__LEVEL", "").lower() == "debug":
            raise
        fail(f"a defect in syncd: {type(error).__name__}; SYNCD_LOG__LEVEL=debug shows where", 1)
    sys.exit(code if isinstance(code, int) else 0)
