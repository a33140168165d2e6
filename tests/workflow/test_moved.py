"""A finished folder on another path and in a fresh clone, where one thing after another changes."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest

from driven import Driven, clone
from threshold_cohort import Row, Settings, Source, image_bytes

PAGES = ("analyse", "report")  # drawn from the final tables alone; left out for their time

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def jobs(*rules, shards=("0000", "0001")):
    return [f"{rule} {shard}" for rule in rules for shard in shards]


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """Four scans in two shards; then neither the first clone nor the first folder is left."""
    folder = tmp_path_factory.mktemp("moved")
    source = Source(folder / "source")
    for n in (4, 6, 8, 10):
        source.write_image(f"{n}.nii.gz", image_bytes(n))
        source.rows.append(Row(f"sub-{n}", f"person-{n}", f"{n}.nii.gz", 40 + n))
    first = Driven(clone(folder / "one", short=True), source, "results", Settings(shard_size=2))
    assert len(first.run()) == 8
    # A copy in which no file has its time, as over a network or out of a backup.
    place = folder / "another" / "place"
    shutil.copytree(folder / "one" / "results", place, copy_function=shutil.copy)
    shutil.rmtree(folder / "one")
    return replace(first, checkout=clone(folder / "two", short=True), results=str(place))


def receipts(moved):
    return {path.name: path.read_bytes() for path in moved.place.glob("segment/*/*/*.json")}


def test_what_must_be_is_made_again_and_no_more(moved):
    """The three ways to ask are compared at each step."""

    def does(*words):
        listed, counts = moved.told(*words)
        plan = sorted(job for job in moved.plan() if job not in PAGES)
        ran = sorted(moved.run(*words))
        assert ran == plan
        assert sum(n for rule, n in counts.items() if rule not in PAGES) == len(ran)
        assert listed == sorted(job for job in ran if "manifest" not in ran or " " not in job)
        return ran

    assert does() == []
    before = receipts(moved)
    # Another manifest: one scan has gone, two others come into a shard of their own.
    moved.source.rows.pop()
    for n in (13, 15):
        moved.source.write_image(f"{n}.nii.gz", image_bytes(n))
        moved.source.rows.append(Row(f"new-{n}", f"new-{n}", f"{n}.nii.gz", 40 + n))
    made = jobs("ingest", "segment", "measure", shards=("0001", "0002"))
    assert does() == sorted([*made, "manifest", "assemble"])
    scans = pd.read_parquet(moved.place / "scans.parquet")
    assert scans["scan_id"].tolist() == [row.scan_id for row in moved.source.rows]
    assert scans["state"].eq("done").all()
    assert before.items() <= receipts(moved).items(), "a finished scan was segmented again"
    # A setting of one stage, and a word on the card of the model.
    moved.settings = replace(moved.settings, outlier_max_z=4.0, notes="a word")
    assert does() == ["assemble"]
    # Another model, of other weights.
    moved.settings = replace(moved.settings, weights="b")
    shards = ("0000", "0001", "0002")
    assert does() == sorted([*jobs("segment", "measure", shards=shards), "assemble"])
