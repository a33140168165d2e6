"""Time to read a BIDS dataset of many subjects, against the libraries that read any dataset.

    python benchmarks/bids_speed.py --subjects 10000 --peers /path/to/venv/bin/python

One T2w image with its sidecar per session, every fifth subject with two sessions; files are empty,
as no reader here opens an image. Every reader lists the images and reads the sidecar of each and
participants.tsv; each runs once, in a process of its own, after all files were read once. The peers
are those that the Python named by --peers can import; one that takes longer than --limit-s is
stopped, and that is what is printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

SIDECAR = {"MagneticFieldStrength": 3, "Manufacturer": "Maker", "ScanningSequence": ["GR"]}
TWO_SESSIONS_EVERY = 5

COHORTVOL = """
from pathlib import Path
from cohortvol.stages.manifest import read_manifest
start = time.perf_counter()
scans = read_manifest(Path(sys.argv[1]))
assert scans["field_strength_t"].notna().all() and scans["sex"].notna().all()
n = len(scans)
"""

PYBIDS = """
import bids
start = time.perf_counter()
layout = bids.BIDSLayout(sys.argv[1], validate=False)
images = layout.get(datatype="anat", suffix="T2w", extension=".nii.gz")
assert all("MagneticFieldStrength" in image.get_metadata() for image in images)
layout.get_collections("dataset")
n = len(images)
"""

BIDS2TABLE = """
import bids2table
start = time.perf_counter()
table = bids2table.index_dataset(sys.argv[1])
rows = [row for row in table.to_pylist() if row["ext"] == ".nii.gz"]
for row in rows:
    image = bids2table.load_bids_metadata(row["root"] + "/" + row["path"])
    assert "MagneticFieldStrength" in image
open(sys.argv[1] + "/participants.tsv").read()
n = len(rows)
"""

ANCPBIDS = """
import ancpbids
start = time.perf_counter()
dataset = ancpbids.load_dataset(sys.argv[1])
images = dataset.query(suffix="T2w", extension=".nii.gz", return_type="object")
assert all("MagneticFieldStrength" in image.get_metadata() for image in images)
open(sys.argv[1] + "/participants.tsv").read()
n = len(images)
"""

PEERS = {"bids2table": BIDS2TABLE, "ancpbids": ANCPBIDS, "pybids": PYBIDS}


def main() -> None:
    """Make the dataset, read it with everything there is, print seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=10_000)
    parser.add_argument("--peers", type=Path, help="Python with pybids, bids2table or ancpbids")
    parser.add_argument("--limit-s", type=float, default=600)
    parser.add_argument("--out", type=Path, default=Path("results/bids_speed"))
    options = parser.parse_args()
    root = options.out / f"bids{options.subjects}"
    n_images = make_dataset(root, options.subjects)
    for path in root.rglob("*.json"):
        path.read_bytes()
    print(f"{options.subjects} subjects, {n_images} images, a sidecar each")
    measure("cohortvol", Path(sys.executable), COHORTVOL, root, options.limit_s)
    for name, script in PEERS.items() if options.peers else ():
        measure(name, options.peers, script, root, options.limit_s)


def make_dataset(root: Path, n_subjects: int) -> int:
    """Number of images of the dataset, which is written unless it is there."""
    people = ["participant_id\tage\tsex"]
    n_images = 0
    for number in range(n_subjects):
        subject = f"sub-{number:05d}"
        people.append(f"{subject}\t{20 + number % 60}\t{'FM'[number % 2]}")
        sessions = (1, 2) if number % TWO_SESSIONS_EVERY == 0 else (1,)
        for session in sessions:
            folder = root / subject / f"ses-{session}" / "anat"
            image = folder / f"{subject}_ses-{session}_T2w.nii.gz"
            n_images += 1
            if not image.exists():
                folder.mkdir(parents=True, exist_ok=True)
                image.with_name(f"{subject}_ses-{session}_T2w.json").write_text(json.dumps(SIDECAR))
                image.touch()
    (root / "dataset_description.json").write_text('{"Name": "made up", "BIDSVersion": "1.9.0"}')
    (root / "participants.tsv").write_text("\n".join(people) + "\n")
    return n_images


def measure(name: str, python: Path, script: str, root: Path, limit_s: float) -> None:
    """Run a reader in a process of its own; print its version, images and seconds."""
    whole = (
        "import importlib.metadata, sys, time, warnings\n"
        "warnings.simplefilter('ignore')\n"
        f"{script}\n"
        "seconds = time.perf_counter() - start\n"
        f"print(importlib.metadata.version({name!r}), n, round(seconds, 2))\n"
    )
    begun = time.perf_counter()
    try:
        done = subprocess.run(
            [python, "-c", whole, root.absolute()], capture_output=True, text=True, timeout=limit_s
        )
    except subprocess.TimeoutExpired:
        print(f"{name:<12} stopped after {time.perf_counter() - begun:.0f} s")
        return
    if done.returncode:
        print(f"{name:<12} no result: {done.stderr.strip().splitlines()[-1]}")
        return
    version, n_images, seconds = done.stdout.split()[-3:]
    print(f"{name:<12} {version:<10} {n_images} images  {seconds} s")


if __name__ == "__main__":
    main()
