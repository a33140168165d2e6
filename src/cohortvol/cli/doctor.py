"""`cohortvol doctor`: is this machine fit to run a cohort."""

from __future__ import annotations

import os
import platform
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cohortvol.cli.options import AsJson, Device, ModelsDir, Profiles
from cohortvol.cli.output import show, width
from cohortvol.errors import CohortvolError


def doctor(
    results: Annotated[
        Path | None,
        typer.Option(help="Results folder, there or not: its file system is tried out."),
    ] = None,
    model: Annotated[str, typer.Option(help="Model id, or its folder.")] = "embedded-v2",
    models_dir: ModelsDir = Path("models"),
    profile: Profiles = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    r"""Check this machine before a cohort runs on it, and say what to do about what is wrong.

    A line per check, PASS, WARN, FAIL or SKIP: Python and packages, torch, driver and memory of
    the GPU, Slurm and its partitions, what the file system of the results keeps, space, clock,
    folders, the files of the model, what its networks answer, DICOM decoders. Nothing is left
    behind. Run it where you submit and, as nodes differ, in a job with what a job is given:
    `srun --gres=gpu:1 cohortvol doctor`. Give it the --profile that snakemake is given, each of
    them: the cluster is compared with what they make together.

    Ends with 0 when nothing fails, 3 when something does.

    Example:
    [dim]cohortvol doctor --results results/mine --model total_mr
    cohortvol doctor --profile slurm --profile mysite[/]
    """
    from cohortvol.tools.doctor import Finding, examine, exit_code, render, tell

    columns = width()

    def told(name: str, finding: Finding) -> None:
        typer.echo(render(name, finding, columns))

    node = platform.node()
    if not as_json:
        typer.echo(f"cohortvol doctor on {node}")
    checks = _checks(results, model, models_dir, profile, device)
    found = examine(checks, None if as_json else told)
    summary = tell(node, found)
    counts = ", ".join(f"{n} {verdict}" for verdict, n in summary["counts"].items())
    show(summary, None if as_json else counts)
    raise typer.Exit(exit_code(found.values()))


def _checks(
    results: Path | None, model: str, models_dir: Path, profile: list[str] | None, device: str
) -> dict[str, Any]:
    """Every check by its name, in the order of the lines."""
    from cohortvol.compute import installation, profiles
    from cohortvol.tools.doctor import gpu, place, slurm, software, storage
    from cohortvol.tools.doctor.findings import Check

    settings = partial(profiles.together, profile or profiles.shipped())
    pinned = partial(_pins, software.constraints_file())
    checks: dict[str, Check] = {
        "python": software.python_version,
        "packages": lambda: software.packages(pinned()),
        "C library": lambda: software.libc(installation.wheels(), *platform.libc_ver()),
        "torch": lambda: gpu.cuda(_torch(), gpu.nvidia_smi(), _given()),
        "GPU memory": lambda: gpu.memory(_torch()),
        "Slurm": lambda: slurm.programs(os.environ),
        "Slurm plugin": slurm.plugin,
        "partitions": lambda: slurm.partitions(settings()),
        "profile": lambda: slurm.segment(settings()),
        "MinJobAge": lambda: slurm.forgotten(settings()),
        **storage.checks(results),
        "clock": lambda: place.clock(results),
        "disk space": lambda: place.space(results, *_remaining(results, model, models_dir)),
        "inodes": lambda: place.inodes(results, _remaining(results, model, models_dir)[0]),
        "who may read": lambda: place.readers(results),
        "home": lambda: place.home(os.environ),
        "temporary folder": lambda: place.temporary(Path(tempfile.gettempdir())),
        "model files": lambda: _files(model, models_dir),
        "model canary": lambda: _canary(model, models_dir, device),
        "DICOM decoders": _decoders,
    }
    return checks


def _pins(constraints: Path) -> dict[str, str]:
    from cohortvol.tools.doctor import software

    return software.pins(constraints.read_text(encoding="utf-8"))


def _torch() -> Any:
    from cohortvol.compute.installation import loading

    with loading("torch"):
        from cohortvol.models.networks import devices

    return devices.look()


def _given() -> bool:
    from cohortvol.models.networks import devices

    return devices.given_by_slurm()


def _card(model: str, models_dir: Path) -> Any:
    from cohortvol.models.card import load_card
    from cohortvol.models.folders import find_model

    return load_card(find_model(model, models_dir))


def _remaining(results: Path | None, model: str, models_dir: Path) -> tuple[Any, str]:
    """What is still to do, or None and why that is not known."""
    from cohortvol.tools import check

    if results is None:
        return None, ""
    try:
        found = check.remaining(results, _card(model, models_dir))
    except CohortvolError as error:
        return None, str(error).splitlines()[0]
    return found, "" if found else "no manifest was read yet, so what it takes is not known"


def _files(model: str, models_dir: Path) -> Any:
    from cohortvol.tools.doctor import model as of_model

    return of_model.files(_card(model, models_dir))


def _canary(model: str, models_dir: Path, device: str) -> Any:
    from cohortvol.compute.installation import loading
    from cohortvol.tools.doctor import model as of_model

    with loading("torch"):
        from cohortvol.stages.segment import Segmenter

    card = _card(model, models_dir)
    return of_model.canary(card, partial(Segmenter.load, card.folder, device=device))


def _decoders() -> Any:
    from cohortvol.stages.ingest import check_decoders
    from cohortvol.tools.doctor import model as of_model

    return of_model.decoders(check_decoders)
