"""`cohortvol doctor`: Slurm, its partitions, and profiles that do not suit them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cohortvol.cli.doctor import _checks
from cohortvol.compute import profiles
from cohortvol.tools.doctor import Finding, Verdict, slurm
from fake_programs import programs_in

REPOSITORY = Path(__file__).resolve().parents[1]


def verdict(finding: Finding) -> str:
    assert finding.says
    assert (finding.what_to_do == "") is (finding.verdict is Verdict.PASS)
    return finding.verdict.value


@pytest.fixture
def programs(tmp_path, monkeypatch):
    return programs_in(tmp_path / "bin", monkeypatch)


SINFO = (
    "gpu|up|4|1-00:00:00|gpu:a100:2(S:0-1)\ngpu|up|2|1-00:00:00|gpu:a100:4\nold|down|9|1:00|(null)"
)
PROFILE = {"slurm-status-command": "squeue", "seconds-between-status-checks": 10}
AGE = "SlurmctldPort = 6817\nMinJobAge               = {} sec\n"
SLURM = {"sbatch": "", "squeue": "", "scancel": "", "scontrol": AGE.format(300), "sinfo": SINFO}


def test_without_slurm_its_checks_are_left_out(programs):
    assert verdict(slurm.programs({})) == "SKIP"
    assert verdict(slurm.partitions(PROFILE)) == "SKIP"
    assert verdict(slurm.forgotten(PROFILE)) == "SKIP"


def test_half_a_slurm_fails_and_names_what_is_missing(programs):
    programs(sinfo="slurm 23.11")
    found = slurm.programs({})
    assert verdict(found) == "FAIL"
    assert found.says == "sbatch, squeue, scancel, scontrol cannot be found"


def test_a_configuration_that_the_plugin_would_not_see_is_told(programs, tmp_path, monkeypatch):
    programs(**SLURM)
    monkeypatch.setattr(slurm, "SYSTEM_CONFIG", tmp_path / "slurm.conf")
    assert verdict(slurm.programs({"SLURM_CONF": "/opt/slurm.conf"})) == "WARN"
    assert verdict(slurm.programs({})) == "PASS"
    (tmp_path / "slurm.conf").touch()
    assert verdict(slurm.programs({"SLURM_CONF": "/opt/slurm.conf"})) == "PASS"


def test_partitions_are_counted_and_one_that_is_not_there_fails(programs):
    programs(**SLURM)
    found = slurm.partitions(PROFILE)
    assert verdict(found) == "PASS"
    assert "gpu: 6 nodes, at most 1-00:00:00, gpu:a100:2, gpu:a100:4" in found.says
    assert "old: down, 9 nodes" in found.says
    wrong = PROFILE | {"set-resources": {"segment": {"slurm_partition": "gpus"}}}
    assert verdict(slurm.partitions(wrong)) == "FAIL"
    assert "the profile names gpus; there is gpu" in slurm.partitions(wrong).says
    right = PROFILE | {"default-resources": {"slurm_partition": "gpu,old"}}
    assert verdict(slurm.partitions(right)) == "PASS"


@pytest.mark.parametrize(
    ("sinfo", "expected"),
    [("cpu|up|4|infinite|(null)", "WARN"), ("gpu|down|4|infinite|gpu:2", "FAIL"), (None, "FAIL")],
)
def test_a_cluster_without_gpus_or_without_an_answer_is_told(programs, sinfo, expected):
    programs(**SLURM | {"sinfo": sinfo})
    assert verdict(slurm.partitions(PROFILE)) == expected


@pytest.mark.parametrize(
    ("age", "interval", "expected"),
    [(300, 10, "PASS"), (30, 20, "WARN"), (10, 10, "FAIL"), (0, 10, "PASS")],
)
def test_a_job_must_be_seen_before_slurm_forgets_it(programs, age, interval, expected):
    programs(**SLURM | {"scontrol": AGE.format(age)})
    profile = PROFILE | {"seconds-between-status-checks": interval}
    assert verdict(slurm.forgotten(profile)) == expected


def test_of_the_shipped_profile_the_seconds_are_read(programs):
    programs(**SLURM | {"scontrol": AGE.format(5)})
    profile = profiles.together([str(REPOSITORY / "profiles" / "slurm")])
    assert verdict(slurm.forgotten(profile)) == "FAIL"


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("lscratch:800,gpu:a100:4(S:0-1)", ["gpu:a100:4"]),
        ("lscratch:800(S:0,1),gpu:a100:4(S:0,2-3),mps:400", ["gpu:a100:4"]),
        ("gpu:k80:2,gpu:v100:4(S:0-1)", ["gpu:k80:2", "gpu:v100:4"]),
        ("gpu:2(S:0)", ["gpu:2"]),
        ("gpu", ["gpu"]),
        ("gpu(S:0)", ["gpu"]),
        ("gpu:nvidia_a100-sxm4-80gb:4", ["gpu:nvidia_a100-sxm4-80gb:4"]),
        ("gpumem:40,lscratch:800", []),
        ("shard:8,mps:400", []),
        ("(null)", []),
        ("", []),
    ],
)
def test_gpus_are_found_wherever_they_stand_among_the_resources_of_a_node(programs, gres, gpus):
    assert slurm.gpus_of(gres) == gpus
    programs(**SLURM | {"sinfo": f"work|up|4|1-00:00:00|{gres}"})
    found = slurm.partitions(PROFILE)
    assert verdict(found) == ("PASS" if gpus else "WARN")
    assert all(one in found.says for one in gpus)


def with_segment(**resources):
    return PROFILE | {"executor": "slurm", "set-resources": {"segment": resources}}


@pytest.mark.parametrize(
    ("profile", "expected", "says"),
    [
        (with_segment(gpu=1, slurm_extra="'--signal=TERM@120'"), "PASS", "has a GPU"),
        (
            with_segment(gres="'lscratch:9,gpu:a100:1'", slurm_extra="'--signal=B:TERM@120'"),
            "PASS",
            "has a GPU",
        ),
        (with_segment(mem_mb=9500), "WARN", "asks for no GPU and gets no signal"),
        (with_segment(gpu=0, slurm_extra="--signal=TERM@120"), "WARN", "asks for no GPU; it has"),
        (with_segment(gpu=1), "WARN", "segment gets no signal before its time ends; it has gpu: 1"),
        (PROFILE | {"executor": "slurm"}, "WARN", "nothing of its own"),
        (PROFILE, "SKIP", "not for Slurm"),
        (
            with_segment(gpu=1) | {"default-resources": {"slurm_extra": "'--signal=TERM@60'"}},
            "PASS",
            "has a GPU",
        ),
    ],
)
def test_profiles_that_take_the_gpu_or_the_signal_from_segment_are_told(profile, expected, says):
    found = slurm.segment(profile)
    assert verdict(found) == expected
    assert says in found.says


def test_several_profiles_are_judged_by_what_they_make_together(tmp_path):
    site = tmp_path / "mysite" / "config.yaml"
    site.parent.mkdir()
    site.write_text("set-resources: {segment: {slurm_partition: gpu}}\n")
    shipped = str(REPOSITORY / "profiles" / "slurm")

    def of_profiles(*names):
        return _checks(None, "embedded-v2", Path("models"), list(names), "cpu")["profile"]()

    assert verdict(of_profiles(shipped)) == "PASS"
    told = of_profiles(shipped, str(site.parent))
    assert verdict(told) == "WARN"
    assert "asks for no GPU and gets no signal" in told.says
    assert "`gpu: 1`; `slurm_extra: \"'--signal=TERM@120'\"`" in told.what_to_do
