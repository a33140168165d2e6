"""Human review: it overrules automatic QC, both are kept, and nothing is brought back to life."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from analyse_fixture import analysed, made_up, record, row
from cohortvol import cli
from cohortvol.errors import TableError
from cohortvol.stages import assemble
from cohortvol.stages.assemble.review import CONTEXT
from cohortvol.store import schemas, tables
from cohortvol.tools import status
from results_folder import MODEL, ResultsFolder, absent_row, ingest_row, volume_row

HEAD = "scan_id,structure,decision,reviewer,date,note"
KIDNEYS = ("kidney_left", "kidney_right")
FLAGS = {"pass": "", "exclude": "QC_OUTLIER"}


def kidneys(scan_id, left="pass", right="pass"):
    """Rows of both kidneys and their sum, as measure writes them."""
    worse = min(left, right, key=("exclude", "flag", "pass").index)
    rows = [
        volume_row(scan_id, side, 150.0, label=label, qc=qc, qc_flags=FLAGS[qc])
        for label, (side, qc) in enumerate(zip(KIDNEYS, (left, right), strict=True), start=2)
    ]
    return [*rows, volume_row(scan_id, "kidneys", 300.0, qc=worse, qc_flags=FLAGS[worse])]


@pytest.fixture
def results(tmp_path):
    """sub-01 passes but for a right kidney; of sub-03 the liver is cut; sub-06 has a spleen."""
    made = ResultsFolder(tmp_path / "results")
    made.measure["0000"] = [
        volume_row("sub-01", "liver", 1500.0, label=1),
        *kidneys("sub-01", right="exclude"),
        volume_row("sub-03", "liver", 900.0, label=1, qc="flag", qc_flags="QC_FRAGMENTED"),
        *kidneys("sub-03"),
    ]
    made.measure["0001"][:2] = [
        absent_row("sub-06", "liver") | {"label": 1},
        volume_row("sub-06", "kidney_left", 150.0, label=2, qc="exclude", qc_flags="QC_OUTLIER"),
    ]
    return made


def decided(results, *lines, head=HEAD):
    """scans and volumes, by their keys, after these rows of a decision table."""
    path = results.folder.parent / "decisions.csv"
    path.write_text("\n".join([head, *lines]) + "\n")
    results.write()
    assemble.run(results.folder, MODEL, path)
    scans = tables.read_table(results.folder / "scans.parquet", schemas.SCANS)
    volumes = tables.read_table(results.folder / "volumes.parquet", schemas.COHORT_VOLUMES)
    return scans.set_index("scan_id"), volumes.set_index(["scan_id", "structure"])


def verdict(rows, key):
    found = rows.loc[key][["qc", "qc_auto", "review"]]
    return tuple(None if pd.isna(value) else value for value in found)


def test_without_decisions_both_verdicts_are_the_automatic_one(results):
    scans, volumes = decided(results)
    for found in (scans, volumes):
        assert found["qc"].fillna("-").tolist() == found["qc_auto"].fillna("-").tolist()
        assert found["review"].isna().all()
    assert verdict(scans, "sub-01") == ("flag", "flag", None)


def test_an_excluded_structure_takes_its_sum_with_it_and_flags_its_scan(results):
    scans, volumes = decided(results, "sub-03,kidney_left,exclude,ab,2026-11-20,leaks")
    assert verdict(volumes, ("sub-03", "kidney_left")) == ("exclude", "pass", "exclude")
    assert verdict(volumes, ("sub-03", "kidneys")) == ("exclude", "pass", "exclude")
    assert verdict(volumes, ("sub-03", "kidney_right")) == ("pass", "pass", None)
    assert volumes.loc[("sub-03", "kidney_left"), "review_line"] == 2
    assert verdict(scans, "sub-03") == ("flag", "flag", None)


def test_an_accepted_structure_brings_its_sum_back_and_its_scan_passes(results):
    scans, volumes = decided(results, "sub-01,kidney_right,accept,ab,2026-11-20,")
    assert verdict(volumes, ("sub-01", "kidney_right")) == ("pass", "exclude", "accept")
    assert verdict(volumes, ("sub-01", "kidneys")) == ("pass", "exclude", "accept")
    assert verdict(scans, "sub-01") == ("pass", "flag", None)


def test_a_sum_of_sides_that_nobody_decided_on_keeps_its_own_verdict(results):
    of_sum = next(row for row in results.measure["0000"][::-1] if row["structure"] == "kidneys")
    of_sum |= {"qc": "flag", "qc_flags": "QC_OUTLIER"}
    _, volumes = decided(results, "sub-03,liver,accept,ab,2026-11-20,")
    assert verdict(volumes, ("sub-03", "kidneys")) == ("flag", "flag", None)


@pytest.mark.parametrize("structure", ["", "*"])
def test_an_excluded_scan_has_no_usable_structure(results, structure):
    scans, volumes = decided(results, f"sub-03,{structure},exclude,ab,2026-11-20,")
    assert (volumes.loc["sub-03", "qc"] == "exclude").all()
    assert verdict(scans, "sub-03") == ("exclude", "flag", "exclude")
    assert verdict(scans, "sub-01") == ("flag", "flag", None)


def test_a_decision_on_a_structure_beats_one_on_its_scan_even_an_earlier_one(results):
    scans, volumes = decided(
        results,
        "sub-03,liver,accept,ab,2026-11-19,",
        "sub-03,,exclude,cd,2026-11-20,",
        "sub-01,,accept,cd,2026-11-20,",
        "sub-01,kidney_left,exclude,ab,2026-11-19,",
    )
    assert verdict(volumes, ("sub-03", "liver")) == ("pass", "flag", "accept")
    assert verdict(volumes, ("sub-03", "kidney_left")) == ("exclude", "pass", "exclude")
    assert verdict(scans, "sub-03")[0] == "pass"  # people have decided on all of it
    assert verdict(volumes, ("sub-01", "kidney_right")) == ("pass", "exclude", "accept")
    assert verdict(volumes, ("sub-01", "kidney_left")) == ("exclude", "pass", "exclude")
    assert verdict(scans, "sub-01") == ("pass", "flag", "accept")


def test_the_latest_of_several_decisions_holds_and_agreement_is_no_conflict(results):
    _, volumes = decided(
        results,
        "sub-01,liver,accept,ab,2026-11-21,",
        "sub-01,liver,exclude,cd,2026-11-22,",
        "sub-01,liver,exclude,ab,2026-11-22,",
        "sub-01,liver,accept,cd,2025-12-31,",
    )
    assert verdict(volumes, ("sub-01", "liver")) == ("exclude", "pass", "exclude")
    assert volumes.loc[("sub-01", "liver"), "review_line"] == 3


def test_decisions_of_one_day_that_contradict_each_other_are_listed_together(results):
    with pytest.raises(TableError) as raised:
        decided(
            results,
            "sub-01,liver,accept,ab,2026-11-21,",
            "sub-01,liver,exclude,cd,2026-11-21,",
            "sub-03,,exclude,cd,2026-11-21,",
            "sub-03,*,accept,cd,2026-11-21,",
        )
    assert "sub-01 liver: accept in line 2, exclude in line 3" in str(raised.value)
    assert "sub-03, the whole scan: exclude in line 4, accept in line 5" in str(raised.value)


def test_every_decision_on_what_is_not_there_is_listed(results):
    with pytest.raises(TableError) as raised:
        decided(
            results,
            "sub-1,,exclude,ab,2026-11-21,",
            "sub-01,livver,exclude,ab,2026-11-21,",
            "sub-01,kidneys,exclude,ab,2026-11-21,",
        )
    message = str(raised.value)
    assert "line 2: no scan 'sub-1'; did you mean 'sub-01'?" in message
    assert "line 3: no structure 'livver'; did you mean 'liver'?" in message
    assert "line 4: kidneys is a sum; decide on kidney_left and kidney_right" in message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sub-01,,reject,ab,2026-11-21,", "line 2: decision 'reject'; allowed: accept, exclude"),
        ("sub-01,,accept,,2026-11-21,", "line 2: a decision without a reviewer"),
        ("sub-01,,accept,ab,21.11.2026,", "line 2: date '21.11.2026'; write a day"),
        ("sub-01,,accept,ab,2126-11-21,", "line 2: date '2126-11-21' lies in the future"),
        (",,accept,ab,2026-11-21,", "line 2: no scan_id"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_what_is_allowed(results, line, message):
    with pytest.raises(TableError, match="1 rows cannot be used") as raised:
        decided(results, line)
    assert message in str(raised.value)


def test_a_missing_column_and_a_missing_table_are_named(results, tmp_path):
    with pytest.raises(TableError, match="no column 'decision'; did you mean 'decisions'"):
        decided(results, head="scan_id,decisions,reviewer,date")
    with pytest.raises(TableError, match=r"no such file\n  Make a table of decisions"):
        assemble.run(results.folder, MODEL, tmp_path / "nowhere.csv")


def test_nothing_that_was_not_measured_is_brought_back(results, caplog):
    scans, volumes = decided(
        results,
        "sub-06,liver,accept,ab,2026-11-21,",
        "sub-06,,accept,ab,2026-11-21,",
        "sub-02,,accept,ab,2026-11-21,",
        "sub-07,,accept,ab,2026-11-21,",
    )
    assert verdict(volumes, ("sub-06", "liver")) == ("exclude", "exclude", None)
    assert pd.isna(volumes.loc[("sub-06", "liver"), "volume_ml"])
    assert verdict(volumes, ("sub-06", "kidney_left")) == ("pass", "exclude", "accept")
    assert verdict(scans, "sub-06") == ("pass", "exclude", "accept")
    assert (scans.loc[["sub-02", "sub-07"], "state"] == ["quarantined", "failed"]).all()
    assert scans.loc[["sub-02", "sub-07"], "review"].isna().all()
    assert "line 2: sub-06 liver: nothing was measured there" in caplog.text
    assert "line 4: sub-02, the whole scan: the scan is not done" in caplog.text


def test_a_person_may_say_which_of_two_equal_images_is_right(results):
    for scan, scan_id in ((0, "sub-01"), (2, "sub-03")):
        results.ingest["0000"][scan] = ingest_row(scan_id, voxels_sha256="a" * 64)
    scans, _ = decided(results, "sub-01,,accept,ab,2026-11-21,the right one")
    assert verdict(scans, "sub-01") == ("pass", "exclude", "accept")
    assert verdict(scans, "sub-03") == ("exclude", "exclude", None)


def test_neither_reviewer_nor_note_is_written_anywhere(results):
    decided(results, "sub-01,liver,exclude,CANARYNAME,2026-11-21,CANARYNOTE")
    for name in ("scans", "volumes"):
        table = pd.read_parquet(results.folder / f"{name}.parquet")
        assert "CANARY" not in table.to_csv()


@pytest.mark.slow
def test_the_same_decisions_give_the_same_bytes(results):
    lines = "sub-01,liver,exclude,ab,2026-11-21,", "sub-03,,accept,ab,2026-11-21,"
    decided(results, *lines)
    names = ("scans.parquet", "volumes.parquet")
    first = [(results.folder / name).read_bytes() for name in names]
    decided(results, *reversed(lines))
    shuffled = tables.read_table(results.folder / "volumes.parquet", schemas.COHORT_VOLUMES)
    decided(results, *lines)
    assert [(results.folder / name).read_bytes() for name in names] == first
    assert set(shuffled["review_line"].dropna()) == {2, 3}


# --- the command -------------------------------------------------------------------------------


def run_review(results, *arguments):
    return cli.run(["review", "--results", str(results.folder), *map(str, arguments)])


def test_the_command_counts_before_and_after_and_writes_nothing(results, tmp_path, capsys):
    results.write()
    table = tmp_path / "decisions.csv"
    table.write_text(
        f"{HEAD}\nsub-01,kidney_right,accept,ab,2026-11-20,\nsub-03,,exclude,ab,2026-11-20,\n"
    )
    before = sorted(results.folder.rglob("*"))
    assert run_review(results, table, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["scans"]["qc_auto"] == {"pass": 0, "flag": 2, "exclude": 1}
    assert told["scans"]["qc"] == {"pass": 1, "flag": 0, "exclude": 2}
    rows = {row["structure"]: row for row in told["structures"]}
    assert rows["liver"] == {
        "structure": "liver", "excluded": 1, "accepted": 0, "usable_before": 2, "usable_after": 1
    }  # fmt: skip
    assert (rows["kidney_right"]["excluded"], rows["kidney_right"]["accepted"]) == (1, 1)
    assert run_review(results, table) == 0
    assert "kidney_right" in capsys.readouterr().out
    assert sorted(results.folder.rglob("*")) == before


def test_decisions_without_effect_end_with_3_and_unusable_ones_with_64(results, tmp_path, capsys):
    results.write()
    table = tmp_path / "decisions.csv"
    table.write_text(f"{HEAD}\nsub-02,,exclude,ab,2026-11-20,\n")
    assert run_review(results, table) == 3
    assert "line 2: sub-02, the whole scan: the scan is not done" in capsys.readouterr().out
    table.write_text(f"{HEAD}\nsub-99,,exclude,ab,2026-11-20,\n")
    assert run_review(results, table) == 64
    assert "no scan 'sub-99'" in capsys.readouterr().err
    assert run_review(results) == 64
    assert run_review(results, "--todo") == 64


def test_the_list_to_fill_in_holds_what_is_in_doubt_and_a_sample_and_can_be_read_back(
    results, tmp_path
):
    results.measure["0000"][4:] = [volume_row("sub-03", "liver", 1400.0, label=1)]
    results.write()
    todo = tmp_path / "todo.csv"
    assert run_review(results, "--todo", "--out", todo) == 0
    rows = pd.read_csv(todo, dtype=str, keep_default_na=False)
    assert list(rows.columns) == [*HEAD.split(","), *CONTEXT]
    found = rows[["scan_id", "structure", "why"]].values.tolist()
    assert found == [
        ["sub-01", "kidney_right", "exclude"],
        ["sub-03", "*", "sample"],
        ["sub-06", "*", "exclude"],
    ]
    assert run_review(results, todo) == 0  # nothing decided yet
    rows.loc[0, ["decision", "reviewer", "date"]] = ["accept", "ab", "2026-11-20"]
    rows.to_csv(todo, index=False)
    assert run_review(results, todo) == 0
    again = tmp_path / "again.csv"
    assert run_review(results, todo, "--todo", "--out", again, "--sample", "0") == 0
    assert pd.read_csv(again)["scan_id"].tolist() == ["sub-06"]


def test_a_scan_whose_image_is_in_doubt_is_looked_at_as_a_whole(results, tmp_path):
    results.ingest["0000"][2] = ingest_row("sub-03", warnings="QC_INTENSITY")
    results.measure["0000"][4:] = [volume_row("sub-03", "liver", 1400.0, label=1)]
    results.write()
    assert run_review(results, "--todo", "--out", tmp_path / "todo.csv", "--sample", "0") == 0
    rows = pd.read_csv(tmp_path / "todo.csv", dtype=str)
    found = rows[["scan_id", "structure", "why"]].values.tolist()
    assert ["sub-03", "*", "flag"] in found


# --- what people see ---------------------------------------------------------------------------


def test_the_analysis_counts_what_review_left_out_and_what_it_kept(tmp_path):
    volumes, scans = made_up(400)
    scans = scans.assign(qc="pass", qc_auto="pass")
    scans.loc[[0, 1], "qc"] = "exclude"
    scans.loc[2, "qc_auto"] = "exclude"
    scans.loc[3, ["qc", "qc_auto"]] = "exclude"
    volumes = volumes.assign(qc="pass", qc_auto="pass")
    liver = volumes.index[volumes["structure"] == "liver"]
    volumes.loc[liver[4], "qc"] = "exclude"
    volumes.loc[liver[5], "qc_auto"] = "exclude"
    volumes.loc[liver[6], ["qc", "qc_auto"]] = "exclude"
    found = analysed(tmp_path, volumes, scans)
    flow = {(step, reason): n for step, reason, n in found["flow"].fillna("").to_numpy()}
    assert flow[("unusable", "scan excluded by review")] == 2
    assert flow[("unusable", "scan failed QC")] == 1
    assert flow[("kept", "accepted by review against automatic QC")] == 1
    assert flow[("usable for trends", "")] == 397
    dropped = found["dropped"].set_index(["structure", "reason"])["n"]
    assert dropped["liver", "excluded by review"] == 1
    assert dropped["liver", "scan excluded by review"] == 2
    assert dropped["liver", "failed QC"] == 1
    assert row(found["slopes"], structure="liver", sex="all", model="M1")["n_used"] == 395
    assert any("excluded them" in said for said in record(tmp_path)["sentences"])
    assert any("accepted them" in said for said in record(tmp_path)["sentences"])


def test_explain_shows_both_verdicts_and_the_line_of_the_decision(results, capsys):
    decided(results, "sub-01,,accept,ab,2026-11-20,")
    told = status.explain(results.folder, "sub-01", MODEL)
    end = told["steps"][-1]["facts"]
    assert (end["qc"], end["qc_auto"]) == ("pass", "flag")
    assert (end["review"], end["review_line"]) == ("accept", 2)
    assert "accept by review, exclude before" in status.render_explanation(told, width=120)
