"""A cohort on which everything happens in any order ends as if nothing had happened.

More examples: ``python benchmarks/state_machine.py --examples 1000``.
"""

from hypothesis import HealthCheck, settings

from cohort_machine import CohortMachine

TestCohort = CohortMachine.TestCase
TestCohort.settings = settings(
    max_examples=20,
    stateful_step_count=10,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
