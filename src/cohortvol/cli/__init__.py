"""The command line: parse arguments, call one stage, print its errors."""

from __future__ import annotations

import gc
import logging
import sys
import tempfile
import traceback
from typing import Annotated

import typer

from cohortvol import __version__
from cohortvol.cli import models, reference
from cohortvol.cli.agreement import agreement
from cohortvol.cli.analyse import analyse
from cohortvol.cli.assemble import assemble
from cohortvol.cli.bids_derivatives import bids_derivatives
from cohortvol.cli.bundle import bundle
from cohortvol.cli.check import check
from cohortvol.cli.compare import compare
from cohortvol.cli.dicom_seg import dicom_seg
from cohortvol.cli.doctor import doctor
from cohortvol.cli.evaluate import evaluate
from cohortvol.cli.explain import explain
from cohortvol.cli.ingest import ingest
from cohortvol.cli.init import init
from cohortvol.cli.manifest import manifest
from cohortvol.cli.manifest_from_folder import manifest_from_folder
from cohortvol.cli.measure import measure
from cohortvol.cli.plan import plan
from cohortvol.cli.report import report
from cohortvol.cli.resources import resources
from cohortvol.cli.review import review
from cohortvol.cli.run_study import run as run_study
from cohortvol.cli.segment import segment
from cohortvol.cli.settings import settings
from cohortvol.cli.simulate import simulate
from cohortvol.cli.status import status
from cohortvol.cli.train import train
from cohortvol.cli.train_orientation import train_orientation
from cohortvol.cli.training_pairs import training_pairs
from cohortvol.cli.verify import verify
from cohortvol.errors import BUG, USAGE, CohortvolError, safe_traceback
from cohortvol.store.files import keep_from_others
from cohortvol.store.machine import check_interpreter, error_to_act_on

log = logging.getLogger(__name__)

JOBS = frozenset(
    ("manifest", "ingest", "segment", "measure", "agreement", "assemble", "analyse", "report")
)
"""Commands of the workflow, whose logs name no file that an error of the system speaks of."""

TYPER_USAGE = 2
"""Exit code with which Typer ends after a usage error it has explained."""

PANELS = {
    "A study": (init, run_study, settings),
    "The flow, in order": (manifest, ingest, segment, measure, assemble, analyse, report),
    "What happened": (
        *(plan, status, explain, verify, resources),
        *(agreement, bids_derivatives, dicom_seg, review),
    ),
    "Cohorts and models": (
        *(doctor, bundle, check, manifest_from_folder, models.app, reference.app),
        *(train, evaluate, training_pairs, train_orientation, simulate, compare),
    ),
}
"""Subcommands by the panel of `cohortvol --help` that they stand in, in its order."""

app = typer.Typer(
    name="cohortvol",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
    epilog="A whole cohort: cohortvol run scans.csv --results results/mine. "
    "Exit codes: 0 done, 3 finished but some scans are quarantined or failed, 64 usage, "
    "70 our bug, 73 folder in use, 75 temporary: run it again.",
)
for _title, _commands in PANELS.items():
    for _command in _commands:
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, rich_help_panel=_title)
        else:
            _further = _command is run_study  # options, which Snakemake takes
            app.command(
                rich_help_panel=_title,
                context_settings={"allow_extra_args": _further, "ignore_unknown_options": _further},
            )(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cohortvol {__version__}")
        raise typer.Exit


@app.callback()
def start(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say more about what is done.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Organ volumes and age trends from population-scale abdominal MRI.

    Each stage reads files and writes files:
    manifest → ingest → segment → measure → assemble → analyse → report.
    """
    keep_from_others()
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s" if verbose else "%(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    logging.getLogger("cohortvol").setLevel(logging.DEBUG if verbose else logging.INFO)


def main() -> None:
    """Run the command line and end the process with the exit code of what happened."""
    code = run(sys.argv[1:])
    gc.freeze()  # otherwise Python looks through every object of torch once more: 0.7 s
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command; 0, or the exit code that says why not.

    An error the user can act on is one short message, one of the machine as well. Anything else is
    our bug. On a terminal
    its traceback goes to a file that only the user can read; in a job's log it stands without
    the text of the error and without folders, which may name a person, unless -v asks for them.
    """
    command = next((word for word in arguments if not word.startswith("-")), "")
    name = f"cohortvol {command}".strip()
    try:
        check_interpreter()
        app(arguments, prog_name="cohortvol")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else BUG
        return USAGE if code == TYPER_USAGE else code
    except CohortvolError as error:
        print(f"{name}: {_with_notes(error)}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        in_full = sys.stderr.isatty() or logging.getLogger("cohortvol").isEnabledFor(logging.DEBUG)
        told = error_to_act_on(error, named=in_full or command not in JOBS)
        if told is None:
            _report_bug(name, error)
            return BUG
        log.debug("in full", exc_info=error)
        print(f"{name}: {_with_notes(told)}", file=sys.stderr)
        return told.exit_code
    return 0


def _with_notes(error: CohortvolError) -> str:
    return "\n".join([str(error), *(f"  {note}" for note in getattr(error, "__notes__", []))])


def _report_bug(name: str, error: Exception) -> None:
    in_full = "".join(traceback.format_exception(error))
    what = f"{type(error).__name__}: {error}"
    if sys.stderr.isatty():
        with tempfile.NamedTemporaryFile(
            "w", prefix="cohortvol-", suffix=".log", delete=False, encoding="utf-8"
        ) as log:
            log.write(in_full)
        place = f"in {log.name}"
    elif logging.getLogger("cohortvol").isEnabledFor(logging.DEBUG):
        sys.stderr.write(in_full)
        place = "above"
    else:
        what, _, places = safe_traceback(error).partition("\n")
        print(places, file=sys.stderr)
        place = "above; with 'cohortvol -v' it has the text of the error"
    print(
        f"{name}: this is a bug of cohortvol {__version__}: {what}\n"
        f"  The traceback is {place}. Nothing finished was lost; please report it with the "
        "command you ran.",
        file=sys.stderr,
    )
