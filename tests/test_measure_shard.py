"""Measure: a shard from its files to its table, scans that fail in it, and previews."""

import errno
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from cohortvol.errors import ModelError, TemporaryError
from cohortvol.stages import measure
from cohortvol.stages.measure import shard as shard_module
from cohortvol.store import schemas, tables
from cohortvol.store.files import sha256_of
from phantoms import ANISOTROPIC, STRUCTURES, abdomen, ramp

ANY_SIZE = {"plausible_ml": {}}  # the phantom's organs are as small as a pea


# --- a shard ---------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path):
    """A results folder of one shard: three segmented scans, one quarantined."""
    return Shard(tmp_path)


class Shard:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ingest = folder / "ingest" / "0000.parquet"
        self.segment = folder / "segment" / "toy" / "0000.parquet"
        self.out = folder / "measure" / "toy" / "0000.parquet"
        self.scans = {name: self.add(name) for name in ("sub-3", "sub-1", "sub-2")}
        self.write()

    def add(self, scan_id: str) -> dict[str, str]:
        image = self.folder / "images" / f"{scan_id}.nii.gz"
        label_map = self.folder / "segment" / "toy" / "0000" / f"{scan_id}_dseg.nii.gz"
        for path, data in ((image, ramp()), (label_map, abdomen())):
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(data, ANISOTROPIC), path)
        return {
            "scan_id": scan_id,
            "state": "segmented",
            "image": str(image),
            "image_sha256": sha256_of(image),
            "label_map": str(label_map.relative_to(self.folder)),
            "label_map_sha256": sha256_of(label_map),
            "model": "toy",
            "profile": "nnunet",
            "segmentation_key": "0" * 16,
        }

    def write(self) -> None:
        bad = {"scan_id": "sub-9", "state": "quarantined", "reason": "SRC_EMPTY"}
        segmented = pd.DataFrame([*self.scans.values(), bad])
        ingested = segmented.assign(state=segmented["state"].replace("segmented", "ready"))
        for path, frame, schema in (
            (self.segment, segmented, schemas.SEGMENT),
            (self.ingest, ingested, schemas.INGEST),
        ):
            known = [name for name in schema if name in frame.columns]
            tables.write_table(path, frame[known], schema)

    def run(self, **thresholds) -> pd.DataFrame:
        volumes, _ = measure.measure_shard(
            tables.read_table(self.segment, schemas.SEGMENT).query("state == 'segmented'"),
            tables.read_table(self.ingest, schemas.INGEST),
            [STRUCTURES],
            self.folder,
            **(ANY_SIZE | thresholds),
        )
        tables.write_table(self.out, volumes, schemas.VOLUMES)
        return tables.read_table(self.out, schemas.VOLUMES)


@pytest.mark.parametrize(
    ("profile", "largest", "usable"),
    [("ts218", 1.0, False), ("paper+body", 99.0, False), ("ts218", 100.0, True),
     ("fast", 1.0, True), ("nnunet", 1.0, True)],
)  # fmt: skip
def test_a_scan_that_loses_its_grey_levels_in_the_profile_is_no_number(
    results, profile, largest, usable
):
    """TotalSegmentator's cut to whole numbers makes an image of 0 to 1 empty (its issue 455)."""
    scan = results.scans["sub-1"]
    scan |= {"profile": profile, "intensity_min": 0.0, "intensity_max": largest}
    results.write()
    rows = results.run().set_index("scan_id").loc["sub-1"].set_index("structure")
    assert (rows.loc["liver", "qc"] != "exclude") == usable
    assert rows["qc_flags"].str.contains("QC_FEW_GREY_LEVELS").all() != usable


def test_a_shard_is_sorted_by_scan_then_label_with_sums_last(results):
    volumes = results.run()
    assert volumes["scan_id"].drop_duplicates().tolist() == ["sub-1", "sub-2", "sub-3"]
    of_one = volumes[volumes["scan_id"] == "sub-2"]
    assert of_one["structure"].tolist() == [*STRUCTURES.values(), "kidneys"]
    assert set(volumes["model"]) == {"toy"}
    assert set(volumes["profile"]) == {"nnunet"}


def test_intensities_of_a_shard_are_read_from_its_images(results):
    volumes = results.run()
    assert volumes.loc[volumes["structure"] == "liver", "mean_intensity"].tolist() == [185.0] * 3


def test_measuring_again_gives_the_same_bytes(results):
    results.run()
    first = sha256_of(results.out)
    results.run()
    assert sha256_of(results.out) == first


def fails_with(results, scan_id):
    volumes = results.run()
    failed = volumes[volumes["status"] == "failed"]
    assert set(failed["scan_id"]) == {scan_id}
    assert failed["structure"].tolist() == [*STRUCTURES.values(), "kidneys"]
    assert failed["volume_ml"].isna().all()
    assert (failed["qc"] == "exclude").all()
    assert volumes["scan_id"].nunique() == 3
    return failed["reason"].drop_duplicates().item()


def rewrite_label_map(results, scan_id, data, affine):
    scan = results.scans[scan_id]
    path = results.folder / scan["label_map"]
    nib.save(nib.Nifti1Image(data, affine), path)
    scan["label_map_sha256"] = sha256_of(path)
    results.write()


def test_a_label_map_on_another_grid_fails_its_scan_and_the_shard_goes_on(results):
    moved = ANISOTROPIC.copy()
    moved[2, 3] += 3.0
    rewrite_label_map(results, "sub-2", abdomen(), moved)
    assert fails_with(results, "sub-2") == "BUG_GRID"


def test_a_label_outside_the_card_fails_its_scan(results):
    label_map = abdomen()
    label_map[0, 0, 8] = 6
    rewrite_label_map(results, "sub-1", label_map, ANISOTROPIC)
    assert fails_with(results, "sub-1") == "BUG_RANGE"


def test_a_label_map_that_changed_since_it_was_segmented_is_not_measured(results):
    path = results.folder / results.scans["sub-1"]["label_map"]
    nib.save(nib.Nifti1Image(abdomen(), np.eye(4)), path)
    assert fails_with(results, "sub-1") == "BUG_DIVERGED"


def test_an_image_that_changed_since_it_was_segmented_is_not_measured(results):
    Path(results.scans["sub-3"]["image"]).write_bytes(b"another image")
    assert fails_with(results, "sub-3") == "SRC_CHANGED"


def test_an_image_that_has_gone_is_named_missing(results):
    Path(results.scans["sub-3"]["image"]).unlink()
    assert fails_with(results, "sub-3") == "SRC_MISSING"


def test_an_unforeseen_error_fails_its_scan_and_leaves_a_traceback_in_the_log(
    results, monkeypatch, caplog
):
    real = shard_module.read_scan

    def breaks(label_map, *rest):
        if "sub-2" in label_map.name:
            raise ZeroDivisionError("for this test")
        return real(label_map, *rest)

    monkeypatch.setattr(shard_module, "read_scan", breaks)
    assert fails_with(results, "sub-2") == "BUG_UNEXPECTED"
    assert "ZeroDivisionError" in caplog.text


def test_equal_crashes_have_one_hash_and_their_text_stays_out_of_the_log(
    results, monkeypatch, caplog
):
    caplog.set_level("INFO", "cohortvol")
    errors = iter([KeyError("Doe"), KeyError("/data/Doe.nii"), ValueError("Doe")])

    def crash(*_rest, **_thresholds):
        raise next(errors)

    monkeypatch.setattr(shard_module, "measure_scan", crash)
    volumes = results.run()
    assert set(volumes["reason"]) == {"BUG_UNEXPECTED"}
    hashes = re.findall(r"failed with BUG_UNEXPECTED: (\w+ [0-9a-f]{12})$", caplog.text, re.M)
    assert len(hashes) == 3
    assert hashes[0] == hashes[1]
    assert hashes[2].startswith("ValueError ")
    assert "Doe" not in caplog.text


def test_failing_storage_stops_the_shard_and_names_no_file(results, monkeypatch):
    def fail(*_rest, **_thresholds):
        raise OSError(errno.EIO, "Input/output error", "/data/Doe.nii")

    monkeypatch.setattr(shard_module, "measure_scan", fail)
    with pytest.raises(TemporaryError, match="sub-1: the storage is at fault") as raised:
        results.run()
    assert "Doe" not in str(raised.value)


def test_too_little_memory_stops_the_shard_so_that_it_is_run_again(results, monkeypatch):
    def too_large(*rest, **thresholds):
        raise MemoryError

    monkeypatch.setattr(shard_module, "measure_scan", too_large)
    with pytest.raises(TemporaryError, match="sub-1"):
        results.run()


def test_a_shard_without_a_segmented_scan_gives_an_empty_table_of_the_schema(results):
    results.scans = {}
    results.write()
    volumes = results.run()
    assert len(volumes) == 0
    assert volumes.columns.tolist() == list(schemas.VOLUMES)


def test_a_shard_of_which_every_scan_fails_is_still_a_table(results):
    for scan in results.scans.values():
        Path(scan["image"]).unlink()
    volumes = results.run()
    assert len(volumes) == 3 * 6
    assert set(volumes["status"]) == {"failed"}


# --- previews --------------------------------------------------------------------------------


def measure_shard_of(results, model="toy", **more):
    measure.run_shard(
        segment=results.segment,
        ingest=results.ingest,
        model=Path("models", model),
        results=results.folder,
        out=results.out,
        **more,
    )


def previews_of(results, monkeypatch):
    """Volumes and previews of the shard, from the files that a run writes."""
    monkeypatch.setattr(shard_module, "load_card", lambda folder: Card())
    pictures = results.folder / "previews.parquet"
    any_size = results.folder / "any_size.tsv"
    names = [*STRUCTURES.values()]
    lines = [f"{name}\t\t\tthe phantom's organs are as small as a pea" for name in names]
    any_size.write_text("\n".join(["structure\tmin_ml\tmax_ml\tsource", *lines]) + "\n")
    measure_shard_of(results, previews=pictures, plausible_ml=any_size)
    return tables.read_table(results.out, schemas.VOLUMES), pictures


def test_every_measured_scan_has_a_picture_and_an_equal_scan_an_equal_one(results, monkeypatch):
    Path(results.scans["sub-3"]["image"]).unlink()
    _, path = previews_of(results, monkeypatch)
    pictures = tables.read_table(path, schemas.PREVIEWS)
    assert pictures["scan_id"].tolist() == ["sub-1", "sub-2"]
    assert pictures["png"].str[:8].tolist() == [b"\x89PNG\r\n\x1a\n"] * 2
    assert pictures["png"].nunique() == 1
    assert set(pictures["structure"]) == {"liver"}  # reaches the edge, as others after it
    assert pictures["reason"].isna().all()


def test_drawing_again_gives_the_same_bytes(results, monkeypatch):
    _, path = previews_of(results, monkeypatch)
    first = sha256_of(path)
    previews_of(results, monkeypatch)
    assert sha256_of(path) == first


def test_a_scan_that_cannot_be_drawn_is_measured_all_the_same(results, monkeypatch, caplog):
    expected, _ = previews_of(results, monkeypatch)
    real, calls = shard_module.draw_preview, []

    def breaks(*rest):
        calls.append(rest)
        if len(calls) == 2:
            raise MemoryError("for this test")
        return real(*rest)

    monkeypatch.setattr(shard_module, "draw_preview", breaks)
    volumes, path = previews_of(results, monkeypatch)
    assert_frame_equal(volumes, expected)
    pictures = tables.read_table(path, schemas.PREVIEWS).set_index("scan_id")
    assert pictures["png"].isna().tolist() == [False, True, False]
    assert pictures.loc["sub-2", "reason"] == "BUG_UNEXPECTED"
    assert "sub-2: BUG_UNEXPECTED" in caplog.text


def test_no_picture_is_drawn_where_none_is_asked_for(results, monkeypatch):
    calls = []
    monkeypatch.setattr(shard_module, "draw_preview", lambda *rest: calls.append(rest))
    results.run()
    assert calls == []


class Card:
    id = "toy"
    labels_by_layer = (STRUCTURES,)
    stored_axes = None

    def calibration(self, profile):
        return None


def test_a_shard_is_measured_from_its_files(results, monkeypatch, caplog):
    monkeypatch.setattr(shard_module, "load_card", lambda folder: Card())
    caplog.set_level("INFO")
    measure_shard_of(results)
    assert len(tables.read_table(results.out, schemas.VOLUMES)) == 3 * 6
    assert "0000: 3 measured, 0 failed" in caplog.text
    assert len(re.findall(r"sub-\d: measured, \d+\.\d s$", caplog.text, re.M)) == 3


@pytest.mark.parametrize(("trained_on", "flagged"), [("RAS", False), ("LPS", True)])
def test_scans_on_other_axes_than_the_training_images_are_flagged(
    results, monkeypatch, trained_on, flagged
):
    card = Card()
    card.stored_axes = trained_on
    monkeypatch.setattr(shard_module, "load_card", lambda folder: card)
    ingested = tables.read_table(results.ingest, schemas.INGEST)
    tables.write_table(results.ingest, ingested.assign(orientation="RAS"), schemas.INGEST)
    measure_shard_of(results)
    volumes = tables.read_table(results.out, schemas.VOLUMES)
    assert volumes["qc_flags"].str.contains("QC_AXES").all() == flagged


def test_a_shard_segmented_with_another_model_is_refused(results, monkeypatch):
    other = Card()
    other.id = "other"
    monkeypatch.setattr(shard_module, "load_card", lambda folder: other)
    with pytest.raises(ModelError, match="segmented with toy, not with other"):
        measure_shard_of(results, model="other")
