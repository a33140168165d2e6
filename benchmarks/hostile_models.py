"""Models that are broken or mean harm, tried in every way that a model gets in.

    python benchmarks/hostile_models.py
    python benchmarks/hostile_models.py --snakemake 40 --scan scan.nii.gz

Copies of the embedded model, and of a small trained nnU-Net as a folder and as a zip, each with one
change (``tests/hostile_models.py``): ids, names and paths on the card, values of other kinds, sizes
of plans, labels, arrays, JSON that is none, links, members of a zip. Each goes through

- ``cohortvol models verify``, or ``cohortvol models import``;
- `cohortvol.stages.segment.Segmenter.load`, as from a notebook;
- for as many as ``--snakemake`` says, taken evenly, the workflow itself, with a scan.

Right is: refused with exit code 64 and a short message, no exception, nothing written but in the
results folder, nothing left of an import. The sound ones among them must be taken. Prints what was
not right, and counts; ends with 0 where all was.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

import hostile_changes  # noqa: E402
import hostile_imports  # noqa: E402
import hostile_models  # noqa: E402
import hostile_trial  # noqa: E402
import nnunet_fixture  # noqa: E402
from hostile_changes import Case  # noqa: E402
from hostile_trial import Outcome  # noqa: E402

SECONDS = 120.0


def main() -> int:
    options = _options()
    import torch

    torch.set_num_threads(1)
    began, outcomes = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        trained = nnunet_fixture.results_folder(Path(folder) / "sound")
        for number, outcome in enumerate(_outcomes(options, trained, Path(folder))):
            outcomes.append(outcome)
            if outcome.wrong:
                print(f"{outcome.way}: {outcome.case}: {outcome.wrong}", flush=True)
            elif options.verbose:
                first = outcome.said.strip().splitlines()[:1]
                print(f"{number} {outcome.way}: {outcome.case}: {outcome.code} {first}", flush=True)
    tried = Counter(outcome.way for outcome in outcomes)
    wrong = Counter(outcome.way for outcome in outcomes if outcome.wrong)
    print(
        json.dumps(
            {
                "cases": len({outcome.case for outcome in outcomes}),
                "tried": dict(tried),
                "wrong": dict(wrong),
                "seconds": round(time.monotonic() - began),
                "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
        )
    )
    return 1 if wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--snakemake", type=int, default=0, help="cases that the workflow is given")
    parser.add_argument("--scan", type=Path, help="a NIfTI image; a simulated one if not given")
    parser.add_argument("--only", default="", help="cases with this text in their name")
    parser.add_argument("--verbose", action="store_true", help="a line for each")
    return parser.parse_args()


def _outcomes(options: argparse.Namespace, trained: Path, folder: Path) -> Iterator[Outcome]:
    models = [case for case in hostile_models.model_cases() if options.only in case.name]
    imports = [case for case in hostile_imports.import_cases() if options.only in case.name]
    for case in models:
        with _place(folder) as place:
            yield hostile_trial.verify(case, place)
        with _place(folder) as place:
            yield _loaded(case, place)
    for case in imports:
        with _place(folder) as place:
            yield hostile_trial.imported(case, place, trained)
    for model_id in hostile_changes.IDS:
        if isinstance(model_id, str) and "\0" not in model_id and options.only in "option/--id":
            with _place(folder) as place:
                yield hostile_trial.imported_as(model_id, place, trained)
    if options.snakemake:
        scan = options.scan or _simulated(folder)
        every = max(1, len(models) // options.snakemake)
        for case in models[::every]:
            with _place(folder) as place:
                yield _workflow(case, place, scan)


@contextlib.contextmanager
def _place(folder: Path) -> Iterator[Path]:
    place = folder / "a" / "b" / "place"  # room above for what would be written elsewhere
    place.mkdir(parents=True)
    try:
        yield place
        above = hostile_trial.contents(folder / "a") - hostile_trial.contents(
            folder / "a" / "b" / "place"
        )
        strange = [name for name in above if hostile_changes.ESCAPED in Path(name).parts[:2]]
        if strange:
            print(f"written elsewhere: {strange}", flush=True)
    finally:
        shutil.rmtree(folder / "a")


def _loaded(case: Case, place: Path) -> Outcome:
    """From Python; what is no `CohortvolError` is our fault."""
    from cohortvol.errors import CohortvolError
    from cohortvol.stages.segment import Segmenter

    folder = shutil.copytree(hostile_changes.EMBEDDED, place / "models" / "mine")
    case.change(folder)
    before = hostile_trial.contents(place)
    code, said = 0, ""
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            Segmenter.load(folder, device="cpu", threads=1)
        except CohortvolError as error:
            code, said = error.exit_code, str(error)
        except BaseException as error:  # whatever it lets through is what is looked for
            code, said = 70, f"Exception: {type(error).__name__}: {error}"
    left = sorted(hostile_trial.contents(place) - before)
    wrong = hostile_trial.judged(case.sound, code, said, left)
    return Outcome(case.name, "Segmenter.load", code, said, wrong)


def _simulated(folder: Path) -> Path:
    words = ["simulate", "--out", str(folder / "simulated"), "--n", "1", "--seed", "1"]
    program = Path(sys.executable).with_name("cohortvol")
    subprocess.run([program, *words], check=True, capture_output=True)
    return next((folder / "simulated").rglob("*.nii.gz"))


def _workflow(case: Case, place: Path, scan: Path) -> Outcome:
    """`snakemake` with the model, on one scan."""
    folder = shutil.copytree(hostile_changes.EMBEDDED, place / "models" / "mine")
    case.change(folder)
    manifest = f"scan_id,image,age_years,sex\none,{scan},40,F\n"
    (place / "scans.csv").write_text(manifest, encoding="utf-8")
    before, results = hostile_trial.contents(place), place / "x" / "y" / "results"
    settings = {"manifest": place / "scans.csv", "results": results, "model": folder}
    words = [f"{name}={value}" for name, value in settings.items()]
    ended = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", "--config", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=SECONDS * 5,
    )
    left = [
        name
        for name in sorted(hostile_trial.contents(place) - before)
        if not name.startswith("x/y/results") and name not in ("x", "x/y")
    ]
    said = ended.stderr[max(ended.stderr.find("cohortvol: "), 0) :]
    said = said if ended.returncode else ""
    wrong = hostile_trial.judged(case.sound, ended.returncode, said, left)
    return Outcome(case.name, "snakemake", ended.returncode, said, wrong)


if __name__ == "__main__":
    sys.exit(main())
