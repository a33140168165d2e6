"""Keys in place of ids: one salt gives one key, and only the private folder leads back."""

import csv
import hashlib
import hmac
import os
import stat
import unicodedata

import pytest

from bids_fixture import people, write_dataset
from cohortvol.errors import ConfigError, ManifestError
from cohortvol.stages import manifest
from cohortvol.store import keys
from cohortvol.store.files import commit_once
from cohortvol.store.schemas import MANIFEST, SHARD
from cohortvol.store.tables import read_table
from cohortvol.tools import status

ODD = [
    "Doe/Jane",
    "../../etc/passwd",
    'O\'Brien "x" $(rm) *',
    "two\nlines",
    "-leading",
    "Müller",
    "病",
    "x" * 300,
]
"""Ids that are refused without hash_ids (fault catalogue, F092 to F094)."""


def write(tmp_path, ids, **columns):
    path = tmp_path / "scans.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["scan_id", "image", *columns])
        for number, scan_id in enumerate(ids):
            (tmp_path / f"image{number}.nii.gz").write_bytes(b"x")
            values = [column[number] for column in columns.values()]
            rows.writerow([scan_id, f"image{number}.nii.gz", *values])
    return path


def run(tmp_path, ids, **settings):
    """``manifest/scans.parquet`` of a cohort with hashed ids."""
    columns = settings.pop("columns", {})
    manifest.run(write(tmp_path, ids, **columns), tmp_path / "results", hash_ids=True, **settings)
    return read_table(tmp_path / "results/manifest/scans.parquet", MANIFEST)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_the_hmac_of_the_id_in_nfc(tmp_path):
    scans = run(tmp_path, ["Mu\u0308ller"], columns={"subject_id": ["p"], "session_id": ["v"]})
    salt = (tmp_path / "results/private/salt").read_bytes()

    def expected(text):
        return hmac.new(salt, text.encode(), hashlib.sha256).hexdigest()[:16]

    assert scans["scan_id"].tolist() == ["s_" + expected("M\u00fcller")]
    assert scans["subject_id"].tolist() == ["p_" + expected("p")]
    assert scans["session_id"].tolist() == ["v_" + expected("v")]


def test_ids_that_are_no_names_of_files_are_accepted_as_data(tmp_path):
    scans = run(tmp_path, ODD)
    assert scans["state"].isna().all()
    assert scans["scan_id"].map(keys.is_key).all()
    assert scans["scan_id"].is_unique
    with open(tmp_path / "results/private/ids.csv", encoding="utf-8", newline="") as stream:
        ids = {row["key"]: row["id"] for row in csv.DictReader(stream) if row["kind"] == "scan"}
    assert [ids[key] for key in scans["scan_id"]] == ODD


def test_only_the_owner_may_read_what_leads_back(tmp_path):
    before = os.umask(0)
    try:
        run(tmp_path, ["a"])
    finally:
        os.umask(before)
    private = tmp_path / "results/private"
    assert {path.name: mode(path) for path in [private, *private.iterdir()]} == {
        "private": 0o700, "images": 0o700, "salt": 0o600, "ids.csv": 0o600,
    }  # fmt: skip
    assert len((private / "salt").read_bytes()) == 32


def test_an_image_is_reached_by_a_link_that_keeps_its_kind(tmp_path):
    scans = run(tmp_path, ["Doe^Jane"])
    link = tmp_path / "results/private/images" / f"{scans['scan_id'][0]}.nii.gz"
    assert scans["image"].tolist() == [str(link)]
    assert link.resolve() == tmp_path / "image0.nii.gz"
    shard = read_table(tmp_path / "results/manifest/shards/0000.parquet", SHARD)
    assert shard["image"].tolist() == [str(link)]
    assert shard["n_bytes"].tolist() == [1]


def test_a_missing_image_has_no_link_and_gets_one_when_it_comes_back(tmp_path):
    path = write(tmp_path, ["a"])
    (tmp_path / "image0.nii.gz").unlink()
    links = tmp_path / "results/private/images"
    manifest.run(path, tmp_path / "results", hash_ids=True)
    assert list(links.iterdir()) == []
    (tmp_path / "image0.nii.gz").write_bytes(b"x")
    manifest.run(path, tmp_path / "results", hash_ids=True)
    assert [link.resolve().name for link in links.iterdir()] == ["image0.nii.gz"]


def test_a_second_run_gives_the_same_keys_and_the_same_bytes(tmp_path):
    path = write(tmp_path, ["a", "b"])
    manifest.run(path, tmp_path / "results", hash_ids=True)
    files = [p for p in (tmp_path / "results").rglob("*") if p.is_file() and not p.is_symlink()]
    before = {path: path.read_bytes() for path in files}
    manifest.run(path, tmp_path / "results", hash_ids=True)
    assert {path: path.read_bytes() for path in files} == before


def test_the_map_keeps_ids_that_left_the_manifest(tmp_path):
    first = run(tmp_path, ["a"])["scan_id"][0]
    run(tmp_path, ["b"])
    assert keys.keys_of_scans(tmp_path / "results")["a"] == first


def test_a_lost_salt_is_an_error_and_is_not_made_anew(tmp_path):
    run(tmp_path, ["a"])
    salt = tmp_path / "results/private/salt"
    salt.unlink()
    with pytest.raises(ConfigError, match="the salt is not there"):
        run(tmp_path, ["a"])
    assert not salt.exists()
    (tmp_path / "results/private/ids.csv").unlink()  # the shards still know of keys
    with pytest.raises(ConfigError, match="the salt is not there"):
        run(tmp_path, ["a"])


def test_another_salt_is_an_error(tmp_path):
    run(tmp_path, ["a"])
    (tmp_path / "results/private/salt").write_bytes(b"y" * 32)
    with pytest.raises(ConfigError, match="not the salt that"):
        run(tmp_path, ["a"])


def test_a_salt_is_never_overwritten(tmp_path):
    path = tmp_path / "salt"
    path.write_bytes(b"x" * 32)
    commit_once(path, b"y" * 32)
    assert path.read_bytes() == b"x" * 32
    assert [found.name for found in tmp_path.iterdir()] == ["salt"]


def test_projects_that_share_a_salt_file_share_keys(tmp_path):
    salt = tmp_path / "project" / "salt"
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first = run(tmp_path / "one", ["a"], salt_file=salt)
    second = run(tmp_path / "two", ["a"], salt_file=salt)
    assert first["scan_id"].tolist() == second["scan_id"].tolist()
    assert not (tmp_path / "one/results/private/salt").exists()


def test_a_salt_that_is_too_short_is_refused(tmp_path):
    (tmp_path / "salt").write_bytes(b"short")
    with pytest.raises(ConfigError, match="too few for a salt"):
        run(tmp_path, ["a"], salt_file=tmp_path / "salt")


def test_ids_and_keys_never_stand_side_by_side(tmp_path):
    path = write(tmp_path, ["a"])
    manifest.run(path, tmp_path / "plain")
    with pytest.raises(ConfigError, match="not hashed"):
        manifest.run(path, tmp_path / "plain", hash_ids=True)
    manifest.run(path, tmp_path / "hashed", hash_ids=True)
    with pytest.raises(ConfigError, match="was made with hash_ids"):
        manifest.run(path, tmp_path / "hashed")


TWINS = [
    (["a", "a"], "ID_DUPLICATE"),
    (["Qwert", "qwert"], "ID_COLLISION"),
    (["a", "a "], "ID_COLLISION"),
    ([unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD")], "ID_COLLISION"),
    (["x" * 1025], "ID_INVALID"),
]


@pytest.mark.parametrize(("ids", "code"), TWINS)
def test_ids_that_are_nearly_one_are_still_bad_rows(tmp_path, ids, code):
    scans = run(tmp_path, ids, bad_rows="quarantine")
    assert scans["reason"].tolist() == [code] * len(ids)
    assert scans["image"].isna().all()


@pytest.mark.parametrize("ids", [ids for ids, _ in TWINS])
def test_no_message_and_no_table_repeats_a_value_of_the_manifest(tmp_path, ids):
    ages = {"age_years": ["CANARY"] * len(ids)}
    with pytest.raises(ManifestError) as raised:
        run(tmp_path, ids, columns=ages)
    message = str(raised.value)
    assert "line 2" in message
    assert "age_years" in message
    scans = run(tmp_path, ids, columns=ages, bad_rows="quarantine")
    for text in (message.replace(str(tmp_path), ""), *scans["detail"]):
        assert "CANARY" not in text
        assert not [one for one in ids if len(one) > 1 and one in text]


def test_a_bad_row_of_a_dataset_is_named_by_a_key_that_the_map_explains(tmp_path):
    files = {
        "participants.tsv": people(("sub-CANARY", "4x", "F")),
        "sub-CANARY/anat/sub-CANARY_T1w.nii.gz": "",
    }
    root = write_dataset(tmp_path / "data", files)
    with pytest.raises(ManifestError) as raised:
        manifest.run(root, tmp_path / "results", hash_ids=True)
    assert "CANARY" not in str(raised.value)
    assert keys.keys_of_scans(tmp_path / "results")["sub-CANARY_T1w"] in str(raised.value)


def test_explain_finds_a_scan_by_its_id_and_by_its_key(tmp_path):
    scans = run(tmp_path, ODD)
    for scan_id, key in zip(ODD, scans["scan_id"], strict=True):
        assert status.explain(tmp_path / "results", scan_id)["scan_id"] == key
        assert status.explain(tmp_path / "results", key)["scan_id"] == key
    with pytest.raises(ConfigError, match="did you mean 'Doe/Jane'"):
        status.explain(tmp_path / "results", "Doe/Jame")


def test_explain_knows_no_id_without_the_map(tmp_path):
    run(tmp_path, ["Doe^Jane"])
    (tmp_path / "results/private/ids.csv").unlink()
    with pytest.raises(ConfigError, match="no scan 'Doe\\^Jane'"):
        status.explain(tmp_path / "results", "Doe^Jane")
