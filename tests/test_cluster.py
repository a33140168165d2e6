"""Slurm jobs that a killed driver left behind; on a real cluster in tests/slurm."""

import logging

import pytest

from cohortvol.compute.cluster import (
    RUN,
    Refusals,
    Watch,
    cancel_left_over,
    forget,
    remember,
    what_to_change,
)


def test_a_folder_that_no_run_was_killed_in_has_nothing_to_cancel(tmp_path):
    assert cancel_left_over(tmp_path) == 0
    remember(tmp_path, "cohortvol_8b6a")
    forget(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_where_slurm_is_not_there_the_run_goes_on_and_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))
    remember(tmp_path, "cohortvol_8b6a")
    assert cancel_left_over(tmp_path) == 0
    assert "Slurm cannot be asked" in caplog.text
    assert not (tmp_path / RUN).exists()


def test_a_name_that_no_run_has_is_never_given_to_slurm(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))
    remember(tmp_path, "x --user=other")
    assert cancel_left_over(tmp_path) == 0
    assert caplog.text == ""


PASSING = (
    "None Priority Resources Dependency BeginTime QOSGrpGRES AssocGrpMemLimit AssocMaxJobsLimit "
    "QOSMaxJobsPerUserLimit QOSMaxCpuPerUserLimit"
).split()


@pytest.mark.parametrize("reason", PASSING)
def test_a_job_whose_turn_will_come_is_not_spoken_of(reason):
    assert what_to_change(reason) is None


@pytest.mark.parametrize(
    ("reason", "setting"),
    [
        ("PartitionTimeLimit", "`runtime`"),
        ("PartitionConfig", "`runtime`"),
        ("QOSMaxWallDurationPerJobLimit", "`runtime`"),
        ("AssocMaxWallDurationPerJobLimit", "`runtime`"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "`runtime`"),
        ("QOSMaxMemoryPerJob", "`mem_mb`"),
        ("MaxMemPerLimit", "`mem_mb`"),
        ("Memory specification can not be satisfied", "`mem_mb`"),
        ("QOSMaxGRESPerJob", "`gpu`"),
        ("Invalid generic resource (gres) specification", "`gpu`"),
        ("CPU count per node can not be satisfied", "threads"),
        ("BadConstraints", "`constraint`"),
        ("Invalid feature specification", "`constraint`"),
        ("PartitionDown", "`slurm_partition`"),
        ("invalid partition specified: nope", "`slurm_partition`"),
        ("InvalidAccount", "`slurm_account`"),
        ("InvalidQOS", "`qos`"),
        ("AssocGrpCPUMinutesLimit", "`slurm_account`"),
        ("JobHeldUser", "scontrol release"),
        ("ReqNodeNotAvail, Reserved for maintenance", "scontrol show reservation"),
        ("SomethingNew", "scontrol show job"),
    ],
)
def test_a_job_that_waits_in_vain_or_was_refused_is_told_what_to_change(reason, setting):
    assert setting in what_to_change(reason)


def test_jobs_that_do_not_start_are_told_once_for_each_rule_and_reason(tmp_path, monkeypatch):
    squeue = tmp_path / "squeue"
    lines = [
        "7|PENDING|rule_segment_wildcards_0000|gpu|4:00:00|32000M|PartitionTimeLimit",
        "8|PENDING|rule_segment_wildcards_0001|gpu|4:00:00|32000M|PartitionTimeLimit",
        "9|PENDING|rule_ingest_wildcards_0002|cpu|1:00:00|4000M|Priority",
        "10|RUNNING|rule_ingest_wildcards_0003|cpu|1:00:00|4000M|None",
    ]
    squeue.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    said = []
    watch = Watch("cohortvol_8b6a", said.append)
    watch.look()
    watch.look()
    assert len(said) == 1, said
    assert said[0].startswith(
        "job 7 (segment 0000) and 1 more does not start: PartitionTimeLimit; it asks for 4:00:00 "
        "and 32000M in partition gpu\n  set a shorter `runtime`"
    )


def test_what_sbatch_refused_is_told_once_with_what_to_change():
    said = []
    refusals = Refusals(said.append)
    text = (
        "SLURM sbatch failed. The error message was 'sbatch: error: Memory specification can not "
        "be satisfied\nsbatch: error: Batch job submission failed: Requested node configuration is "
        "not available'.\n    sbatch call:\n        sbatch --comment 'a'\n"
    )
    for message in (text, "Error in rule segment", text):
        record = logging.makeLogRecord(
            {"levelno": logging.ERROR, "msg": "", "rule_name": "segment", "rule_msg": message}
        )
        refusals.handle(record)
    assert said == [
        "Slurm refused a job of segment: Memory specification can not be satisfied Batch job "
        "submission failed: Requested node configuration is not available\n  "
        + what_to_change("Memory specification")
    ]
