"""The command `anomalysmith`: which commands there are, and how a run ends.

Exit codes: 0 done; 2 a user's mistake, one line on standard error; 3 done, but inputs were
skipped; 4 integrity failure; 1 a bug, with a traceback; 130 interrupted.
"""

import sys
from typing import Annotated, NoReturn

import typer

from flows import environment as _environment  # noqa: F401  sets what libraries read when imported
from flows.commands.audit import audit_command
from flows.commands.console import INTERRUPTED, MISTAKE, answer, complain, is_refusal
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
from flows.commands.train import train_command
from flows.commands.versions import gallery_command, show_command, stats_command, verify_command
from flows.commands.weights import weights_app
from pipeline.errors import AnomalysmithError

app = typer.Typer(
    name="anomalysmith",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"anomalysmith {_number()}")
        raise typer.Exit


def _number() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
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
    """Forge labelled logical anomalies out of images of good products."""


app.command("doctor")(doctor_command)
app.command("plan")(plan_command)
app.command("generate")(generate_command)
app.command("verify")(verify_command)
app.command("stats")(stats_command)
app.command("show")(show_command)
app.command("diff")(diff_command)
app.command("gallery")(gallery_command)
app.command("audit")(audit_command)
app.command("export")(export_command)
app.command("gate")(gate_command)
app.command("gc")(gc_command)
app.command("deployments")(deployments_command)
app.command("detectors")(detectors_command)
app.command("train")(train_command)
app.command("distill-teacher")(distill_teacher_command)
app.command("evaluate")(evaluate_command)
app.command("predict")(predict_command)
app.command("export-onnx")(export_onnx_command)
app.add_typer(rules_app, name="rules")
app.add_typer(weights_app, name="weights")


def _end(error: BaseException | str, code: int) -> NoReturn:
    """Say what went wrong, to a person and to the program that asked for JSON."""
    complain(error)
    if "--json" in sys.argv:
        answer({"error": str(error), "exit_code": code}, True, "")
    sys.exit(code)


def main() -> None:
    """Run the command line; a user's mistake is one line, never a traceback."""
    try:
        app()
    except AnomalysmithError as error:
        if error.exit_code == 1:  # a broken promise of ours: show where
            raise
        _end(error, error.exit_code)
    except OSError as error:
        if not is_refusal(error):
            raise
        _end(f"{error.filename or 'the disk'}: {error.strerror}", MISTAKE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
