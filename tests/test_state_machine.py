"""A cohort on which everything happens in any order ends as if nothing had happened.

More examples: ``python benchmarks/state_machine.py --examples 1000``.
"""

import pytest
from hypothesis import HealthCheck, settings

from cohort_machine import CohortMachine
from cohortvol.store.of_scans import PACK
from cohortvol.store.pack import read_contents
from threshold_cohort import Settings

pytestmark = pytest.mark.slow


class PackedCohort(CohortMachine):
    """One whose label maps and receipts are packed until the user has it otherwise."""

    first = Settings(store="packed")


TestCohort = CohortMachine.TestCase
TestPackedCohort = PackedCohort.TestCase
TestCohort.settings = TestPackedCohort.settings = settings(
    max_examples=16,
    stateful_step_count=10,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

NEW_WEIGHTS, FEWER_PIECES = ("weights", 0, 0), ("min_largest_fraction", 0, 0)
OTHER_MODEL, OTHER_STORE = ("model", 0, 0), ("store", 0, 0)
NO_LABEL_MAPS, MORE_SLICES = ("keep_label_maps", 0, 0), ("min_slices", 0, 0)


@pytest.fixture(params=[CohortMachine, PackedCohort], ids=["files", "packed"])
def cohort(request):
    """Three scans that have been through a run."""
    machine = request.param()
    machine.begin(sound=[10, 13, 6], ran=True)
    yield machine
    machine.teardown()


@pytest.mark.parametrize("at", range(12, 20, 2))
def test_a_worker_killed_while_it_replaces_labels_leaves_no_receipt_of_others(cohort, at):
    cohort.run_and_be_killed(change=NEW_WEIGHTS, seed=1, stage="segment", at=at)
    assert not cohort.settled
    cohort.run(seed=1)


@pytest.mark.parametrize("at", range(4, 10, 2))
def test_a_killed_job_with_other_settings_leaves_nothing_for_the_old_ones(cohort, at):
    cohort.run_and_be_killed(change=FEWER_PIECES, seed=1, stage="measure", at=at)
    cohort.user_does(change=FEWER_PIECES)
    cohort.run(seed=1)


@pytest.mark.parametrize("at", range(1, 24, 2))
def test_a_job_killed_while_label_maps_go_loses_no_scan(cohort, at):
    cohort.run_and_be_killed(change=NO_LABEL_MAPS, seed=1, stage="measure", at=at)
    cohort.run(seed=1)
    assert n_label_maps(cohort.results) == 0
    cohort.user_does(change=FEWER_PIECES)
    cohort.run(seed=1)
    cohort.user_does(change=NO_LABEL_MAPS)
    cohort.run(seed=1)
    assert n_label_maps(cohort.results) == 3


def n_label_maps(results):
    packed = [name for pack in results.rglob(PACK) for name in read_contents(pack).members]
    names = [*packed, *(path.name for path in results.rglob("*"))]
    return sum(name.endswith("_dseg.nii.gz") for name in names)


def test_a_cohort_packed_by_and_by_stays_what_it_was(cohort):
    """The setting changes nothing by itself; a shard changes over with its next job."""
    cohort.user_does(change=OTHER_STORE)
    assert cohort.settled
    cohort.run(seed=1)
    cohort.user_does(change=("add a scan", 0, 5))
    cohort.run(seed=1)
    n_packs = len(list(cohort.results.rglob(PACK)))
    cohort.user_does(change=NEW_WEIGHTS)
    cohort.run(seed=1)
    packed = cohort.settings.store == "packed"
    assert (n_packs, len(list(cohort.results.rglob(PACK)))) == ((1, 2) if packed else (1, 0))


def test_scans_that_left_are_not_missed_when_label_maps_are_kept_again(cohort):
    for change in (NO_LABEL_MAPS, MORE_SLICES, NO_LABEL_MAPS, MORE_SLICES):
        cohort.user_does(change=change)
        cohort.run(seed=1)  # ends with `verify`, which must not ask for what nobody needs
        assert cohort.settled


def test_damaged_tables_are_made_again_where_label_maps_are_not_kept(cohort):
    cohort.user_does(change=NO_LABEL_MAPS)
    cohort.run(seed=1)
    n_tables = sum(name.endswith(".parquet") for name in cohort._files_of_results())
    for at in range(n_tables):
        cohort.damage_a_table(at=at)
        cohort.run(seed=1)
        assert cohort.settled


def test_a_table_made_again_with_the_same_rows_dates_nothing_of_a_model_not_in_use(cohort):
    cohort.user_does(change=OTHER_MODEL)
    cohort.run(seed=1)
    tables = [name for name in cohort._files_of_results() if name.endswith(".parquet")]
    cohort.damage_a_table(at=tables.index("ingest/0000.parquet"))
    cohort.run(seed=1)
    cohort.user_does(change=OTHER_MODEL)
    cohort.run(seed=1)  # Snakemake sees the same bytes, and `verify` must not see another age
    assert cohort.settled


@pytest.mark.parametrize("change", [FEWER_PIECES, ("change an image", 0, 4)])
def test_changes_after_the_clock_was_set_back_are_made(cohort, change):
    cohort.clock_jumps(days=-1)
    cohort.source.manifest.touch()
    cohort.source.withdrawals.touch()
    cohort.user_does(change=change)
    cohort.run(seed=1)
    assert cohort.settled
