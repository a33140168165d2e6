"""A cohort with ``store: packed`` against the same one with files, through every reader."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections import Counter

import pandas as pd
import pytest

from cohortvol.stages.segment.receipts import ShardFolder
from cohortvol.store import of_scans
from cohortvol.store.of_scans import LABEL_MAP, PACK
from cohortvol.store.pack import read_contents
from cohortvol.store.schemas import SEGMENT
from cohortvol.store.tables import read_table
from cohortvol.tools import derivatives
from cohortvol.tools.status.explain import explain
from cohortvol.tools.status.summary import summary
from cohortvol.tools.verify.folder import repair, verify
from cohortvol.tools.verify.search import search
from cohortvol.workflow.plan.scans import _of_receipts
from threshold_cohort import (
    NOT_SEGMENTED,
    Row,
    Settings,
    Source,
    Stages,
    image_bytes,
    threshold_in_place_of_the_network,
)

pytestmark = pytest.mark.slow

N_SCANS = 40
CONTENTS = [content for content in range(N_SCANS + len(NOT_SEGMENTED)) if content not in (3, 11)]
TIMES = {"seconds", "seconds_network", "started_utc"}


def made(folder, **settings):
    """The results of all stages, and the most files below segment/ at the end of any scan."""
    source = Source(folder / "source")
    for number, content in enumerate(CONTENTS):
        row = Row(f"scan-{number:02d}", f"person-{number:02d}", f"{number:02d}.nii.gz", 30 + number)
        source.rows.append(row)
        source.write_image(row.image, image_bytes(content))
    source.write()
    stages = Stages(source, Settings(shard_size=N_SCANS, **settings), folder / "results")
    most, finish = [0], ShardFolder.finish

    def counted(shard, *arguments):
        most[0] = max(most[0], n_inodes(shard.folder))
        finish(shard, *arguments)

    with pytest.MonkeyPatch.context() as patched, threshold_in_place_of_the_network():
        patched.setattr(ShardFolder, "finish", counted)
        stages.all()
    return stages, most[0]


def n_inodes(folder):
    """Files and folders, hidden ones and temporary ones too."""
    return sum(1 for _ in folder.rglob("*"))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return {
        store: made(tmp_path_factory.mktemp(store), store=store) for store in ("files", "packed")
    }


@pytest.fixture
def packed(both, tmp_path):
    """A copy of the packed results, and the stages for it; with the folder it moves."""
    stages, _ = both["packed"]
    shutil.copytree(stages.results, tmp_path / "results")
    return Stages(stages.source, stages.settings, tmp_path / "results")


def pack_of(stages):
    return stages.results / "segment" / stages.card.id / "0000" / PACK


def test_tables_and_label_maps_are_those_of_files(both):
    files, packed = (both[store][0].results for store in ("files", "packed"))
    names = ["volumes.parquet", "scans.parquet"]
    names += [path.relative_to(files) for path in files.glob("measure/*/*.parquet")]
    for name in names:
        assert (files / name).read_bytes() == (packed / name).read_bytes(), name
    tables = [
        read_table(both[store][0].results / "segment/threshold/0000.parquet", SEGMENT)
        for store in ("files", "packed")
    ]
    assert list(tables[0]["state"]) == ["segmented"] * N_SCANS
    pd.testing.assert_frame_equal(*(table.drop(columns=[*TIMES]) for table in tables))
    for label_map in tables[0]["label_map"]:
        assert of_scans.read(packed / label_map) == (files / label_map).read_bytes()


def test_a_scan_takes_two_files_and_one_of_a_pack_takes_a_share(both):
    """Peak in the shard's folder while scans are at work, and all of a results folder at rest."""
    at_work = {store: most for store, (_, most) in both.items()}
    at_rest = {store: n_inodes(stages.results) for store, (stages, _) in both.items()}
    assert 2 * N_SCANS <= at_work["files"] <= 2 * N_SCANS + 3
    assert at_work["packed"] <= 5  # pack, lock, names of labels, marks of the scans in hand
    assert at_rest["files"] - at_rest["packed"] == 2 * N_SCANS - 1
    assert at_rest["packed"] / N_SCANS <= 1  # of all stages, folders too


def test_every_reader_finds_what_is_packed(both, packed, tmp_path):
    of_files = verify(both["files"][0].results, deep=True)["problems"]
    assert {one.path.split("/")[0] for one in of_files} <= {"analyse", "report"}  # not made here
    assert verify(packed.results, deep=True)["problems"] == of_files
    told = explain(packed.results, "scan-05")
    segmented = next(step for step in told["steps"] if step["stage"] == "segment")
    assert segmented["facts"]["receipt"] == f"{pack_of(packed)}: scan-05.json"
    assert segmented["facts"]["label_map"] == f"{pack_of(packed)}: scan-05{LABEL_MAP}"
    ends = _of_receipts(pack_of(packed).parent)
    assert Counter(state for state, _ in ends.values()) == {"segmented": N_SCANS}
    table = pack_of(packed).parent.with_suffix(".parquet")
    table.unlink()
    assert summary(packed.results)["stages"]["segment"] == {"finished": N_SCANS, "of": N_SCANS}


def test_derivatives_are_those_of_files(both, packed, tmp_path):
    out = {}
    for store, stages in (("files", both["files"][0]), ("packed", packed)):
        assert derivatives.run(stages.results, tmp_path / store) == 0
        assert derivatives.run(stages.results, tmp_path / store) == 0
        out[store] = {
            path.relative_to(tmp_path / store): path.read_bytes()
            for path in (tmp_path / store).rglob("*.*")
            if path.is_file()
        }
    assert len([name for name in out["packed"] if name.name.endswith(LABEL_MAP)]) == N_SCANS
    assert out["packed"] == out["files"]


def test_one_damaged_member_is_found_and_only_its_scan_is_segmented_again(packed):
    before = verify(packed.results, deep=True)["problems"]
    member = read_contents(pack_of(packed)).members[f"scan-07{LABEL_MAP}"]
    content = bytearray(pack_of(packed).read_bytes())
    content[member.at + 30] ^= 1
    pack_of(packed).write_bytes(content)
    found = [one for one in verify(packed.results, deep=True)["problems"] if one not in before]
    name = f"segment/threshold/0000/scan-07{LABEL_MAP}"
    assert [(one.path, one.kind) for one in found] == [(name, "damaged")]
    gone = repair(packed.results, found)
    assert name in gone
    assert "segment/threshold/0000/scan-07.json" in gone
    assert verify(packed.results, deep=True)["problems"] != before
    receipts = of_scans.receipts(pack_of(packed).parent)
    assert set(receipts) == {f"scan-{n:02d}" for n in range(N_SCANS)} - {"scan-07"}


def test_of_a_person_who_withdrew_no_byte_is_left_in_the_pack(packed):
    """Neither their id nor what their label map holds; those who stay are not touched."""
    folder, name = pack_of(packed).parent, "scan-09"
    theirs = of_scans.read(folder / f"{name}{LABEL_MAP}")
    shard = ShardFolder(folder, "packed")
    shard.commit_label_map(name, gzip.compress(b"an older map" * 99))  # a version long replaced
    shard.commit_label_map(name, theirs)
    with open(pack_of(packed), "ab") as stream:
        stream.write(b"scan-09, of a worker that was killed")
    others = [f"scan-{n:02d}" for n in range(N_SCANS) if n != 9]
    kept = {one: of_scans.read(folder / f"{one}{LABEL_MAP}") for one in others}
    raw = pack_of(packed).read_bytes()
    assert b"scan-09" in raw
    assert theirs[20:60] in raw
    packed.source.withdrawn.append("person-09")
    packed.source.write()
    try:
        packed.manifest()
        raw = pack_of(packed).read_bytes()
        assert b"scan-09" not in raw
        assert b"person-09" not in raw
        assert all(theirs[at : at + 16] not in raw for at in range(20, len(theirs) - 16, 8))
        assert gzip.compress(b"an older map" * 99)[12:] not in raw
        names = packed.results.parent / "names.txt"
        names.write_text("person-09\nscan-09\n")
        assert search(packed.results, names)["hits"] == {}
        assert {one: of_scans.read(folder / f"{one}{LABEL_MAP}") for one in others} == kept
    finally:
        packed.source.withdrawn.clear()
        packed.source.write()


def test_a_receipt_in_a_pack_is_the_one_of_a_file(both):
    files, packed = (
        json.loads(of_scans.read(both[store][0].results / "segment/threshold/0000/scan-01.json"))
        for store in ("files", "packed")
    )
    different = {name for name in files if files[name] != packed[name]}
    assert different <= TIMES | {"receipt_sha256"}
    assert re.fullmatch(r"scan-01_dseg\.nii\.gz", packed["label_map"])
