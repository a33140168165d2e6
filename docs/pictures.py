"""Make the pictures of these pages again: ``make demo``, then ``python docs/pictures.py``.

The first screen of the page, centiles and a contact sheet are those of the demo; the flags are
those of simulated scans to which a fault was done each. Needs Chromium on the path.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image, ImageChops

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
PICTURES = HERE / "pictures"
BIN = Path(sys.executable).parent
DEMO, POPULATION = (REPOSITORY / "results" / name for name in ("demo", "demo-population"))
WIDTH = 1100


def mirrored(voxels: np.ndarray) -> np.ndarray:
    """Left and right changed places, and the header does not say so."""
    return voxels[::-1]


def cut(voxels: np.ndarray) -> np.ndarray:
    """The upper part of the liver was not imaged."""
    return voxels[:, :, : int(voxels.shape[2] * 0.6)]


def written_over(voxels: np.ndarray) -> np.ndarray:
    """One slice is another one's, at twice its brightness."""
    changed = voxels.copy()
    middle = voxels.shape[2] // 2
    changed[:, :, middle] = 2 * voxels[::-1, :, middle + 3]
    return changed


FAULTS = (cut, mirrored, written_over)


def main() -> None:
    """All four pictures."""
    PICTURES.mkdir(exist_ok=True)
    page = (POPULATION / "report" / "index.html").read_text(encoding="utf-8")
    photograph(page, "page", 1400)
    save(Image.open(POPULATION / "report" / "figures" / "centiles.png"), "centiles")
    photograph(sheets(DEMO), "sheet", 1150)
    with tempfile.TemporaryDirectory() as folder:
        photograph(sheets(broken(Path(folder))), "flags", 1150)


def broken(folder: Path) -> Path:
    """Results of simulated scans, each with one of the faults."""
    call("cohortvol", "simulate", "--out", folder / "people", "--n", len(FAULTS), "--seed", 30)
    for fault, path in zip(FAULTS, sorted((folder / "people" / "images").iterdir()), strict=True):
        scan = nib.load(path)
        voxels = fault(np.asanyarray(scan.dataobj))
        nib.Nifti1Image(np.ascontiguousarray(voxels), scan.affine, scan.header).to_filename(path)
    call("snakemake", "--cores", 2, "--quiet", "all", "--config", f"results={folder / 'results'}",
         f"manifest={folder / 'people' / 'manifest.csv'}")  # fmt: skip
    return folder / "results"


def sheets(results: Path) -> str:
    """The contact sheets of a page, and nothing else of it."""
    page = (results / "report" / "index.html").read_text(encoding="utf-8")
    start = page.index('<ul class="sheet">')
    return f"{page[: page.index('<body')]}<body>{page[start : page.index('</section>', start)]}"


def photograph(html: str, name: str, height_px: int) -> None:
    """What a browser shows of a page."""
    browser = shutil.which("chromium") or sys.exit("chromium is not on the path")
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder) / "page.html", Path(folder) / "shot.png"
        page.write_text(html, encoding="utf-8")
        subprocess.run([browser, "--headless", "--no-sandbox", "--hide-scrollbars",
                        f"--window-size={WIDTH},{height_px}", f"--screenshot={shot}",
                        page.as_uri()], check=True, capture_output=True)  # fmt: skip
        save(Image.open(shot), name)


def save(picture: Image.Image, name: str) -> None:
    """A picture as a small PNG of the width of a page, without what is empty below."""
    picture = picture.convert("RGB")
    *_, bottom = ImageChops.invert(picture).getbbox()
    height = round(bottom * WIDTH / picture.width)
    small = picture.crop((0, 0, picture.width, bottom)).resize((WIDTH, height))
    small.quantize(96).save(PICTURES / f"{name}.png", optimize=True)


def call(program: str, *words: object) -> None:
    """A command of the environment, from the repository."""
    subprocess.run([BIN / program, *map(str, words)], cwd=REPOSITORY, check=True)


if __name__ == "__main__":
    main()
