"""Cohorts of label maps made elsewhere: tables as of our own worker, changes, what is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

import threshold_cohort
from cohortvol import cli
from cohortvol.errors import ManifestError, TemporaryError
from cohortvol.models.card import load_card
from cohortvol.models.label_table import read_labels, write_model
from cohortvol.models.networks import Source, import_nnunet
from cohortvol.stages import assemble, ingest, manifest, measure, segment
from cohortvol.stages.segment.elsewhere import LabelMaps
from cohortvol.store.files import sha256_of
from cohortvol.store.keys import read_map
from cohortvol.store.schemas import INGEST
from cohortvol.store.tables import read_table, write_table
from cohortvol.tools.status import explain
from cohortvol.tools.verify.folder import verify
from elsewhere_fixture import SHAPE, model_of, write
from nnunet_fixture import results_folder
from segment_cohort import AFFINE, Shard, write_scan
from segment_cohort import scan as drawn_scan

STEP = 100
"""Grey values of a label; the network of these tests reads it off the scan."""


class ReadsLabels(threshold_cohort.ThresholdSegmenter):
    """The worker's network, which finds every label that the scan was drawn with."""

    @classmethod
    def load(cls, folder, profile=None, **_):
        return cls([])

    def finish(self, predicted):
        return (predicted.prepared.data // STEP).astype(np.uint8)


def network_model(folder: Path, labels: dict[int, str], n_labels: int) -> Path:
    """A model of networks with these labels, of which the dataset may have more."""
    threshold_cohort.write_model(folder)
    part = folder / "parts" / "threshold"
    names = {labels.get(index, f"other{index}"): index for index in range(1, n_labels + 1)}
    dataset = json.loads((part / "dataset.json").read_text())
    (part / "dataset.json").write_text(json.dumps({**dataset, "labels": {"background": 0} | names}))
    save_file({"none": np.zeros(1, np.float32)}, part / "fold_0.safetensors")
    card = json.loads((folder / "card.json").read_text())
    card["labels"] = card["parts"][0]["labels"] = labels
    for name in card["parts"][0]["files"]:
        card["parts"][0]["files"][name] = sha256_of(folder / name)
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def drawn(seed: int, labels: list[int], results: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """A label map in which most labels are, and a scan that shows those that are results."""
    random = np.random.default_rng(seed)
    shape = (14, 13, 8 + seed % 2)
    voxels = np.zeros(shape, np.uint8)
    for label in random.permutation(labels)[: -len(labels) // 10]:
        corner = [int(random.integers(0, n - 1)) for n in shape]
        box = tuple(slice(c, c + int(random.integers(1, 5))) for c in corner)
        voxels[box] = label
    shown = np.where(np.isin(voxels, results), voxels, 0)
    image = shown.astype(np.int16) * STEP + random.integers(1, STEP, shape).astype(np.int16)
    return voxels, image


def cohort(folder: Path, n: int, card_labels: dict[int, str], names: dict[int, str]) -> Path:
    """A manifest of `n` scans; every other label map is a folder with a file per structure."""
    rows = []
    affine = np.diag([-5.5, 5.5, 6, 1])
    for number in range(n):
        voxels, image = drawn(number, [*names], [*card_labels])
        scan_id, place = f"s{number:03d}", folder / "dseg" / f"s{number:03d}"
        write(folder / "images" / f"{scan_id}.nii", image, affine)
        if number % 2:
            for label, name in names.items():
                if label in card_labels:
                    write(place / f"{name}.nii", (voxels == label).astype(np.uint8), affine)
        else:
            write(place.with_suffix(".nii.gz"), voxels, affine)
        dseg = f"dseg/{scan_id}" if number % 2 else f"dseg/{scan_id}.nii.gz"
        rows.append({"scan_id": scan_id, "image": f"images/{scan_id}.nii", "dseg": dseg})
    pd.DataFrame(rows).to_csv(folder / "scans.csv", index=False)
    return folder / "scans.csv"


Tables = tuple[pd.DataFrame, pd.DataFrame]


def through(scans: Path, results: Path, model: Path, **settings) -> Tables:
    """Volumes and scans of a cohort, by the stages themselves."""
    manifest.run(scans, results, shard_size=64, **settings)
    name = load_card(model).id
    for listed in sorted((results / "manifest/shards").glob("*.parquet")):
        places = {
            stage: results / place / listed.name
            for stage, place in (
                ("ingest", "ingest"),
                ("segment", f"segment/{name}"),
                ("measure", f"measure/{name}"),
            )
        }
        ingest.run(listed, places["ingest"], ingest.Rules(fov_range_mm=(40, 2500)))
        segment.run_shard(
            places["ingest"], model, places["segment"].with_suffix(""), places["segment"], workers=0
        )
        measure.run_shard(places["segment"], places["ingest"], model, results, places["measure"])
    assemble.run(results, name)
    return pd.read_parquet(results / "volumes.parquet"), pd.read_parquet(results / "scans.parquet")


MADE_BY = ["model", "profile", "segmentation_key", "label_map", "precision"]


@pytest.mark.slow
@pytest.mark.parametrize(("vocabulary", "n_labels"), [("total_mr", 50), ("vibesegmentator", 72)])
def test_the_tables_are_those_of_our_own_worker(tmp_path, vocabulary, n_labels):
    """100 label maps each: half of them a file, half of them a file per structure."""
    table = read_labels(vocabulary)
    given = write_model(table, tmp_path / "given", model_id="given")
    names = {one.label: one.name for one in table}
    assert [*names] == [*range(1, n_labels + 1)]
    own = network_model(tmp_path / "own", dict(given.labels), n_labels)
    scans = cohort(tmp_path, 100, dict(given.labels), names)
    with mock.patch("cohortvol.stages.segment.infer.Segmenter", ReadsLabels):
        volumes, states = through(scans, tmp_path / "results_own", own)
    volumes_given, states_given = through(scans, tmp_path / "results_given", given.folder)
    assert set(states["state"]) == {"done"}
    assert volumes["volume_ml"].notna().sum() > 100 * n_labels / 2
    pd.testing.assert_frame_equal(
        volumes.drop(columns=["model", "profile"]), volumes_given.drop(columns=["model", "profile"])
    )
    pd.testing.assert_frame_equal(states.drop(columns=MADE_BY), states_given.drop(columns=MADE_BY))
    assert set(states_given["profile"]) == {"elsewhere"}


@pytest.fixture
def small(tmp_path):
    """Four scans with three labels, and the model of their label maps."""
    labels = {1: "liver", 2: "milz", 9: "last"}
    scans = cohort(tmp_path, 4, {1: "liver", 2: "spleen", 9: "kidney_left"}, labels)
    return scans, model_of(tmp_path), tmp_path / "results"


def receipts(results: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in results.glob("segment/given/*/s*.json")}


def states_of(results: Path) -> dict[str, tuple[str, str | None]]:
    table = pd.read_parquet(results / "scans.parquet")
    reasons = table["reason"].astype(object).where(table["reason"].notna(), None)
    return dict(zip(table["scan_id"], zip(table["state"], reasons, strict=True), strict=True))


def test_a_label_map_that_changes_or_comes_is_taken_again_and_no_other(small):
    scans, model, results = small
    late = scans.parent / "dseg" / "s002.nii.gz"
    content = late.read_bytes()
    late.unlink()
    write(scans.parent / "dseg" / "s001" / "milz.nii", np.zeros(SHAPE, np.uint8))
    through(scans, results, model)
    assert states_of(results) == {
        "s000": ("done", None),
        "s001": ("quarantined", "DSEG_GRID"),
        "s002": ("quarantined", "DSEG_MISSING"),
        "s003": ("done", None),
    }
    before = receipts(results)
    assert manifest.changed_images(results) == 0
    through(scans, results, model)
    assert receipts(results) == before
    late.write_bytes(content)
    changed = scans.parent / "dseg" / "s003" / "last.nii"
    image = nib.load(changed)
    write(changed, np.zeros(image.shape, np.uint8), image.affine)
    assert manifest.changed_images(results) == 2
    through(scans, results, model)
    after = receipts(results)
    assert {name for name in before if before[name] != after[name]} == {"s002", "s003"}
    assert states_of(results)["s002"] == ("done", None)
    volumes = pd.read_parquet(results / "volumes.parquet").set_index(["scan_id", "structure"])
    gone = volumes.loc[("s003", "kidney_left")]
    assert (gone["status"], gone["reason"]) == ("absent", "QC_ABSENT")
    assert pd.isna(gone["volume_ml"])
    softmax = ["volume_expected_ml", "volume_low_ml", "volume_high_ml", "interval"]
    assert volumes[softmax].isna().all(axis=None), "no network said how sure it was"
    assert wrong(results) == []


def wrong(results: Path) -> list[str]:
    """Files that `verify` complains of, before anything was analysed."""
    problems = verify(results, deep=True)["problems"]
    return [one.path for one in problems if not one.path.startswith(("analyse", "report"))]


def test_a_shard_that_was_stopped_goes_on_where_it_was(small):
    scans, model, results = small
    read = LabelMaps.read
    with mock.patch.object(LabelMaps, "read", autospec=True) as stopped:
        stopped.side_effect = lambda self, work: (
            read(self, work) if work.scan_id < "s002" else full_disk()
        )
        with pytest.raises(TemporaryError):
            through(scans, results, model)
    done = receipts(results)
    assert sorted(done) == ["s000", "s001"]
    through(scans, results, model)
    assert done.items() <= receipts(results).items()
    assert {state for state, _ in states_of(results).values()} == {"done"}


def full_disk():
    raise TemporaryError("the disk is full")


def test_with_hashed_ids_no_path_is_shown_and_a_pattern_is_refused(small):
    scans, model, results = small
    through(scans, results, model, hash_ids=True)
    assert {state for state, _ in states_of(results).values()} == {"done"}
    key = {text: key for key, text in read_map(results).items() if key[0] == "s"}
    links = results / "private" / "label_maps"
    assert (links / f"{key['s000']}.nii.gz").resolve() == scans.parent / "dseg" / "s000.nii.gz"
    assert (links / key["s001"]).resolve() == scans.parent / "dseg" / "s001"
    shown = b"".join(path.read_bytes() for path in results.rglob("*.parquet"))
    assert b"s001" not in shown
    (links / key["s001"]).unlink()
    assert wrong(results) == [f"private/label_maps/{key['s001']}"]
    withdrawn = scans.parent / "withdrawn.txt"
    withdrawn.write_text("s000\n")
    manifest.run(scans, results, shard_size=64, hash_ids=True, withdrawals=withdrawn)
    assert not any(key["s000"] in str(path) for path in results.rglob("*"))
    rows = scans.read_text().replace("dseg/s000.nii.gz", "dseg/s000_*.nii.gz")
    scans.write_text(rows)
    found = manifest.read_manifest(scans, bad_rows="quarantine")
    assert found["reason"].isna().all()
    manifest.run(scans, results, shard_size=64, hash_ids=True, bad_rows="quarantine")
    found = pd.read_parquet(results / "manifest" / "scans.parquet")
    assert found["reason"].fillna("").tolist() == ["DSEG_PATTERN", "", "", ""]


def test_who_withdrew_leaves_no_path_of_a_label_map(small):
    scans, model, results = small
    (scans.parent / "dseg" / "s001").rename(scans.parent / "dseg" / "of-her")
    scans.write_text(scans.read_text().replace("dseg/s001", "dseg/of-her"))
    through(scans, results, model)
    (results / "logs").mkdir()
    log = results / "logs" / "other.log"
    log.write_text("one line\nread dseg/of-her, it was slow\n")
    withdrawn = scans.parent / "withdrawn.txt"
    withdrawn.write_text("s001\n")
    manifest.run(scans, results, shard_size=64, withdrawals=withdrawn)
    files = [path for path in results.rglob("*") if path.is_file()]
    for word in ("s001", "of-her"):
        assert not any(word in path.name or word.encode() in path.read_bytes() for path in files)
    assert log.read_text() == "one line\n"


def test_label_maps_lie_only_where_images_may(small):
    scans, _, results = small
    manifest.run(scans, results, shard_size=64)
    listed, out = results / "manifest/shards/0000.parquet", results / "ingest/0000.parquet"
    ingest.run(listed, out, ingest.Rules(allow_roots=(str(scans.parent / "images"),)))
    table = read_table(out, INGEST)
    assert set(table["reason"]) == {"SRC_OUTSIDE_ROOT"}
    assert set(table["detail"]) == {"its label map"}
    ingest.run(listed, out, ingest.Rules(allow_roots=(str(scans.parent),)))
    assert set(read_table(out, INGEST)["state"]) == {"ready"}


def test_two_stars_are_a_bad_row(small):
    scans, _, results = small
    scans.write_text(scans.read_text().replace("dseg/s001", "dseg/*/s001*.nii"))
    with pytest.raises(ManifestError, match=r"DSEG_PATTERN +one \* at most"):
        manifest.run(scans, results, shard_size=64)


def test_check_reads_the_label_maps_too(small, tmp_path, capsys):
    scans, model, results = small
    (scans.parent / "dseg" / "s001" / "milz.nii").unlink()
    settings = scans.parent / "settings.yaml"
    settings.write_text(f"results: {results}\n")
    words = ["check", str(scans), "--config", str(settings), "--model", str(model)]
    assert cli.run(words) == 3
    shown = capsys.readouterr().out
    assert "3 can be used" in shown
    assert "DSEG_MISSING" in shown
    assert "No network is run, and no GPU needed" in shown
    pd.read_csv(scans).drop(columns="dseg").to_csv(scans, index=False)
    assert cli.run(words) == 64
    assert "no row has a path in the column dseg" in capsys.readouterr().err


WITHOUT_TORCH = """
import sys
sys.modules.update(torch=None, nnunetv2=None)
from cohortvol.cli import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.slow
def test_no_torch_is_needed_and_ends_are_told(small):
    scans, model, results = small
    (scans.parent / "dseg" / "s000.nii.gz").write_bytes(b"")
    manifest.run(scans, results, shard_size=64)
    out = results / "segment/given/0000.parquet"
    ingested = results / "ingest/0000.parquet"
    ingest.run(results / "manifest/shards/0000.parquet", ingested)
    words = ["segment", "--ingest", ingested, "--model", model, "--folder", out.with_suffix("")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *map(str, words), "--out", str(out)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "s000: quarantined DSEG_EMPTY" in done.stderr
    receipt = json.loads((out.with_suffix("") / "s001.json").read_text())
    assert {"cohortvol", "python", "numpy", "nibabel"} == set(receipt["versions"])
    measure.run_shard(out, ingested, model, results, results / "measure/given/0000.parquet")
    told = explain(results, "s000")
    assert told["state"] == "quarantined"
    assert [one["reason"] for one in told["reasons"]] == ["DSEG_EMPTY"]


NAMES = ({}, {"liver": "aorta", "spleen": "face", "kidney_left": "heart"})
"""By layer, what the labels of the tiny network are called."""


@pytest.mark.slow
@pytest.mark.parametrize("layers", [1, 2])
def test_label_maps_of_our_own_worker_come_back_as_they_were(tmp_path, layers):
    """Its label map and `dseg.tsv` are a label map made elsewhere and its table."""
    trained = results_folder(tmp_path / "trained")
    sources = [Source(trained, f"part{n}", layer=n, rename=NAMES[n]) for n in range(layers)]
    own = tmp_path / "models" / "tiny"
    import_nnunet(sources, own, model_id="tiny", licence="CC0-1.0")
    images = {}
    for seed in range(3):
        images[f"sub-{seed}"] = tmp_path / "images" / f"sub-{seed}.nii.gz"
        write_scan(images[f"sub-{seed}"], drawn_scan(seed), AFFINE)
    shard = Shard(tmp_path / "results", own, images)
    segment.run_shard(**shard.arguments(), threads=1, device="cpu", workers=0)
    table = shard.folder / "dseg.tsv"
    model = write_model(read_labels(str(table)), tmp_path / "models/given", model_id="given").folder
    assert load_card(model).labels_by_layer == load_card(own).labels_by_layer
    ingested = read_table(shard.ingest, INGEST)
    ingested["dseg"] = [str(shard.folder / f"{name}_dseg.nii.gz") for name in ingested["scan_id"]]
    ingested["dseg_sha256"] = [sha256_of(Path(path)) for path in ingested["dseg"]]
    write_table(shard.ingest, ingested, INGEST)
    out = tmp_path / "results/segment/given/0000.parquet"
    segment.run_shard(shard.ingest, model, out.with_suffix(""), out, workers=0)
    assert {path.name: path.read_bytes() for path in out.with_suffix("").glob("*.gz")} == (
        shard.label_maps()
    )
    tables = []
    for segmented, folder in ((shard.out, own), (out, model)):
        measured = tmp_path / "measured.parquet"
        measure.run_shard(segmented, shard.ingest, folder, tmp_path / "results", measured)
        tables.append(pd.read_parquet(measured).drop(columns=["model", "profile"]))
    assert tables[0]["volume_ml"].notna().any()
    pd.testing.assert_frame_equal(*tables)
