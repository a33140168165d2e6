"""DICOM folders with one file damaged: how many are taken for good though a voxel differs?

    python benchmarks/damaged_dicom.py --n 2000
    python benchmarks/damaged_dicom.py --n 200 --real FOLDER   # a sound folder of DICOM of your own

The damages and the sound folders are those of `tests/dicom_damage.py`: bytes cut, zeroed or
overwritten in header and pixels, tags changed, files renamed, doubled or replaced by one of another
series, at the ends of the stack and inside.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from cohortvol.stages.ingest import Rules

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import dicom_damage
from dicom_damage import ACCEPTED, RULES, SOUND, answer, cases, damaged, ingested

BLOCK = 50
OF_ANY = Rules(modality=("MR", "CT"), min_slices=3, fov_range_mm=(1, 2500), derived="allow")


def main() -> None:
    """Damage, ingest, compare, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--start", type=int, default=0, help="leave out so many at first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", type=Path, action="append", help="damage this sound folder")
    parser.add_argument("--list", action="store_true", help="print every case that is accepted")
    options = parser.parse_args()
    rules = RULES
    if options.real:
        rules = OF_ANY
        SOUND.clear()
        for folder in options.real:
            SOUND[folder.name] = lambda out, folder=folder: Path(shutil.copytree(folder, out))
    start, answers = time.perf_counter(), Counter[tuple[str, str]]()
    with tempfile.TemporaryDirectory() as folder:
        sound = {kind: make(Path(folder, "sound", kind)) for kind, make in SOUND.items()}
        (Path(folder) / "of_sound").mkdir()
        names = {kind: f"k{n}" for n, kind in enumerate(sound)}
        rows = ingested({names[k]: p for k, p in sound.items()}, Path(folder, "of_sound"), rules)
        print(rows[["state", "reason", "warnings"]].assign(kind=list(sound)).to_string())
        todo = cases(options.n, options.seed)[options.start :]
        for at in tqdm(range(0, len(todo), BLOCK)):
            work = Path(folder, "work")
            work.mkdir()
            block = {f"c{at + n:05d}": case for n, case in enumerate(todo[at : at + BLOCK])}
            made = {
                name: damaged(case, sound[case.sound], work / name) for name, case in block.items()
            }
            found = ingested(made, work, rules)
            for name, case in block.items():
                said = answer(found.loc[name], rows.loc[names[case.sound]])
                answers[case.damage, said] += 1
                if options.list and said == ACCEPTED:
                    print(case)
            shutil.rmtree(work)
    for damage in dicom_damage.DAMAGES:
        parts = [f"{n} {said}" for (name, said), n in answers.most_common() if name == damage]
        print(f"{damage:32s} {'; '.join(parts)}")
    totals = Counter[str]()
    for (_, said), n in answers.items():
        totals[said] += n
    print(*(f"{n:6d}  {said}" for said, n in totals.most_common()), sep="\n")
    print(
        f"{len(todo)} folders, {totals[ACCEPTED]} {ACCEPTED}, {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
