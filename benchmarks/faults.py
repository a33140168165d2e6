"""Who takes a broken image for a good one: every fault of the test corpus, tool by tool.

    python benchmarks/faults.py
    python benchmarks/faults.py --dicom2nifti /path/to/peers/bin/python

The corpus is the one of the tests: FAULTS of tests/nifti_files.py and of tests/dicom_fixture.py.

A NIfTI file is accepted by nibabel or SimpleITK when its voxels are read without an error, a DICOM
folder by dcm2niix when it ends with 0 and one image, by dicom2nifti when it writes an image; a
program that has not ended after a minute has not accepted. cohortvol accepts what `check_scan` or
the conversion returns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import nibabel as nib
import pandas as pd
import SimpleITK
from dcm2niix import bin as DCM2NIIX

from cohortvol.errors import ScanError
from cohortvol.stages.ingest import Rules, check_scan
from cohortvol.stages.ingest.dicom import to_nifti

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import dicom_fixture
import nifti_files

_DICOM2NIFTI = (
    "import sys, dicom2nifti;"
    "dicom2nifti.dicom_series_to_nifti(sys.argv[1], sys.argv[2], reorient_nifti=False)"
)


LIMIT_S = 60


def main() -> None:
    """Make every fault, ask every tool, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dicom2nifti", type=Path, help="Python that has dicom2nifti")
    parser.add_argument("--out", type=Path, default=Path("results/faults.csv"))
    options = parser.parse_args()
    rows = []
    for code, name, make in nifti_files.FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            path = make(Path(folder))
            rows.append(
                {"kind": "NIfTI", "fault": name, "reason": code}
                | {"cohortvol": answer(path, check_scan)}
                | {"nibabel": accepts(path, read_nibabel), "SimpleITK": accepts(path, read_itk)}
            )
    for code, name, make in dicom_fixture.FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            path, out = make(Path(folder, "in")), Path(folder, "out")
            out.mkdir()
            row: dict[str, object] = {"kind": "DICOM", "fault": name, "reason": code}
            row["cohortvol"] = answer(path, partial(convert, out / "c.nii.gz"))
            row["dcm2niix"] = dcm2niix_accepts(path, out)
            if options.dicom2nifti:
                command = [options.dicom2nifti, "-c", _DICOM2NIFTI, path, out / "d.nii.gz"]
                row["dicom2nifti"] = ends_well(command) and (out / "d.nii.gz").exists()
            rows.append(row)
    table = pd.DataFrame(rows)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out, index=False)
    print(table.to_string(index=False))
    for kind, of_kind in table.groupby("kind"):
        named = int((of_kind["cohortvol"] == of_kind["reason"]).sum())
        print(f"{kind}: {len(of_kind)} faults; cohortvol names {named} and accepts "
              f"{int((of_kind['cohortvol'] == 'accepted').sum())}")  # fmt: skip
        for tool in ("nibabel", "SimpleITK", "dcm2niix", "dicom2nifti"):
            if tool in of_kind and of_kind[tool].notna().any():
                print(f"  {tool} accepts {int(of_kind[tool].sum())}")


def answer(path: Path, check: Callable[[Path], object]) -> str:
    """The reason that cohortvol gives, or ``accepted``."""
    try:
        check(path)
    except ScanError as error:
        return error.reason
    return "accepted"


def convert(out: Path, folder: Path) -> object:
    return to_nifti(folder, out, Rules(), [])


def accepts(path: Path, read: Callable[[Path], object]) -> bool:
    """Whether a reader gives voxels."""
    if not path.is_file():  # pipes and missing files would block or say nothing of the reader
        return False
    try:
        read(path)
    except Exception:
        return False
    return True


def read_nibabel(path: Path) -> object:
    return nib.load(path).get_fdata()


def read_itk(path: Path) -> object:
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def dcm2niix_accepts(folder: Path, out: Path) -> bool:
    """Whether it ends well with one image, the interpolated copies not counted."""
    command: list[object] = [DCM2NIIX, "-z", "n", "-b", "n", "-f", "x%s", "-o", out, folder]
    ended = ends_well(command)
    images = [path for path in out.glob("x*.nii") if "_Eq" not in path.stem]
    with suppress(FileNotFoundError):
        for path in out.glob("x*.nii"):
            path.unlink()
    return ended and len(images) == 1


def ends_well(command: list[object]) -> bool:
    """Whether a program ends with 0 within a minute; a pipe among its files may hold it up."""
    words = [str(word) for word in command]
    with suppress(subprocess.TimeoutExpired):
        return subprocess.run(words, capture_output=True, timeout=LIMIT_S).returncode == 0
    return False


if __name__ == "__main__":
    main()
