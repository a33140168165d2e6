"""No attempt of a job asks for more than its partition has, and what it is told where it would."""

import re
from types import SimpleNamespace

import pytest
from snakemake.resources import Resource, Resources

from cohortvol.compute.partitions import Most, Partitions, read_limits

SHOWN = (
    "PartitionName=gpu AllowQos=ALL Default=YES MaxTime=1-00:00:00 MaxMemPerNode=UNLIMITED\n"
    "PartitionName=short Default=NO MaxTime=01:30:00 MaxMemPerNode=30000\n"
    "PartitionName=long Default=NO MaxTime=UNLIMITED MaxMemPerNode=UNLIMITED\n"
    "PartitionName=empty Default=NO MaxTime=00:10:00 MaxMemPerNode=UNLIMITED\n"
)
NODES = "gpu|64000\ngpu|128000\nshort|64000\nlong|24000\n"
LIMITS = {
    "gpu": Most(128_000, 1440),
    "short": Most(30_000, 90),
    "long": Most(24_000, None),
    "empty": Most(None, 10),
    None: Most(128_000, 1440),
}


@pytest.fixture
def partitions():
    return Partitions(read_limits(SHOWN, NODES))


def test_limits_are_those_of_the_largest_node_and_of_the_partition():
    assert read_limits(SHOWN, NODES) == LIMITS


@pytest.mark.parametrize("attempt", range(1, 6))
@pytest.mark.parametrize("partition", [*LIMITS, "short,long", "nowhere"])
@pytest.mark.parametrize(("resource", "first"), [("mem_mb", 16_000), ("runtime", 40)])
def test_no_attempt_asks_for_more_than_there_is_and_none_for_less_than_it_must(
    partitions, caplog, resource, first, partition, attempt
):
    names = (partition or "").split(",") if partition else [None]
    most = [getattr(LIMITS.get(name, Most()), resource) for name in names]
    allowed = float("inf") if None in most else max(most)
    wanted = first * attempt
    gets = [partitions.within("segment", resource, wanted, partition, attempt) for _ in range(3)]
    assert gets == [min(wanted, allowed)] * 3
    if wanted <= allowed:
        assert caplog.text == ""
        return
    assert len(caplog.records) == 1  # once, however often it is asked
    said = caplog.records[0].getMessage()
    for word in (f"attempt {attempt}", f"{wanted:,}", f"{allowed:,}", "slurm_partition", resource):
        assert word in said, said


def evaluated(rule, name, attempt):
    """As Snakemake evaluates a resource of a job."""
    return (
        rule.resources[name]
        .evaluate({}, input=[], attempt=attempt, threads=2, rulename=rule.name, async_run=None)
        .value
    )


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (Resource("mem_mb", lambda wildcards, attempt: 16_000 * attempt), [16_000, 30_000, 30_000]),
        (Resource.from_cli_expression("mem_mb", "20000 * attempt"), [20_000, 30_000, 30_000]),
        (Resource("mem_mb", 25_000), [25_000, 25_000, 25_000]),
        (Resource("mem_mb", 100_000), [30_000, 30_000, 30_000]),
    ],
    ids=["the rule's", "the profile's, growing", "the profile's, fixed", "more than any node"],
)
@pytest.mark.parametrize(
    "where",
    [
        Resource("slurm_partition", "short"),
        Resource.from_cli_expression("slurm_partition", "short"),
    ],
    ids=["by name", "by profile"],
)
def test_what_a_rule_or_a_profile_asks_for_grows_up_to_what_the_partition_has(
    partitions, memory, expected, where
):
    resources = {"mem_mb": memory, "gpu": Resource("gpu", 1), "slurm_partition": where}
    rule = SimpleNamespace(name="segment", resources=Resources(resources))
    partitions.bound([rule])
    assert [evaluated(rule, "mem_mb", attempt) for attempt in (1, 2, 3)] == expected
    assert evaluated(rule, "gpu", 1) == 1


def test_a_cluster_that_does_not_answer_bounds_nothing(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))
    partitions = Partitions.ask()
    assert partitions.within("segment", "mem_mb", 10**9, None, 1) == 10**9
    assert re.search("Slurm does not tell", caplog.text)
