"""Images that were broken and are given anew: the same command reads these and no others."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from driven import Driven, clone
from threshold_cohort import TOO_SHORT, Row, Settings, Source, image_bytes

PAGES = ("analyse", "report")
IMAGES = {n: image_bytes(2 * n + 4) for n in range(6)}
BROKEN = {1: IMAGES[1][:TOO_SHORT], 3: None, 4: b"these are no voxels"}
"""What stands in place of three of six images: one cut short, one missing, one text."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def write(source, n, content):
    if content is None:
        source.image(f"{n}.nii.gz").unlink(missing_ok=True)
    else:
        source.write_image(f"{n}.nii.gz", content)


def receipts(driven):
    found = driven.place.glob("segment/*/*/*.json")
    return {path.name: path.read_bytes() for path in found}


def states(driven):
    scans = pd.read_parquet(driven.place / "scans.parquet").sort_values("manifest_line")
    return scans["state"].tolist()


@pytest.mark.parametrize("hash_ids", [False, True])
def test_the_same_command_segments_what_was_repaired_and_no_other(tmp_path, hash_ids):
    source = Source(tmp_path / "source")
    for n in range(6):
        write(source, n, BROKEN.get(n, IMAGES[n]))
        source.rows.append(Row(f"sub-{n}", f"person-{n}", f"{n}.nii.gz", 40 + n))
    more = (("hash_ids", hash_ids), ("bad_rows", "quarantine"))
    driven = Driven(
        clone(tmp_path / "one", short=True), source, "results", Settings(shard_size=2), more
    )
    driven.run()
    assert states(driven) == ["done", "quarantined"] * 2 + ["quarantined", "done"]
    before = receipts(driven)
    assert len(before) == 3
    # Everything is as it was: a run has nothing to do.
    assert driven.run() == []
    for n in BROKEN:
        write(source, n, IMAGES[n])
    listed, counts = driven.told()
    plan = sorted(job for job in driven.plan() if job not in PAGES)
    unwatched = replace(driven, more=(*more, ("ingest", {"min_slices": 8, "watch": "none"})))
    assert [job for job in unwatched.plan() if job not in PAGES] == []
    ran = sorted(driven.run())
    assert ran == plan
    assert sum(n for rule, n in counts.items() if rule not in PAGES) == len(ran)
    assert listed == ["assemble", "manifest"]  # of shards nothing is known before it
    assert states(driven) == ["done"] * 6
    after = receipts(driven)
    assert before.items() <= after.items(), "a finished scan was segmented again"
    assert len(after) == 6
    assert driven.run() == []


def test_only_unfinished_scans_are_looked_at_where_the_user_says_so(tmp_path):
    source = Source(tmp_path / "source")
    for n in range(2):
        write(source, n, IMAGES[n][: TOO_SHORT if n else None])
        source.rows.append(Row(f"sub-{n}", f"person-{n}", f"{n}.nii.gz", 40 + n))
    more = (("ingest", {"min_slices": 8, "watch": "unfinished"}),)
    driven = Driven(
        clone(tmp_path / "one", short=True), source, "results", Settings(shard_size=1), more
    )
    driven.run()
    write(source, 0, image_bytes(7))  # of a scan that is done
    assert driven.run() == []
    all_of_them = replace(driven, more=(("ingest", {"min_slices": 8, "watch": "all"}),))
    assert "images of another size or time: 1" in json.dumps(all_of_them.plan())
    write(source, 1, image_bytes(5))
    assert "segment 0001" in driven.run()
