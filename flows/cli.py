"""The program `anomalysmith`: its commands, and its exit codes.

Exit codes: 0 done; 2 a user error, one line on standard error; 3 done, but inputs were skipped;
4 integrity error; 1 a bug, with a traceback; 130 interrupted; 141 the reader of the output is gone.
"""

from flows import environment as _environment  # noqa: F401  isort: skip  first: what libraries read

import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from flows.commands.audit import audit_command
from flows.commands.compare import compare_command
from flows.commands.console import (
    INTERRUPTED,
    READER_GONE,
    USER_ERROR,
    escape_what_cannot_be_printed,
    is_user_error,
    open_closed_streams,
    print_error,
    print_result,
)
from flows.commands.curate import curate_command
from flows.commands.deployments import deployments_command
from flows.commands.detectors import detectors_command
from flows.commands.diff import diff_command
from flows.commands.distill_teacher import distill_teacher_command
from flows.commands.doctor import doctor_command
from flows.commands.evaluate import evaluate_command
from flows.commands.export import export_command
from flows.commands.export_onnx import export_onnx_command
from flows.commands.gate import gate_command
from flows.commands.gc import gc_command
from flows.commands.generate import generate_command
from flows.commands.plan import plan_command
from flows.commands.predict import predict_command
from flows.commands.rules import rules_app
from flows.commands.serve import serve_command
from flows.commands.train import train_command
from flows.commands.versions import gallery_command, show_command, stats_command, verify_command
from flows.commands.weights import weights_app
from pipeline.errors import AnomalysmithError, UserError
from pipeline.utils.names import text_of

# `~` where shells leave it alone: behind `--out=` or `folder:`, or in quotes.
_UNEXPANDED_HOME = re.compile(r"(?:--?[\w-]+=)?(?:[a-z_]+:)?~(?:/|$)")

app = typer.Typer(
    name="anomalysmith",
    no_args_is_help=True,
    # Plain tracebacks and plain help: they can be copied, and rich takes time to import.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    # Click itself knows only --help.
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"anomalysmith {_number()}")
        raise typer.Exit


def _number() -> str:
    """The release that is installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        # From the metadata of the installation; a bare checkout has none.
        return version("anomalysmith")
    except PackageNotFoundError:
        return "(not installed)"


@app.callback()
def _top(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and stop.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Generate labelled synthetic logical anomalies from images of good products."""


# In the order of the help and of docs/cli.md.
app.command("doctor")(doctor_command)
app.command("plan")(plan_command)
app.command("generate")(generate_command)
app.command("verify")(verify_command)
app.command("stats")(stats_command)
app.command("show")(show_command)
app.command("diff")(diff_command)
app.command("gallery")(gallery_command)
app.command("serve")(serve_command)
app.command("curate")(curate_command)
app.command("audit")(audit_command)
app.command("export")(export_command)
app.command("gate")(gate_command)
app.command("gc")(gc_command)
app.command("deployments")(deployments_command)
app.command("detectors")(detectors_command)
app.command("train")(train_command)
app.command("compare")(compare_command)
app.command("distill-teacher")(distill_teacher_command)
app.command("evaluate")(evaluate_command)
app.command("predict")(predict_command)
app.command("export-onnx")(export_onnx_command)
# Groups of commands come last.
app.add_typer(rules_app, name="rules")
app.add_typer(weights_app, name="weights")


def _end(error: BaseException | str, code: int) -> NoReturn:
    """Print the error on standard error and, with `--json`, as JSON on standard output."""
    print_error(error)
    # The error may have come before options were parsed, hence the look at the raw arguments.
    if "--json" in sys.argv:
        # Standard output may be what the error is about, such as a file on a full disk.
        with suppress(OSError):
            print_result({"error": str(error), "exit_code": code}, True, "")
    sys.exit(code)


def _require_usual_shell(arguments: Sequence[str]) -> None:
    """UserError for what would fail far from its cause: a folder that is gone, a literal `~`."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the folder that this shell is in was deleted; cd into another") from None
    for argument in filter(_UNEXPANDED_HOME.match, arguments):
        raise UserError(
            f"{argument}: the shell did not expand ~ here; write the path out, or ./~ for a folder "
            "of that name"
        )


def main() -> None:
    """Run the command line; user errors are one line, never a traceback."""
    open_closed_streams()
    escape_what_cannot_be_printed()
    try:
        _require_usual_shell(sys.argv[1:])
        app()
    except AnomalysmithError as error:
        # A bug of ours: show where it is.
        if error.exit_code == 1:
            raise
        _end(error, error.exit_code)
    except OSError as error:
        if not is_user_error(error):
            raise
        # The name may come from an option, in whatever bytes.
        _end(f"{text_of(error.filename or 'the disk')}: {error.strerror}", USER_ERROR)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except SystemExit as end:
        # Typer's answer to a closed pipe is 1, which means a bug here.
        if isinstance(end.__context__, BrokenPipeError):
            sys.exit(READER_GONE)
        raise


if __name__ == "__main__":
    main()
