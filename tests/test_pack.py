"""A pack: cut at any byte, damaged at any byte, read by tar, free of people who withdrew."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile

import pytest

from cohortvol.errors import InUseError
from cohortvol.store import of_scans, pack
from cohortvol.store.locks import IN_USE, lock
from cohortvol.store.of_scans import PACK, Files, Packed, discard, take_out
from cohortvol.store.pack import append, read_contents, read_member, rewrite

LONG = "é" * 120  # no name of ustar


@pytest.fixture(autouse=True)
def disk_that_needs_no_waiting(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def three(tmp_path):
    """A pack of three files, of which one was replaced."""
    path = tmp_path / PACK
    for name, content in (("a.json", b"A" * 700), ("b.json", b"old"), (f"{LONG}.json", b"C" * 512)):
        append(path, name, content)
    append(path, "b.json", b"new" * 200)
    return path


def held(path):
    return {name: read_member(path, name) for name in read_contents(path).members}


ALL = {"a.json": b"A" * 700, f"{LONG}.json": b"C" * 512, "b.json": b"new" * 200}


def test_what_was_added_is_there_and_the_latest_of_a_name_stands(three):
    assert held(three) == ALL
    append(three, "a.json", b"")
    assert held(three) == {name: content for name, content in ALL.items() if name != "a.json"}
    with pytest.raises(FileNotFoundError):
        read_member(three, "a.json")


def test_tar_reads_it(three, tmp_path):
    with tarfile.open(three) as archive:
        assert archive.getnames() == ["a.json", "b.json", f"{LONG}.json", "b.json"]
    if shutil.which("tar"):
        out = tmp_path / "out"
        out.mkdir()
        subprocess.run(["tar", "xf", three, "-C", out], check=True)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == ALL


def test_cut_at_any_byte_of_what_is_added_it_holds_the_old_files_or_the_new_one(three):
    before = three.read_bytes()
    append(three, "d.json", b"D" * 600)
    after, n_bytes = three.read_bytes(), len(before) + pack.BLOCK_BYTES + 600
    assert after.startswith(before)
    for cut in range(len(before), len(after) + 1):
        three.write_bytes(after[:cut])
        found = held(three)
        assert found == (ALL if cut < n_bytes else ALL | {"d.json": b"D" * 600}), cut
        if cut % 97 == 0:
            append(three, "e.json", b"E")
            assert held(three) == found | {"e.json": b"E"}, cut
            assert read_contents(three).is_whole, cut


@pytest.mark.parametrize("junk", [bytes(5000), b"\xff" * 1300, b"x"])
def test_bytes_that_a_power_cut_left_behind_are_written_over(three, junk):
    with open(three, "ab") as stream:
        stream.write(junk)
    assert held(three) == ALL
    append(three, "e.json", b"E")
    assert held(three) == ALL | {"e.json": b"E"}
    assert three.stat().st_size == read_contents(three).end


def test_a_damaged_byte_costs_the_file_that_it_is_of_and_no_other(tmp_path):
    path = tmp_path / PACK
    wanted = {f"{name}.json": name.encode() * 600 for name in "abc"}
    for name, content in wanted.items():
        append(path, name, content)
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        found = held(path)
        wrong = [name for name, content in wanted.items() if found.get(name) != content]
        assert len(wrong) <= 1, at


def test_a_pack_that_is_mostly_waste_is_written_anew(tmp_path):
    store = Packed(tmp_path)
    for _ in range(4):
        store.commit("a_dseg.nii.gz", b"A" * 5000)
    waste = read_contents(tmp_path / PACK).waste_bytes
    store.sweep()
    assert waste > 15_000
    assert read_contents(tmp_path / PACK).waste_bytes == 0
    assert held(tmp_path / PACK) == {"a_dseg.nii.gz": b"A" * 5000}


def test_each_way_takes_over_what_the_other_left_with_its_times(tmp_path):
    names = {"a_dseg.nii.gz": b"A", "a.json": b"{}"}
    files = Files(tmp_path)
    for name, content in names.items():
        files.commit(name, content)
    for left in (".in-use", "a.started.json", "dseg.tsv"):
        (tmp_path / left).write_bytes(b"{}")
    at_s = int(of_scans.receipts(tmp_path)["a"])
    Packed(tmp_path).sweep()
    rest = {".in-use", "a.started.json", "dseg.tsv"}
    assert {path.name for path in tmp_path.iterdir()} == {PACK, *rest}
    assert held(tmp_path / PACK) == names
    assert of_scans.receipts(tmp_path) == {"a": at_s}
    files.sweep()
    assert {path.name for path in tmp_path.iterdir()} == {*names, *rest}
    assert of_scans.receipts(tmp_path) == {"a": at_s}


def test_of_a_file_that_is_taken_out_no_byte_stays(tmp_path):
    store = Packed(tmp_path)
    for version in (b"first version of anna", b"second version of anna"):
        store.commit("anna_dseg.nii.gz", version * 50)
    store.commit("bert_dseg.nii.gz", b"bert")
    store.commit("anna.json", b"{}")
    store.remove("anna.json")
    killed = tmp_path / f".{PACK}.1-00000000.tmp"
    killed.write_bytes(b"anna")
    with open(tmp_path / PACK, "ab") as stream:
        stream.write(b"anna" * 30)  # of a worker that was killed
    assert take_out(tmp_path, lambda name: name.startswith("anna")) == 2
    assert not killed.exists()
    content = (tmp_path / PACK).read_bytes()
    assert b"anna" not in content
    assert held(tmp_path / PACK) == {"bert_dseg.nii.gz": b"bert"}
    assert discard([tmp_path / "bert_dseg.nii.gz", tmp_path / "nobody.json"]) == 1
    assert not (tmp_path / PACK).exists()
    killed.write_bytes(b"anna")
    assert take_out(tmp_path, lambda name: name.startswith("anna")) == 0
    assert not killed.exists()


def test_nothing_is_taken_out_while_a_worker_adds(tmp_path):
    Packed(tmp_path).commit("a.json", b"{}")
    with lock(tmp_path / IN_USE, "{owner}"), pytest.raises(InUseError, match="process"):
        take_out(tmp_path, lambda name: True)
    assert held(tmp_path / PACK) == {"a.json": b"{}"}


def test_a_pack_that_was_written_anew_is_read_anew(three):
    assert held(three) == ALL
    rewrite(three, lambda name: name != "a.json")
    assert held(three) == {name: content for name, content in ALL.items() if name != "a.json"}
