"""The one command line. One file a noun; heavy imports happen inside the commands.

`main` turns every `VtokError` into error/at/hint on standard error and the exit codes of schemas/errors.py.
"""

from __future__ import annotations

import signal
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from schemas.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, VtokError
from vtok.cli import (
    check,
    config,
    convert,
    data,
    demo,
    doctor,
    evaluate,
    report,
    sample,
    status,
    tokenize_clips,
    tokens,
    train,
)
from vtok.home import settle
from vtok.openmp import wait_passively

_ORDER = ("demo", "doctor", "recipes", "config", "data", "train", "tokenize", "sample", "evaluate", "report")


class _InOrder(TyperGroup):
    """Lists the commands in the order of the workflow, groups and commands alike."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))


app = typer.Typer(
    name="vtok",
    cls=_InOrder,
    help="Raw video becomes verifiable tokens, once; then train, sample and measure.",
    epilog="A first look: vtok demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

_START, _WORK, _LOOK = "Start here", "The workflow, in order", "Look and check"

app.command("demo", rich_help_panel=_START)(demo.demo)
app.command("doctor", rich_help_panel=_START)(doctor.doctor)
app.command("recipes", rich_help_panel=_START)(config.recipes)
app.add_typer(config.app, name="config", rich_help_panel=_START)
app.add_typer(data.app, name="data", rich_help_panel=_WORK)
app.add_typer(train.app, name="train", rich_help_panel=_WORK)
app.command("tokenize", rich_help_panel=_WORK)(tokenize_clips.tokenize)
app.command("sample", rich_help_panel=_WORK)(sample.sample)
app.command("evaluate", rich_help_panel=_WORK)(evaluate.evaluate)
app.command("report", rich_help_panel=_WORK)(report.report)
app.command("convert", rich_help_panel=_WORK)(convert.convert)
app.add_typer(tokens.app, name="tokens", rich_help_panel=_LOOK)
app.command("status", rich_help_panel=_LOOK)(status.status)
app.command("check", rich_help_panel=_LOOK)(check.check)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code (see `schemas/errors.py`)."""
    code = _run(arguments)
    if code == EXIT_INTERRUPTED:
        print("interrupted: what is finished is kept; run the same command again to go on", file=sys.stderr)
    return code


def _run(arguments: list[str] | None) -> int:
    try:
        code = app(arguments, standalone_mode=False)
        return int(code or 0)
    except VtokError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):  # the parser turns the former into the latter, or into exit code 130
        return EXIT_INTERRUPTED
    except typer.Exit as stop:
        return stop.exit_code
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # the parser's own usage errors
            error.show()
            return EXIT_USAGE
        traceback.print_exc()
        print(
            f"error: a bug in vtok: {type(error).__name__}: {error}\nhint:  please report it with the lines above",
            file=sys.stderr,
        )
        return EXIT_FAILED


def run() -> None:
    """The console script. A scheduler's SIGTERM counts as Ctrl-C: exit code 130, what is finished is kept."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    wait_passively()
    settle()
    sys.exit(main())
