"""Explain: what happened to one scan, stage by stage, and what to do about it."""

import pytest

from cohortvol.errors import ConfigError
from cohortvol.stages import assemble
from cohortvol.store import schemas, tables
from cohortvol.tools import status
from results_folder import MODEL, ResultsFolder, ingest_row


@pytest.fixture
def results(tmp_path):
    return ResultsFolder(tmp_path / "results")


def test_a_finished_scan_is_followed_through_every_stage(results):
    results.write()
    assemble.run(results.folder, MODEL)
    told = status.explain(results.folder, "sub-03")
    assert told["state"] == "done"
    assert [step["stage"] for step in told["steps"]] == [
        "manifest",
        "ingest",
        "segment",
        "measure",
        "assemble",
    ]
    assert [row["structure"] for row in told["volumes"]] == ["liver", "spleen"]
    said = [reason["reason"] for reason in told["reasons"]]
    assert said == ["QC_TRUNCATED_FOV", "CLN_AGE_MISSING"]
    assert told["commands"] == []
    text = status.render_explanation(told)
    assert "line 6" in text
    assert "900.0" in text


def test_a_volume_is_shown_with_its_interval_and_what_that_is_worth(results):
    kind = "calibrated 95 % on simulated scans"
    known = {"volume_low_ml": 1440.0, "volume_high_ml": 1560.04, "interval": kind}
    results.measure["0000"][0] |= known
    results.segment["0000"][0] |= {"softmax_labels": [1], "spread_ratio": [0.0123]}
    told = status.explain(results.write().folder, "sub-01")
    assert told["volumes"][0].items() >= known.items()
    text = status.render_explanation(told, width=140)
    assert f"1440.0 to 1560.0  {kind}" in text
    assert "0.0123" not in text
    results.measure["0000"][0] |= {"interval": None}
    assert "low_to_high_ml" not in status.render_explanation(
        status.explain(results.write().folder, "sub-01")
    )


def test_what_only_the_image_or_the_cohort_can_tell_is_told_too(results):
    results.ingest["0000"][2] = ingest_row("sub-03", warnings="QC_INTENSITY")
    results.write()
    assemble.run(results.folder, MODEL)
    path = results.folder / "volumes.parquet"
    volumes = tables.read_table(path, schemas.VOLUMES)
    spleen = (volumes["scan_id"] == "sub-03") & (volumes["structure"] == "spleen")
    volumes.loc[spleen, "qc_flags"] = "QC_OUTLIER_COHORT"
    tables.write_table(path, volumes, schemas.VOLUMES)
    told = [reason["reason"] for reason in status.explain(results.folder, "sub-03")["reasons"]]
    of_scan = ["CLN_AGE_MISSING", "QC_INTENSITY"]
    assert told == ["QC_TRUNCATED_FOV", "QC_OUTLIER_COHORT", *of_scan]


def test_a_quarantined_scan_is_told_why_and_what_to_do(results):
    told = status.explain(results.write().folder, "sub-02")
    assert told["state"] == "quarantined"
    assert told["steps"][-1]["facts"]["detail"] == "10 of 90 bytes"
    assert told["reasons"][0]["what_to_do"]
    assert told["commands"][0].startswith(f"cohortvol ingest --shard {results.folder}/manifest")


def test_a_failed_scan_is_told_how_to_run_its_shard_again_from_there(results):
    told = status.explain(results.write().folder, "sub-05")
    assert told["state"] == "failed"
    assert [command.split()[1] for command in told["commands"]] == [
        "segment",
        "measure",
        "assemble",
    ]
    assert f"--folder {results.folder}/segment/toy/0001 " in told["commands"][0]


def test_a_scan_that_cannot_be_measured_is_to_be_segmented_again(results):
    told = status.explain(results.write().folder, "sub-07")
    assert (told["state"], told["reasons"][0]["reason"]) == ("failed", "BUG_GRID")
    assert told["commands"][0].startswith("cohortvol segment")


def test_a_scan_says_what_it_waits_for(results):
    del results.measure["0001"], results.segment["0001"]
    told = status.explain(results.write().folder, "sub-06")
    assert told["state"] == "waiting for segment"
    results.receipt("0001", "sub-06", versions={"torch": "2.13"}, seconds=1.5)
    told = status.explain(results.folder, "sub-06")
    assert told["state"] == "waiting for measure"
    assert told["steps"][-1]["facts"]["torch_version"] == "2.13"


def test_every_manifest_row_of_a_duplicated_id_is_told(results):
    told = status.explain(results.write().folder, "sub-08")
    assert [step["outcome"] for step in told["steps"]] == [
        "line 4, quarantined",
        "line 8, quarantined",
    ]
    assert told["state"] == "quarantined"
    assert told["reasons"][0]["reason"] == "ID_DUPLICATE"


def test_an_unknown_scan_names_the_nearest_one(results):
    with pytest.raises(ConfigError, match="did you mean 'sub-01'"):
        status.explain(results.write().folder, "sub_01")
