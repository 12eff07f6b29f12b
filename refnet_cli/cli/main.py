"""The command line: options become a dataclass, one library call does the work, errors become exit codes.

Only this package knows click. Commands import what they need when they run, so that
``refnet --help`` is instant.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import click
from click.shell_completion import shell_complete

from refnet_cli.cli.batch import batch_group
from refnet_cli.cli.compare import compare_command
from refnet_cli.cli.fetch import fetch_command
from refnet_cli.cli.predict import inspect_command, predict_command, register_command, verify_command
from refnet_cli.cli.schemes import schemes_command
from refnet_cli.cli.terminal import SIGNALS, describe_stop, ended_by, leave_with
from refnet_cli.cli.train import evaluate_command, train_command
from refnet_cli.cli.usage import StrictGroup
from refnet_cli.cli.weights import doctor_command, export_command, weights_group
from refnet_cli.errors import as_known
from refnet_cli.system import log
from refnet_cli.system.process import limit_openmp_spinning, reduce_garbage_collection
from refnet_cli.version import __version__

LOG = logging.getLogger(__name__)
PIPE_CLOSED, USAGE, BUG = 141, 2, 70
COMPLETE = "_REFNET_COMPLETE"
"""Environment variable with which shells request completions."""


@click.group(cls=StrictGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="refnet")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Format of messages on stderr: text, or JSON with time, level, event, message, scene, window and code. Can "
    "also follow the command.",
)
@click.pass_context
def commands(context: click.Context, debug: bool, log_format: str) -> None:
    """Map land use and land cover from Sentinel-1 and Sentinel-2 scenes with REF-Net.

    \b
    refnet predict --optical s2.tif --sar s1.tif -o lulc.tif
    refnet train regions.toml -o runs/name

    Results go to stdout, messages to stderr. Exit codes: 0 done, 1 scenes of a batch failed, 2 wrong usage, 64 options
    contradict each other or the files, 65 unusable input, 66 missing input, 69 missing device or service, 70 bug,
    73 output cannot be written, 74 disk full or input/output error, 75 temporary failure, 78 weights or config do not
    fit.
    """
    context.obj = debug
    log.start(as_json=log_format == "json")


for _command in (
    predict_command, fetch_command, inspect_command, register_command, train_command, evaluate_command, compare_command,
    batch_group, verify_command, export_command, doctor_command, weights_group, schemes_command,
):  # fmt: skip
    commands.add_command(_command)


def main() -> None:
    """Run the command line tool and exit with its code."""
    if asked := os.environ.get(COMPLETE):
        sys.exit(shell_complete(commands, {}, "refnet", COMPLETE, asked))
    for number, code in SIGNALS.items():
        signal.signal(number, leave_with(code))
    limit_openmp_spinning()
    reduce_garbage_collection()
    pass_over_what_is_no_text()
    try:
        code = run(sys.argv[1:])
    finally:
        if ended_by and (text := describe_stop()):
            LOG.error(text, extra={"event": "stopped", "code": ended_by[0]})
        gc.freeze()  # else all objects are looked through once more on leaving
    sys.exit(code)


def pass_over_what_is_no_text() -> None:
    """Keep rasterio from showing, twice, that it cannot decode a message in which GDAL quotes a damaged file."""

    def unraisable(event: Any) -> None:
        if not isinstance(event.exc_value, UnicodeDecodeError):
            sys.__unraisablehook__(event)

    def uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        # What comes from compiled code has no traceback.
        if not isinstance(error, UnicodeDecodeError) or traceback is not None:
            sys.__excepthook__(kind, error, traceback)

    sys.unraisablehook, sys.excepthook = unraisable, uncaught


def run(arguments: Sequence[str]) -> int:
    """Run the command line tool.

    Parameters
    ----------
    arguments : sequence of str
        Without the program's name.

    Returns
    -------
    int
        The exit code.
    """
    log.start()
    debug = "--debug" in arguments
    try:
        # Not commands.main, which would turn a closed pipe into exit code 1.
        with commands.make_context("refnet", _with_log_format_first(list(arguments))) as context:
            commands.invoke(context)
        if sys.stdout is not None:
            sys.stdout.flush()
        return 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        if log.is_json():
            LOG.error(error.format_message(), extra={"event": "failed", "code": USAGE})
        else:
            error.show()
        return USAGE
    except BrokenPipeError:
        # Python would try to flush stdout once more on its way out.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except Exception as error:  # the one place where exceptions become exit codes
        if debug:
            traceback.print_exc()
        if ended_by:
            return ended_by[0]  # a library made an error of its own of the signal's SystemExit
        known = as_known(error)
        if known is None:
            about = f"{type(error).__name__}: {error} (refnet --debug ... shows where)"
            LOG.error(f"this is a bug, not your mistake: {about}", extra={"event": "failed", "code": BUG})
            return BUG
        LOG.error(str(known), extra={"event": "failed", "code": known.exit_code, "window": known.window})
        return known.exit_code


def _with_log_format_first(arguments: list[str]) -> list[str]:
    """Move every ``--log-format`` before the command, where click expects it."""
    first, rest = [], list(arguments)
    place = 0
    while place < len(rest) and rest[place] != "--":
        argument = rest[place]
        if argument == "--log-format" or argument.startswith("--log-format="):
            end = place + 1 + (argument == "--log-format")
            first += rest[place:end]
            del rest[place:end]
        else:
            place += 1
    return first + rest
