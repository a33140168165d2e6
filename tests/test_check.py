"""`cohortvol check`: every row accounted for without a GPU, and nothing left behind."""

from __future__ import annotations

import csv
import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import dicom_fixture
import nifti_files
from cohortvol import cli
from cohortvol.models.card import load_card
from cohortvol.models.inference import PROFILES
from cohortvol.store.schemas import MANIFEST
from cohortvol.store.tables import read_table
from cohortvol.tools.check import workload as work

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[1]
EMBEDDED = REPOSITORY / "models" / "embedded-v2"
COHORTVOL = Path(sys.executable).with_name("cohortvol")


def write_manifest(path: Path, rows: list[list[object]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["scan_id", "image", "age_years", "sex", "sequence"])
        writer.writerows(rows)
    return path


def sound(folder: Path, name: str, seed: int = 0) -> Path:
    voxels = np.random.default_rng(seed).integers(1, 1000, nifti_files.SHAPE).astype("int16")
    return nifti_files.saved(folder, nifti_files.nifti(voxels), name)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Manifest of sound scans, of every fault, and of rows that are wrong in themselves."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = [
        ["good-1", sound(folder, "good-1.nii", 1), 50, "F", "t1"],
        ["good-2", sound(folder, "good-2.nii", 2), "", "M", "t2"],
        ["series", dicom_fixture.write_series(folder / "series"), 57, "F", ""],
        ["twin-1", sound(folder, "twin-1.nii", 3), 40, "", "t1"],
        ["twin-2", sound(folder, "twin-2.nii", 3), 41, "F", "t1"],
        ["bad id", "a.nii", 50, "F", ""],
        ["old", "b.nii", 999, "F", ""],
        ["same", "c.nii", 50, "F", ""],
        ["same", "d.nii", 50, "F", ""],
    ]
    reasons = ["ID_INVALID", "CLN_AGE_IMPLAUSIBLE", "ID_DUPLICATE", "ID_DUPLICATE"]
    for kind, faults in (("nifti", nifti_files.FAULTS), ("dicom", dicom_fixture.FAULTS)):
        for n, (reason, _, make) in enumerate(faults):
            own = folder / f"{kind}-{n:03d}"
            if kind == "nifti":
                own.mkdir()
            rows.append([own.name, make(own), 50, "F", ""])
            reasons.append(reason)
    return write_manifest(folder / "scans.csv", rows), rows, reasons


@pytest.fixture(scope="module")
def checked(corpus, tmp_path_factory):
    """Exit code, printed text and JSON, and the temporary folder it had."""
    temporary = tmp_path_factory.mktemp("temporary")
    done = {}
    for kind, extra in (("text", ["--out", str(temporary.parent / "checked.csv")]),
                        ("json", ["--json"])):  # fmt: skip
        done[kind] = subprocess.run(
            [COHORTVOL, "check", str(corpus[0]), *extra],
            env={**os.environ, "TMPDIR": str(temporary)}, cwd=REPOSITORY,
            capture_output=True, text=True,
        )  # fmt: skip
    return done, temporary


def found_by(checked) -> dict:
    return json.loads(checked[0]["json"].stdout)


def test_rows_that_cannot_be_used_end_with_3_and_are_all_accounted_for(corpus, checked):
    _, rows, reasons = corpus
    assert [run.returncode for run in checked[0].values()] == [3, 3]
    found = found_by(checked)
    assert (found["rows"], found["usable"]) == (len(rows), 5)
    counted = {row["reason"]: 0 for row in found["problems"]}
    for row in found["problems"]:
        counted[row["reason"]] += row["n"]
    assert counted == {reason: reasons.count(reason) for reason in reasons}
    assert sum(found["states"].values()) == len(rows)


def test_every_reason_comes_with_words_what_to_do_and_lines(corpus, checked):
    _, rows, reasons = corpus
    lines = {reason: [] for reason in reasons}
    for line, reason in enumerate(reasons, start=len(rows) - len(reasons) + 2):
        lines[reason].append(line)
    for row in found_by(checked)["problems"]:
        assert row["sentence"]
        assert row["what_to_do"]
        assert row["lines"]
        assert set(row["lines"]) <= set(lines[row["reason"]])


def test_usable_rows_are_marked_where_something_is_to_be_seen(checked):
    found = found_by(checked)
    marks = {row["reason"]: row["lines"] for row in found["marks"]}
    assert marks["ID_SAME_CONTENT"] == [5, 6]
    assert found["without"] == {"age_years": 1, "sex": 1}


def test_usable_scans_are_counted_by_plane_and_sequence(checked):
    counts = found_by(checked)["counts"]
    assert counts["plane"] == {"axial": 1, "isotropic": 4}  # 5.0 mm by 2.0; 4.0 mm by 3.0
    assert counts["sequence"]["t1"] == 3


def test_the_table_is_printed_for_people(corpus, checked):
    printed = checked[0]["text"].stdout
    assert f"{len(corpus[1])} rows: 5 can be used" in printed
    assert "SRC_TRUNCATED" in printed
    assert "ID_SAME_CONTENT" in printed
    assert "memory" in printed
    assert checked[0]["text"].stderr == ""


def test_the_listing_has_every_row_with_its_reason(corpus, checked):
    listed = pd.read_csv(checked[1].parent / "checked.csv", dtype=str, keep_default_na=False)
    assert listed["manifest_line"].astype(int).tolist() == list(range(2, len(corpus[1]) + 2))
    assert listed["reason"].tolist()[5:] == corpus[2]


def test_nothing_is_left_in_the_temporary_folder(checked):
    assert list(checked[1].iterdir()) == []


def test_a_cohort_without_fault_ends_with_0_and_has_an_estimate(tmp_path, capsys):
    image = sound(tmp_path, "good.nii")
    manifest = write_manifest(tmp_path / "scans.csv", [["good", image, 50, "F", ""]])
    assert cli.run(["check", str(manifest), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["estimate"]["n_scans"] == 1
    assert "no GPU has been measured" in found["estimate"]["gpu"]["basis"]
    assert cli.run(["check", str(manifest), "--json", "--seconds-per-scan", "7200"]) == 0
    given = json.loads(capsys.readouterr().out)["estimate"]["gpu"]
    assert given == {"hours": 2.0, "basis": "7200 s a scan, as given"}


def test_subjects_who_withdrew_are_not_read(tmp_path, capsys):
    rows = [["stays", sound(tmp_path, "a.nii"), 50, "F", ""], ["left", "gone.nii", 50, "F", ""]]
    manifest = write_manifest(tmp_path / "scans.csv", rows)
    (tmp_path / "list.txt").write_text("left\n")
    settings = tmp_path / "config.yaml"
    settings.write_text(f"withdrawals: {tmp_path / 'list.txt'}\n")
    assert cli.run(["check", str(manifest), "--config", str(settings), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 1
    (tmp_path / "list.txt").write_text("left\nStays\n")
    assert cli.run(["check", str(manifest), "--config", str(settings), "--json"]) == 3
    assert "'Stays'; nearly 'stays' (other case of letters)" in capsys.readouterr().err
    (tmp_path / "list.txt").write_text("Left\n")
    assert cli.run(["check", str(manifest), "--config", str(settings), "--json"]) == 3
    assert "none of the 1 ids was ever known here" in capsys.readouterr().err


def test_label_maps_that_are_not_kept_take_space_for_one_shard(tmp_path, capsys):
    images = [sound(tmp_path, f"{n}.nii") for n in "abc"]
    rows = [[f"scan{n}", image, 50, "F", ""] for n, image in enumerate(images)]
    manifest = write_manifest(tmp_path / "scans.csv", rows)
    settings = tmp_path / "config.yaml"
    settings.write_text("keep_label_maps: false\nshard_size: 2\n")
    gb = []
    for words in ([], ["--config", str(settings)]):
        cli.run(["check", str(manifest), "--json", *words])
        gb.append(json.loads(capsys.readouterr().out)["estimate"]["disk_gb"])
    assert gb[1] == pytest.approx(gb[0] * 2 / 3)
    cli.run(["check", str(manifest), "--config", str(settings)])
    printed = " ".join(capsys.readouterr().out.split())
    assert "for each shard at work; they are not kept" in printed


def test_a_check_leaves_the_logging_of_ingest_as_it_was(tmp_path):
    manifest = write_manifest(tmp_path / "scans.csv", [["no", tmp_path / "no.nii", 50, "F", ""]])
    before = logging.getLogger("cohortvol.stages.ingest").level
    assert cli.run(["check", str(manifest)]) == 3
    assert logging.getLogger("cohortvol.stages.ingest").level == before


def test_a_table_that_cannot_be_used_ends_with_64(tmp_path, capsys):
    manifest = tmp_path / "scans.csv"
    manifest.write_text("scan,picture\n1,2\n")
    assert cli.run(["check", str(manifest)]) == 64
    assert "scan_id" in capsys.readouterr().err


def test_a_model_that_is_not_there_costs_the_estimate_and_not_the_check(tmp_path, capsys):
    manifest = write_manifest(
        tmp_path / "scans.csv", [["good", sound(tmp_path, "g.nii"), 5, "F", ""]]
    )
    settings = tmp_path / "config.yaml"
    settings.write_text("model: nowhere\n")
    assert cli.run(["check", str(manifest), "--config", str(settings)]) == 0
    assert "No estimate of time and memory: no model 'nowhere'" in capsys.readouterr().out
    assert cli.run(["check", str(manifest), "--model", "nowhere"]) == 64


def test_an_interrupted_check_leaves_nothing_behind(tmp_path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    rows = [
        [f"series-{n}", dicom_fixture.write_series(tmp_path / f"series-{n}", n_slices=30, seed=n),
         50, "F", ""]
        for n in range(24)
    ]  # fmt: skip
    manifest = write_manifest(tmp_path / "scans.csv", rows)
    process = subprocess.Popen(
        [COHORTVOL, "check", str(manifest)],
        env={**os.environ, "TMPDIR": str(temporary)}, cwd=REPOSITORY,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    until = time.monotonic() + 120
    while time.monotonic() < until and not any(
        ".nii" in name
        for _, _, names in os.walk(temporary)  # which takes it that folders go meanwhile
        for name in names
    ):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode not in (0, 3)
    assert list(temporary.iterdir()) == []


# --- the estimate ------------------------------------------------------------------------------


def plain_unet(features: list[int], n_heads: int) -> dict[str, list[int]]:
    """Shapes of a U-Net with two convolutions a stage, as nnU-Net names them."""
    shapes, before = {}, 1
    for stage, now in enumerate(features):
        shapes[f"encoder.stages.{stage}.0.convs.0.conv.weight"] = [now, before, 3, 3, 3]
        shapes[f"encoder.stages.{stage}.0.convs.1.conv.weight"] = [now, now, 3, 3, 3]
        shapes[f"encoder.stages.{stage}.0.convs.0.norm.weight"] = [now]
        before = now
    for number, (above, now) in enumerate(zip(features[:0:-1], features[-2::-1], strict=True)):
        shapes[f"decoder.transpconvs.{number}.weight"] = [above, now, 2, 2, 2]
        shapes[f"decoder.stages.{number}.convs.0.conv.weight"] = [now, 2 * now, 3, 3, 3]
        shapes[f"decoder.stages.{number}.convs.1.conv.weight"] = [now, now, 3, 3, 3]
        shapes[f"decoder.seg_layers.{number}.weight"] = [n_heads, now, 1, 1, 1]
    return shapes


@pytest.mark.parametrize(
    ("patch", "features", "strides", "n_heads", "gigaflop"),
    [  # operations counted inside torch for networks of benchmarks/side_by_side_models.py
        ((96, 112, 112), [32, 64, 128, 256, 320], [[1, 1, 1], *[[2, 2, 2]] * 4], 51, 547),
        (
            (112, 160, 128),
            [32, 64, 128, 256, 320, 320],
            [[1, 1, 1], *[[2, 2, 2]] * 4, [1, 2, 2]],
            30,
            1049,
        ),
    ],
)
def test_the_work_of_a_network_is_that_which_torch_does(
    patch, features, strides, n_heads, gigaflop
):
    flop, first = work.flop_per_patch(plain_unet(features, n_heads), patch, strides)
    assert flop / 1e9 == pytest.approx(gigaflop, rel=0.01)
    assert first == 32


def network_of(patch, features, n_labels, **values):
    return work.Network(
        spacing_mm=(3.0, 3.0, 3.0), patch=patch, transpose=(0, 1, 2), step=0.8,
        flop_per_patch=547e9, features=features, n_labels=n_labels, **values,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("voxels", "network", "measured_gb"),
    [  # benchmarks/README.md: memory.py shard and large, side_by_side.py tiny and full-3mm
        (96 * 80 * 40, network_of((96, 112, 112), 4, 51), 1.385),
        (512 * 512 * 900, network_of((64, 80, 80), 4, 30), 3.1),
        (320 * 260 * 72, network_of((96, 112, 112), 4, 51), 1.88),
        (320 * 260 * 72, network_of((96, 112, 112), 32, 51), 2.605),
    ],
)
def test_the_memory_is_that_which_was_measured_to_a_quarter(voxels, network, measured_gb):
    assert work.memory_gb(voxels, [network]) == pytest.approx(measured_gb, rel=0.25)


def test_patches_are_those_of_the_sliding_window():
    window = pytest.importorskip("nnunetv2.inference.sliding_window_prediction")
    network = network_of((96, 112, 112), 32, 51)
    for shape in ((72, 108, 133), (96, 112, 113), (300, 260, 241), (10, 10, 10)):
        padded = tuple(np.maximum(shape, network.patch))
        steps = window.compute_steps_for_sliding_window(padded, network.patch, 0.8)
        extent_mm = np.array([shape], float) * 3.0
        assert network.patches(extent_mm)[0] == np.prod([len(axis) for axis in steps])


def grid(shape, spacing_mm, orientation):
    names = ["n_i", "n_j", "n_k", "spacing_i_mm", "spacing_j_mm", "spacing_k_mm"]
    return dict(zip(names, (*shape, *spacing_mm), strict=True)) | {"orientation": orientation}


def test_the_estimate_grows_with_the_scan_and_does_not_depend_on_how_it_is_stored():
    card = load_card(EMBEDDED)
    profile = PROFILES["nnunet"]
    axial = grid((320, 260, 72), (1.25, 1.25, 3.0), "RAS")
    stored = grid((72, 320, 260), (3.0, 1.25, 1.25), "ILP")
    large = grid((640, 520, 144), (1.25, 1.25, 3.0), "RAS")
    found = [work.needs(pd.DataFrame([scan]), card, profile) for scan in (axial, stored, large)]
    assert found[0] == found[1]
    assert found[2].petaflop > 4 * found[0].petaflop
    assert found[2].memory_gb > found[0].memory_gb
    fewer = work.needs(pd.DataFrame([large]), card, replace(profile, tile_step=0.8))
    assert fewer.petaflop < found[2].petaflop
    twice = work.needs(pd.DataFrame([axial, axial]), card, profile)
    assert twice.two_cores.hours == pytest.approx(2 * found[0].two_cores.hours)
    assert twice.memory_gb == found[0].memory_gb


# --- manifests in which all rows, none, or every second one is bad ---------------------------

WRITERS = {
    "csv": lambda table, path: table.to_csv(path, index=False),
    "tsv": lambda table, path: table.to_csv(path, sep="\t", index=False),
    "parquet": lambda table, path: table.to_parquet(path, index=False),
}


@pytest.fixture(scope="module")
def six_images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("six")
    return [sound(folder, f"{n}.nii", n) for n in range(6)]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("column", ["sex", "scan_id", "age_years", "image"])
@pytest.mark.parametrize(("bad", "code"), [([], 0), ([1, 3, 5], 3), (list(range(6)), 3)])
def test_any_number_of_rows_may_be_bad(tmp_path, capsys, six_images, kind, column, bad, code):
    table = pd.DataFrame({
        "scan_id": [f"s{n}" for n in range(6)], "image": list(map(str, six_images)),
        "age_years": [str(40 + n) for n in range(6)], "sex": ["female", "male"] * 3,
    })  # fmt: skip
    wrong = {"sex": "2", "scan_id": "a b", "age_years": "x", "image": str(tmp_path / "gone.nii")}
    table.loc[bad, column] = wrong[column]
    path = tmp_path / f"scans.{kind}"
    WRITERS[kind](table, path)
    assert cli.run(["check", str(path), "--out", str(tmp_path / "checked.csv"), "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["usable"]) == (6, 6 - len(bad))
    assert sum(problem["n"] for problem in found["problems"]) == len(bad)
    words = ["--manifest", str(path), "--results", str(tmp_path / "results")]
    assert cli.run(["manifest", *words, "--bad-rows", "quarantine"]) == 0
    rows = read_table(tmp_path / "results" / "manifest" / "scans.parquet", MANIFEST)
    assert rows["state"].notna().sum() == (0 if column == "image" else len(bad))
