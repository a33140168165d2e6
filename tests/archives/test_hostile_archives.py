"""Every hostile archive has its reason, and nothing of it is written."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
import zipfile

import pytest

from archive_fixture import ENDS, files_of, packed, reason_of, small, tar_info
from cohortvol.store.archives import leads_out


def zip_with(path, change):
    with zipfile.ZipFile(path, "w") as out:
        change(out)
    return path


def tar_with(path, *infos):
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as out:
        for info in infos:
            out.addfile(info, io.BytesIO(b"x" * info.size))
    return path


def zip_member(name, mode=0, content=b"x"):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return lambda out: out.writestr(info, content)


@pytest.mark.parametrize("name", ["../out.dcm", "/out.dcm", "a/../../out.dcm", "..\\out.dcm"])
def test_paths_that_lead_out_are_refused_and_nothing_is_written(tmp_path, name):
    assert leads_out(name)
    for path in (
        zip_with(tmp_path / "a.zip", zip_member(name)),
        tar_with(tmp_path / "a.tar", tar_info(name, 1)),
        tar_with(tmp_path / "a.tar.gz", tar_info(name, 1)),
    ):
        before = sorted(tmp_path.parent.rglob("*.dcm"))
        reason, detail = reason_of(tmp_path, path)
        assert (reason, detail) == ("SRC_ARCHIVE_UNSAFE", "the path of member 1 leads out")
        assert sorted(tmp_path.parent.rglob("*.dcm")) == before


def test_names_that_only_look_odd_do_not_lead_out():
    for name in ("a/b..dcm", "...", "./a", "1.2.3:4", "a\\b", "1:30"):
        assert not leads_out(name), name


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    path = tar_with(
        tmp_path / "a.tar", tar_info("IM0", 1), tar_info("IM1", type=kind, linkname="IM0")
    )
    reason, detail = reason_of(tmp_path, path)
    assert (reason, detail) == ("SRC_ARCHIVE_UNSAFE", "member 2 is neither a file nor a folder")


def test_a_link_in_a_zip_is_refused(tmp_path):
    path = zip_with(tmp_path / "a.zip", zip_member("IM0", 0o120777, b"/etc/hostname"))
    assert reason_of(tmp_path, path)[0] == "SRC_ARCHIVE_UNSAFE"


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("end", ENDS)
def test_one_member_named_twice_is_refused(tmp_path, end):
    for second in ("d/IM0", "./d/IM0", "d//IM0"):
        path = packed(tmp_path / f"a{end}", [("d/IM0", b"1"), ("d/IM1", b"2"), (second, b"3")])
        assert reason_of(tmp_path, path) == (
            "SRC_ARCHIVE_DOUBLED",
            "member 3 is called as one before",
        )


def test_an_encrypted_member_is_told_as_what_it_is(tmp_path):
    path = packed(tmp_path / "a.zip", small(2))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert reason_of(tmp_path, path)[0] == "SRC_ARCHIVE_ENCRYPTED"


@pytest.mark.parametrize("end", [".zip", ".tar.gz"])
def test_what_unpacks_a_thousandfold_is_refused(tmp_path, end):
    path = packed(tmp_path / f"a{end}", [("IM0", bytes(5_000_000))])
    assert 5_000_000 / path.stat().st_size > 900
    assert reason_of(tmp_path, path)[0] == "SRC_ARCHIVE_LIMIT"
    assert reason_of(tmp_path, path, max_archive_ratio=1e6)[0] == "DCM_UNREADABLE_FILE"
    assert reason_of(tmp_path, path, max_archive_ratio=1e6, max_archive_bytes=4_000_000) == (
        "SRC_ARCHIVE_LIMIT",
        f"over 4000000 bytes unpacked, of {path.stat().st_size} packed",
    )


@pytest.mark.parametrize("end", ENDS)
def test_too_many_members_are_refused(tmp_path, end):
    path = packed(tmp_path / f"a{end}", small(11))
    told = ("SRC_ARCHIVE_LIMIT", "over 10 members")
    assert reason_of(tmp_path, path, max_archive_members=10) == told
    assert reason_of(tmp_path, path, max_archive_members=11)[0] == "DCM_UNREADABLE_FILE"


def test_a_directory_of_too_many_members_is_not_taken_apart(tmp_path, monkeypatch):
    path = packed(tmp_path / "a.zip", small(200))
    monkeypatch.setattr(zipfile, "ZipInfo", None)  # would be called for each
    told = ("SRC_ARCHIVE_LIMIT", "over 100 members")
    assert reason_of(tmp_path, path, max_archive_members=100) == told


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("end", ENDS)
def test_an_archive_that_is_cut_short_is_told(tmp_path, session, end, share):
    content = packed(tmp_path / f"whole{end}", files_of(session)).read_bytes()
    path = tmp_path / f"a{end}"
    path.write_bytes(content[: int(share * len(content))])
    assert reason_of(tmp_path, path, dixon=("water",))[0] == "SRC_TRUNCATED"


def test_a_tar_that_is_cut_between_two_members_is_told(tmp_path):
    content = packed(tmp_path / "whole.tar", small(3)).read_bytes()
    path = tmp_path / "a.tar"
    for n_members in (1, 2, 3):
        path.write_bytes(content[: n_members * 3 * 512])  # a header and two blocks each
        assert reason_of(tmp_path, path)[0] == "SRC_TRUNCATED"


def test_what_follows_the_end_of_a_tar_is_not_passed_over(tmp_path):
    content = packed(tmp_path / "whole.tar", small(2)).read_bytes()
    path = tmp_path / "a.tar"
    path.write_bytes(content + content)
    assert reason_of(tmp_path, path)[0] == "SRC_ARCHIVE_CORRUPT"


def test_a_damaged_member_is_told(tmp_path):
    path = packed(tmp_path / "a.tar", small(3))
    content = bytearray(path.read_bytes())
    content[3 * 512 + 5] ^= 0xFF  # in the name of the second, so that its checksum is wrong
    path.write_bytes(content)
    assert reason_of(tmp_path, path)[0] == "SRC_ARCHIVE_CORRUPT"
    stored = zip_with(tmp_path / "a.zip", lambda out: [out.writestr(*one) for one in small(3)])
    content = bytearray(stored.read_bytes())
    content[content.index(b"0123")] ^= 1
    stored.write_bytes(content)
    assert reason_of(tmp_path, stored) == ("SRC_ARCHIVE_CORRUPT", "a member: BadZipFile")
    packed_tar = tmp_path / "a.tar.gz"
    content = bytearray(packed(packed_tar, small(3)).read_bytes())
    content[-6] ^= 1  # of the checksum of gzip
    packed_tar.write_bytes(content)
    assert reason_of(tmp_path, packed_tar)[0] == "SRC_GZIP_CORRUPT"


def test_names_without_end_in_a_tar_do_not_fill_the_memory(tmp_path):
    path = tar_with(tmp_path / "a.tar.gz", tar_info("n" * 200_000, 1))
    assert reason_of(tmp_path, path)[0] == "SRC_ARCHIVE_CORRUPT"


POINTER = b"version https://git-lfs.github.com/spec/v1\n"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        pytest.param("a.zip", b"", "SRC_EMPTY", id="nothing"),
        pytest.param("a.zip", b"<html>not found</html>", "SRC_EXT_MISMATCH", id="page"),
        pytest.param("a.tar", gzip.compress(b"x" * 4096), "SRC_EXT_MISMATCH", id="gzip as tar"),
        pytest.param("a.tar.gz", b"PK\x03\x04" * 9, "SRC_EXT_MISMATCH", id="zip as tar.gz"),
        pytest.param("a.zip", POINTER, "SRC_POINTER_FILE", id="pointer"),
        pytest.param("a.tar", b"x" * 2048, "SRC_ARCHIVE_CORRUPT", id="text as tar"),
        pytest.param("a.tgz", gzip.compress(bytes(10240)), "SRC_EMPTY", id="empty tar"),
    ],
)
def test_what_is_no_archive_is_told_as_what_it_is(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    assert reason_of(tmp_path, tmp_path / name)[0] == reason


def test_a_directory_that_points_before_the_file_is_damage(tmp_path):
    path = packed(tmp_path / "a.zip", small(2))
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x05\x06")
    content[at + 12 : at + 16] = (at + 5000).to_bytes(4, "little")  # the size of the directory
    path.write_bytes(content)
    assert reason_of(tmp_path, path)[0] == "SRC_TRUNCATED"


def test_packings_that_are_not_read_are_told(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as out:
        out.writestr("IM0", b"x" * 500)
    assert reason_of(tmp_path, path)[0] == "SRC_UNSUPPORTED_FORMAT"


def test_archives_within_archives_are_damaged_files_of_the_folder(tmp_path, session):
    inner = packed(tmp_path / "inner.zip", small(1)).read_bytes()
    path = packed(tmp_path / "a.zip", [*files_of(session), ("inner.zip", inner)])
    assert reason_of(tmp_path, path, dixon=("water",))[0] == "DCM_UNREADABLE_FILE"


_MILLION = """
import io, sys, tarfile
from pathlib import Path
from cohortvol.errors import ScanError
from cohortvol.stages.ingest import Rules
from cohortvol.stages.ingest.members import members_of
import resource
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path, most in zip(map(Path, sys.argv[1:]), (100_000, 2_000)):
    try:
        list(members_of(path, Rules(max_archive_members=most)))
    except ScanError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_a_million_members_take_little_memory(tmp_path):
    """A directory of a million entries made by hand, as a zip of them would take minutes."""
    entry = b"PK\x01\x02" + bytes(24) + b"\x06\x00" + bytes(16)
    entries = b"".join(entry + b"%06x" % n for n in range(1_000_000))
    end = b"PK\x05\x06" + bytes(4) + b"\xff" * 4 + len(entries).to_bytes(4, "little") + bytes(6)
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04" + entries + end)
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as out:
        for n in range(100):
            out.write(b"".join(tar_info(f"{n}-{k}").tobuf() for k in range(200)))
    command = [sys.executable, "-c", _MILLION, str(tmp_path / "a.zip"), str(tmp_path / "a.tar.gz")]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    *told, kib = said.stdout.split("\n")[:-1]
    assert told == [f"SRC_ARCHIVE_LIMIT: over {most} members" for most in (100_000, 2_000)]
    assert int(kib) < 400_000
