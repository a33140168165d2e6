"""Assemble: every manifest row once, with one state; volumes of one segmentation only."""

import numpy as np
import pandas as pd
import pytest

from cohortvol.errors import AccountingError, CohortvolError, TableError, TemporaryError
from cohortvol.stages import assemble
from cohortvol.store import schemas, tables
from cohortvol.store.files import sha256_of
from results_folder import (
    MODEL,
    ResultsFolder,
    cut_row,
    ingest_row,
    manifest_row,
    segment_row,
    volume_row,
)


@pytest.fixture
def results(tmp_path):
    return ResultsFolder(tmp_path / "results")


def assembled(results):
    results.write()
    assemble.run(results.folder, MODEL)
    scans = tables.read_table(results.folder / "scans.parquet", schemas.SCANS)
    return scans, tables.read_table(results.folder / "volumes.parquet", schemas.VOLUMES)


# --- the accounts ----------------------------------------------------------------------------


def test_every_manifest_row_is_there_once_in_manifest_order(results):
    scans, _ = assembled(results)
    assert scans["manifest_line"].tolist() == list(range(2, 11))
    assert scans["scan_id"].tolist() == results.manifest["scan_id"].tolist()


def test_each_scan_ends_in_one_state_with_its_reason(results):
    scans, _ = assembled(results)
    ends = scans.set_index("manifest_line")[["scan_id", "state", "reason"]].values.tolist()
    assert [end if isinstance(end[2], str) else end[:2] for end in ends] == [
        ["sub-06", "done"],
        ["sub-01", "done"],
        ["sub-08", "quarantined", "ID_DUPLICATE"],
        ["sub-02", "quarantined", "SRC_TRUNCATED"],
        ["sub-03", "done"],
        ["sub-04", "skipped", "DCM_LOCALIZER"],
        ["sub-08", "quarantined", "ID_DUPLICATE"],
        ["sub-05", "failed", "RUN_GPU_OOM"],
        ["sub-07", "failed", "BUG_GRID"],
    ]


def test_the_accounts_are_printed_with_a_line_per_reason(results, capsys):
    assembled(results)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "9 scans = 3 done + 1 skipped + 3 quarantined + 2 failed"
    assert lines[1] == "  done: qc 2 pass, 0 flag, 1 exclude"
    assert any(line.startswith("  quarantined: 2 ID_DUPLICATE") for line in lines)
    assert any(line.startswith("  failed: 1 BUG_GRID") for line in lines)


def test_a_row_that_comes_out_twice_is_an_error(results):
    scans, _ = assembled(results)
    twice = pd.concat([scans, scans.iloc[[0]]])
    with pytest.raises(AccountingError, match="10 rows of 9 manifest lines"):
        assemble.accounting(twice, n_manifest=9)


def test_a_row_that_does_not_come_out_is_an_error(results):
    scans, _ = assembled(results)
    with pytest.raises(AccountingError, match="do not add up"):
        assemble.accounting(scans.iloc[1:], n_manifest=9)


def test_a_state_of_another_name_is_an_error(results):
    scans, _ = assembled(results)
    with pytest.raises(AccountingError, match="do not add up"):
        assemble.accounting(scans.replace({"state": {"done": "finished"}}), n_manifest=9)


# --- what a scan's row holds -----------------------------------------------------------------


def row_of(scans, scan_id):
    return scans.set_index("scan_id").loc[scan_id]


def test_a_scan_has_its_covariates_grid_and_provenance(results):
    scans, _ = assembled(results)
    scan = row_of(scans, "sub-01")
    assert (scan["sex"], scan["age_years"], scan["shard"]) == ("M", 48.5, "0000")
    assert (scan["n_i"], scan["voxel_ml"]) == (10, 0.012)
    assert scan["image_sha256"] == "bytes of sub-01"
    assert scan["label_map"] == f"segment/{MODEL}/0000/sub-01_dseg.nii.gz"
    assert scan["precision"] == "float32"


def test_the_detail_of_a_problem_is_kept(results):
    scans, _ = assembled(results)
    assert row_of(scans, "sub-02")["detail"] == "10 of 90 bytes"
    assert row_of(scans, "sub-05")["detail"] == "of 7.9 GB"


def test_qc_of_a_scan_is_that_of_its_structures(results):
    scans, _ = assembled(results)
    assert row_of(scans, "sub-01")["qc"] == "pass"
    assert row_of(scans, "sub-03")["qc"] == "pass"  # a cut liver is for the liver's row to say
    assert row_of(scans, "sub-06")["qc"] == "exclude"  # no structure of it can be used
    assert scans.loc[scans["state"] != "done", "qc"].isna().all()


def test_codes_of_ingest_and_of_measure_stand_together(results):
    results.ingest["0000"][2] = ingest_row("sub-03", warnings="QC_ZERO_SLICES;W_SQUEEZED")
    scans, _ = assembled(results)
    codes = "CLN_AGE_MISSING;QC_TRUNCATED_FOV;QC_ZERO_SLICES;W_SQUEEZED"
    assert row_of(scans, "sub-03")["qc_flags"] == codes
    assert row_of(scans, "sub-01")["qc_flags"] == "W_SQUEEZED"


@pytest.mark.parametrize(
    ("warnings", "qc"),
    [
        ("QC_INTENSITY", "flag"),
        ("DCM_COUNT_UNUSUAL;W_SQUEEZED", "flag"),
        ("QC_ZERO_SLICES", "pass"),
        ("QC_ZERO_SLICES;W_ANISOTROPIC", "pass"),
        (None, "pass"),
    ],
)
def test_a_doubtful_image_flags_its_scan_and_a_mere_note_does_not(results, warnings, qc):
    results.ingest["0000"][2] = ingest_row("sub-03", warnings=warnings)
    scans, _ = assembled(results)
    assert row_of(scans, "sub-03")["qc"] == qc
    assert row_of(scans, "sub-01")["qc"] == "pass"


@pytest.mark.parametrize(
    ("codes", "structure_qc", "qc"),
    [
        ("QC_TRUNCATED_FOV", "flag", "pass"),
        ("QC_ABSENT", "exclude", "pass"),
        ("QC_ABSENT;QC_MISSING_ORGAN", "exclude", "flag"),
        ("QC_FRAGMENTED", "flag", "flag"),
        ("QC_TRUNCATED_FOV;QC_FRAGMENTED", "flag", "flag"),
        ("QC_OUTLIER", "exclude", "flag"),
    ],
)
def test_a_scan_is_flagged_where_a_person_should_look(results, codes, structure_qc, qc):
    results.measure["0000"][0] |= {"qc": structure_qc, "qc_flags": codes}
    scans, volumes = assembled(results)
    assert row_of(scans, "sub-01")["qc"] == qc
    assert set(codes.split(";")) <= set(row_of(scans, "sub-01")["qc_flags"].split(";"))
    liver = volumes.set_index(["scan_id", "structure"]).loc[("sub-01", "liver")]
    assert (liver["qc"], liver["qc_flags"]) == (structure_qc, codes)


def test_a_volume_far_from_the_cohort_flags_its_scan_and_stays_usable(results):
    rng = np.random.default_rng(0)
    for n in range(40):
        scan_id = f"more-{n:02d}"
        results.manifest.loc[len(results.manifest)] = manifest_row(
            20 + n, scan_id, "0000", sex="F", age_years=40.0 + n
        )
        results.ingest["0000"].append(ingest_row(scan_id))
        results.segment["0000"].append(segment_row(scan_id, "0000"))
        volume_ml = 1400 * np.exp(0.1 * rng.standard_normal()) * (3 if n == 7 else 1)
        results.measure["0000"].append(volume_row(scan_id, "liver", volume_ml))
    scans, volumes = assembled(results)
    far = scans.loc[scans["qc_flags"].str.contains("QC_OUTLIER_COHORT"), ["scan_id", "qc"]]
    assert far.values.tolist() == [["more-07", "flag"]]
    rows = volumes.set_index(["scan_id", "structure"])
    assert rows.loc[("more-07", "liver"), "outlier_z"] > 5
    assert rows.loc[("more-07", "liver"), ["status", "qc"]].tolist() == ["ok", "flag"]
    assert pd.isna(rows.loc[("sub-01", "liver"), "outlier_z"])  # the only man


def test_headers_fill_what_the_manifest_leaves_open_and_never_overrule_it(results):
    header = {"header_age_years": 50.0, "header_sex": "F", "header_scanner": "SIEMENS Aera"}
    results.ingest["0000"][0] = ingest_row("sub-01", **header)  # 48.5 years, M in the manifest
    results.ingest["0000"][2] = ingest_row("sub-03", **header)
    scans, _ = assembled(results)
    columns = ["age_years", "sex", "scanner", "qc_flags"]
    assert row_of(scans, "sub-01")[columns].tolist() == [
        48.5, "M", "SIEMENS Aera", "CLN_AGE_CONFLICT"
    ]  # fmt: skip
    assert row_of(scans, "sub-03")[columns].tolist() == [
        50.0, "F", "SIEMENS Aera", "QC_TRUNCATED_FOV"
    ]  # fmt: skip


def test_an_age_in_doubt_keeps_its_scan_out_of_the_trends(results):
    results.ingest["0000"][0] = ingest_row("sub-01", header_age_years=50.0)  # 48.5 in the manifest
    results.ingest["0001"][2] = ingest_row("sub-06", header_age_years=60.5)  # 61 there
    scans, _ = assembled(results)
    assert row_of(scans, "sub-01")[["state", "qc"]].tolist() == ["done", "exclude"]
    assert "CLN_AGE_CONFLICT" in row_of(scans, "sub-01")["qc_flags"]
    assert "CLN_AGE_CONFLICT" not in row_of(scans, "sub-06")["qc_flags"]


def test_a_scan_without_an_age_is_done_and_says_so(results):
    scans, volumes = assembled(results)
    unknown = scans.loc[scans["age_years"].isna() & (scans["state"] == "done"), "scan_id"]
    assert unknown.tolist() == ["sub-03"]
    assert "CLN_AGE_MISSING" in row_of(scans, "sub-03")["qc_flags"]
    assert "CLN_AGE_MISSING" not in row_of(scans, "sub-01")["qc_flags"]
    assert (volumes.loc[volumes["scan_id"] == "sub-03", "volume_ml"] > 0).all()


@pytest.mark.parametrize(("year", "moved"), [("1925", True), ("1976", True), ("1977", False)])
def test_a_date_before_there_was_mri_was_moved_for_privacy(results, year, moved):
    results.manifest.loc[1, "acquisition_date"] = f"{year}-04-03"
    scans, _ = assembled(results)
    assert ("CLN_DATE_SHIFTED" in row_of(scans, "sub-01")["qc_flags"]) == moved
    assert row_of(scans, "sub-01")["qc"] == "pass"


def test_one_image_under_two_ids_keeps_both_out_of_the_trends(results):
    for row, scan_id in ((0, "sub-01"), (2, "sub-03")):
        results.ingest["0000"][row] = ingest_row(scan_id, voxels_sha256="a" * 64)
    results.ingest["0000"][1] |= {"voxels_sha256": "a" * 64}  # of no account: it is quarantined
    results.ingest["0001"][2] = ingest_row("sub-06", voxels_sha256="b" * 64)
    scans, _ = assembled(results)
    for scan_id in ("sub-01", "sub-03"):
        assert row_of(scans, scan_id)["qc"] == "exclude"
        assert "ID_SAME_CONTENT" in row_of(scans, scan_id)["qc_flags"]
    assert "ID_SAME_CONTENT" not in row_of(scans, "sub-06")["qc_flags"]
    assert "ID_SAME_CONTENT" not in row_of(scans, "sub-02")["qc_flags"]


def test_one_unusable_structure_flags_a_scan_and_does_not_exclude_it(results):
    results.measure["0000"][0] |= {"qc": "exclude", "qc_flags": "QC_OUTLIER"}
    scans, _ = assembled(results)
    assert row_of(scans, "sub-01")["qc"] == "flag"


def test_data_found_at_fault_by_measure_are_quarantined_not_failed(results):
    for row in results.measure["0001"][2:]:
        row["reason"] = "SRC_CHANGED"
    scans, _ = assembled(results)
    assert row_of(scans, "sub-07")["state"] == "quarantined"


# --- volumes ---------------------------------------------------------------------------------


def test_volumes_are_sorted_by_scan_and_keep_the_order_of_structures(results):
    results.measure["0000"] = [
        cut_row("sub-03", "spleen", 5.0),
        cut_row("sub-03", "liver", 9.0),
        volume_row("sub-01", "spleen", 5.0),
        volume_row("sub-01", "liver", 9.0),
    ]
    _, volumes = assembled(results)
    assert volumes["scan_id"].drop_duplicates().tolist() == ["sub-01", "sub-03", "sub-06", "sub-07"]
    assert volumes["structure"].tolist()[:4] == ["spleen", "liver"] * 2


def test_a_failure_is_a_row_and_an_absent_volume_is_null(results):
    _, volumes = assembled(results)
    assert volumes.loc[volumes["scan_id"].isin(["sub-06", "sub-07"]), "volume_ml"].isna().all()
    assert set(volumes.loc[volumes["scan_id"] == "sub-07", "status"]) == {"failed"}


def test_leftovers_of_a_scan_that_left_the_manifest_do_not_enter(results):
    results.ingest["0000"].append(ingest_row("sub-99"))
    results.segment["0000"].append(segment_row("sub-99", "0000"))
    results.measure["0000"].append(volume_row("sub-99", "liver", 1500.0))
    scans, volumes = assembled(results)
    assert "sub-99" not in set(volumes["scan_id"]) | set(scans["scan_id"])


def test_leftovers_of_a_scan_whose_id_is_now_duplicated_do_not_enter(results):
    results.ingest["0000"].append(ingest_row("sub-08"))
    results.segment["0000"].append(segment_row("sub-08", "0000"))
    results.measure["0000"].append(volume_row("sub-08", "liver", 1500.0))
    scans, volumes = assembled(results)
    assert len(scans) == 9
    assert "sub-08" not in set(volumes["scan_id"])


def test_assembling_again_gives_the_same_bytes(results):
    assembled(results)
    names = ["scans.parquet", "volumes.parquet"]
    first = [sha256_of(results.folder / name) for name in names]
    (results.folder / "volumes.parquet").unlink()
    assembled(results)
    assert [sha256_of(results.folder / name) for name in names] == first


def test_the_bytes_do_not_depend_on_how_scans_are_spread_over_shards(results):
    assembled(results)
    first = sha256_of(results.folder / "volumes.parquet")
    results.manifest.loc[results.manifest["shard"].notna(), "shard"] = "0000"
    for tables_of_stage in (results.ingest, results.segment, results.measure):
        tables_of_stage["0000"] = tables_of_stage["0001"] + tables_of_stage["0000"]
        del tables_of_stage["0001"]
    assembled(results)
    assert sha256_of(results.folder / "volumes.parquet") == first


def test_a_cohort_of_which_no_row_can_be_used_is_accounted_for(results, capsys):
    results.manifest = pd.DataFrame(
        [manifest_row(2, "sub-01", None, state="quarantined", reason="SRC_MISSING")]
    )
    results.ingest, results.segment, results.measure = {}, {}, {}
    scans, volumes = assembled(results)
    assert (len(scans), len(volumes)) == (1, 0)
    assert "1 scans = 0 done + 0 skipped + 1 quarantined + 0 failed" in capsys.readouterr().out


def test_a_cohort_of_which_ingest_left_nothing_is_accounted_for(results):
    results.manifest = results.manifest[results.manifest["scan_id"] == "sub-02"]
    results.ingest["0000"] = results.ingest["0000"][1:2]
    results.segment["0000"], results.measure["0000"] = [], []
    scans, volumes = assembled(results)
    assert scans["state"].tolist() == ["quarantined"]
    assert len(volumes) == 0


# --- what is refused -------------------------------------------------------------------------


def test_two_segmentations_in_one_cohort_are_refused_with_the_command_that_mends_it(results):
    results.segment["0000"][0]["segmentation_key"] = "f" * 16
    with pytest.raises(CohortvolError, match="PROV_MIXED") as caught:
        assembled(results)
    message = str(caught.value)
    assert "ffffffffffffffff" in message
    assert f"cohortvol segment --ingest {results.folder}/ingest/0000.parquet" in message
    assert "0001.parquet" not in message


def test_another_segmentation_of_a_scan_that_left_the_cohort_does_not_matter(results):
    results.segment["0000"].append(segment_row("sub-99", "0000", segmentation_key="f" * 16))
    assembled(results)


@pytest.mark.parametrize("stage", ["ingest", "segment", "measure"])
def test_a_scan_missing_from_a_shard_table_is_named_with_its_shard(results, stage):
    rows = getattr(results, stage)
    rows["0000"] = [row for row in rows["0000"] if row["scan_id"] != "sub-03"]
    with pytest.raises(TemporaryError, match=r"sub-03\n  shards  0000"):
        assembled(results)


def test_a_shard_that_a_stage_has_not_reached_is_named(results):
    del results.measure["0001"]
    with pytest.raises(TableError, match=r"measure/toy/0001\.parquet: no such table"):
        assembled(results)


def test_a_scan_segmented_from_other_bytes_than_ingested_is_refused(results):
    results.segment["0000"][1]["image_sha256"] = "older bytes"
    with pytest.raises(TemporaryError, match="other bytes than ingested, such as sub-03"):
        assembled(results)


def test_a_manifest_without_its_index_says_what_to_run(results):
    results.write()
    (results.folder / "manifest" / "index.tsv").unlink()
    with pytest.raises(TableError, match="cohortvol manifest"):
        assemble.run(results.folder, MODEL)
