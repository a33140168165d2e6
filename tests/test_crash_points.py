"""Whenever a process dies: old or new, finished or not, and the next run puts it right."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from cohortvol.stages.segment.receipts import Outcome, ShardFolder, Work
from cohortvol.store import of_scans, schemas, tables
from cohortvol.store.files import (
    DIGESTS,
    commit_bytes,
    commit_digests,
    commit_once,
    make_folder,
    sha256_of,
)
from cohortvol.tools.verify.reading import receipt_is_whole
from crash_points import Moment, Tree, record, restore, tree_of

pytestmark = pytest.mark.slow

OLD, NEW = b"old " * 40, b"new, and longer " * 40


@pytest.fixture(autouse=True)
def disk_that_needs_no_waiting(monkeypatch):
    """What is synced is the model's to know; the tests would wait for the disk for minutes."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class After:
    """Every folder that may be left by a death during an action, each once, made on the disk."""

    def __init__(self, place: Path, action: Callable[[Path], object], before: Tree) -> None:
        self.place, self.action = place, action
        root = restore(before, place / "recorded")
        self.moments = record(root, lambda: action(root))
        self.result = tree_of(root)

    def __iter__(self):
        seen: list[Tree] = []
        for number, moment in enumerate(self.moments):
            for how, tree in moment.remains():
                if tree not in seen:
                    seen.append(tree)
                    left = restore(tree, self.place / f"{number}-{len(seen)}")
                    yield moment, f"before call {number}, {moment.call}: {how}", left
                    shutil.rmtree(left)

    def calls(self) -> list[str]:
        """Names of the calls, without what of a name is drawn at random."""
        return [re.sub(r"\.\d+-[0-9a-f]{8}\.tmp", ".tmp", moment.call) for moment in self.moments]


def named(folder: Path) -> Tree:
    """Files under their final names."""
    return {
        path: content
        for path, content in tree_of(folder).items()
        if content is not None and not Path(path).name.startswith(".")
    }


# --- the model itself


def test_a_file_written_in_place_is_found_torn(tmp_path):
    """What `commit` is for; and proof that the model sees what it must see."""

    def careless(folder):
        with open(folder / "a", "wb") as stream:
            stream.write(NEW)

    found = [named(left).get("a") for _, _, left in After(tmp_path, careless, {".": None})]
    assert None in found
    assert b"" in found
    assert NEW[: len(NEW) // 2] in found


def test_a_rename_without_a_sync_is_found_torn(tmp_path):
    def careless(folder):
        with open(folder / ".a", "xb") as stream:
            stream.write(NEW)
        os.replace(folder / ".a", folder / "a")

    after = After(tmp_path, careless, {".": None, "a": OLD})
    assert {"gone", "half"} <= {
        how.split()[-1]
        for _, how, left in after
        if (left / "a").read_bytes() not in (OLD, NEW)
    }  # fmt: skip


def test_what_the_model_says_of_a_kill_is_what_a_real_one_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr("cohortvol.store.storage.secrets.token_hex", lambda n: "0" * 2 * n)
    monkeypatch.setattr("cohortvol.store.storage.os.getpid", lambda: 1)
    after = After(tmp_path, lambda folder: commit_bytes(folder / "new" / "a", NEW), {".": None})
    for number, moment in enumerate(after.moments[:-1]):
        root = restore({".": None}, tmp_path / f"killed-{number}")
        if (child := os.fork()) == 0:
            die_before(number, root, lambda root=root: commit_bytes(root / "new" / "a", NEW))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert tree_of(root) == moment.seen, moment.call
    assert len(after.moments) > 8


def die_before(number: int, root: Path, action: Callable[[], object]) -> None:
    """In a child: end the process before its call of this number, without any cleaning up."""
    import crash_points

    count = itertools.count()

    class Deadly(list):
        def append(self, moment: Moment) -> None:
            if next(count) == number:
                os._exit(9)

    real = crash_points._Disk.start

    def start(disk):
        real(disk)
        disk.moments = Deadly()

    crash_points._Disk.start = start
    try:
        record(root, action)
    finally:
        os._exit(1)  # nothing of pytest may go on in the child


# --- commit, commit_once, commit_digests


@pytest.mark.parametrize("before", [{}, {"new": None, "new/a": OLD}], ids=["new", "replaced"])
def test_commit_leaves_the_old_file_or_the_new_one(tmp_path, before):
    def action(folder):
        return commit_bytes(folder / "new" / "a", NEW)

    after = After(tmp_path, action, {".": None, **before})
    for moment, how, left in after:
        assert named(left).get("new/a") in (before.get("new/a"), NEW), how
        if moment.call == "end":
            assert named(left) == {"new/a": NEW}, how
        action(left)
        assert named(left) == {"new/a": NEW}, how
    made = [] if before else ["mkdir new", "fsync ."]
    assert after.calls() == [
        *made, "create new/.a.tmp", "write new/.a.tmp", "half written new/.a.tmp",
        "fsync new/.a.tmp", "replace new/a", "fsync new", "end",
    ]  # fmt: skip


def test_what_commit_once_made_never_changes_again(tmp_path):
    contents = iter(f"salt {n}".encode() for n in itertools.count())

    def action(folder):
        commit_once(folder / "new" / "salt", next(contents))
        return (folder / "new" / "salt").read_bytes()

    after = After(tmp_path, action, {".": None})
    for moment, how, left in after:
        there = named(left).get("new/salt")
        assert there in (None, b"salt 0"), how
        if moment.call == "end":
            assert there == b"salt 0", how
        used = action(left)
        assert there in (None, used), how
        assert action(left) == used, how


def test_a_list_of_digests_is_of_the_files_that_are_there(tmp_path):
    """Written last: where it is new, so are the files that it lists."""

    def action(folder):
        for name, content in (("a", NEW), ("b", NEW + b"b")):
            commit_bytes(folder / name, content)
        commit_digests(folder, [folder / "a"], last="b")

    def listed(folder):
        lines = (folder / DIGESTS).read_text().splitlines()
        return {line[66:]: line[:64] for line in lines}

    before = restore({".": None, "a": OLD, "b": OLD + b"b"}, tmp_path / "before")
    commit_digests(before, [before / "a"], last="b")
    old = listed(before)
    after = After(tmp_path, action, tree_of(before))
    new = listed(tmp_path / "recorded")
    for _, how, left in after:
        assert listed(left) in (old, new), how
        if listed(left) == new:
            assert {name: sha256_of(left / name) for name in new} == new, how
        action(left)
        assert named(left) == named(tmp_path / "recorded"), how


# --- a scan, and its shard

WORK = Work("a", Path("a.nii.gz"), "1" * 64, "toy", "nnunet", "key of the new model")
EARLIER = dataclasses.replace(WORK, segmentation_key="key of an earlier model")


def segment(folder: Path, work: Work = WORK, content: bytes = NEW, *, store: str = "files") -> None:
    """What the worker does with a scan: see `cohortvol.stages.segment.worker`."""
    shard = ShardFolder(make_folder(folder / "0000"), store)
    shard.sweep()
    if shard.is_finished(work):
        return
    claim = shard.claim(work)
    sha256 = shard.commit_label_map("a", content)
    done = Outcome("segmented", label_map_sha256=sha256, label_map_bytes=len(content))
    shard.finish(claim, done)


def receipt_in(folder: Path) -> dict[str, object] | None:
    """The receipt, if there is one; it must be whole, and so must the label map it names."""
    path = folder / "0000" / "a.json"
    if not of_scans.exists(path):
        return None
    receipt = json.loads(of_scans.read(path))
    assert receipt_is_whole(receipt)
    if receipt["state"] == "segmented":
        label_map = folder / "0000" / receipt["label_map"]
        assert of_scans.digest(label_map) == receipt["label_map_sha256"]
    return receipt


def nothing_earlier(folder: Path, store: str) -> None:
    """A new shard."""


def finished_earlier(folder: Path, store: str) -> None:
    # As long as the new one, so that its size does not tell them apart.
    segment(folder, EARLIER, OLD.ljust(len(NEW), b"."), store=store)


def killed_earlier(folder: Path, store: str) -> None:
    finished_earlier(folder, store)
    ShardFolder(folder / "0000", store).claim(WORK)


def failed_earlier(folder: Path, store: str) -> None:
    shard = ShardFolder(make_folder(folder / "0000"), store)
    shard.finish(shard.claim(WORK), Outcome("failed", "RUN_HOST_OOM"))


@pytest.mark.parametrize(
    ("before_as", "store"),
    [("files", "files"), ("packed", "packed"), ("files", "packed"), ("packed", "files")],
)
@pytest.mark.parametrize(
    ("earlier", "starts"),
    [
        (nothing_earlier, 1),
        (finished_earlier, 1),
        (killed_earlier, 2),
        (failed_earlier, 2),
    ],
    ids=["new", "another model", "killed", "failed"],
)
def test_a_scan_is_finished_or_not_and_its_receipt_never_without_its_label_map(
    tmp_path, earlier, starts, before_as, store
):
    before = restore({".": None}, tmp_path / "before")
    earlier(before, before_as)
    after = After(tmp_path, partial(segment, store=store), tree_of(before))
    points = [moment.call for moment in after.moments]
    undisturbed = receipt_in(tmp_path / "recorded")
    assert undisturbed is not None
    assert undisturbed["attempts"] == starts
    for moment, how, left in after:
        receipt = receipt_in(left)
        if of_scans.exists(label_map := left / "0000" / "a_dseg.nii.gz"):
            digest = of_scans.digest(label_map)
            assert digest in (undisturbed["label_map_sha256"], old_digest(before)), how
        finished = ShardFolder(left / "0000").is_finished(WORK)
        if moment.call == "end":
            assert finished, how
        segment(left, store=store)
        again = receipt_in(left)
        assert again is not None, how
        assert again["segmentation_key"] == WORK.segmentation_key, how
        assert of_scans.read(label_map) == NEW, how
        assert again["attempts"] in (starts, starts + 1), how
        if finished:
            assert again == receipt, how
        segment(left, store=store)
        assert receipt_in(left) == again, how
        made = {"files": ["0000/a.json", "0000/a_dseg.nii.gz"], "packed": ["0000/packed.tar"]}
        assert sorted(named(left)) == made[store], how
        # Tried again for another reason, no start may count that came to an end.
        assert ShardFolder(left / "0000").starts(WORK) == 0, how
    assert len(points) > 15


def old_digest(before: Path) -> str | None:
    path = before / "0000" / "a_dseg.nii.gz"
    return of_scans.digest(path) if of_scans.exists(path) else None


def test_a_table_is_the_old_one_or_the_new_one(tmp_path):
    row = {"scan_id": "a", "state": "segmented", "attempts": 1}
    old = tables.append_rows([row], schemas.SEGMENT)
    new = tables.append_rows([row, row | {"scan_id": "b"}], schemas.SEGMENT)

    def action(folder):
        tables.write_table(folder / "t.parquet", new, schemas.SEGMENT)

    before = restore({".": None}, tmp_path / "before")
    tables.write_table(before / "t.parquet", old, schemas.SEGMENT)
    after = After(tmp_path, action, tree_of(before))
    result = (tmp_path / "recorded" / "t.parquet").read_bytes()
    for moment, how, left in after:
        assert (left / "t.parquet").read_bytes() in (tree_of(before)["t.parquet"], result), how
        if not moment.call.startswith(("write", "half")):  # nothing but a temporary file differs
            action(left)
            assert (left / "t.parquet").read_bytes() == result, how
    for whole, scans in ((before, ["a"]), (tmp_path / "recorded", ["a", "b"])):
        assert list(tables.read_table(whole / "t.parquet", schemas.SEGMENT)["scan_id"]) == scans
    assert sum(call.startswith("half written") for call in after.calls()) > 3
