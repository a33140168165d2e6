"""A cohort on which everything happens in any order, for as many examples as wanted.

The state machine of ``tests/test_state_machine.py``, run for longer: scans come, go, change and
break, settings change; damaged files, full disks, kills at any call that changes a file, a
second driver, a clock that jumps, withdrawals. ``tests/cohort_invariants.py`` lists what must hold.

    python benchmarks/state_machine.py --examples 1000

With `--snakemake` it is Snakemake itself that runs, from clones of the repository, and before each
run ``snakemake -n`` and ``cohortvol plan`` say what it will do. Jobs are then processes of their
own, which nobody kills or takes the disk away from; some ten seconds a step.

    python benchmarks/state_machine.py --examples 40 --steps 5 --snakemake
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import time
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from cohort_machine import CohortMachine
from driven import SnakemakeItself


class OfSnakemake(CohortMachine):
    """The same, and Snakemake in place of what stands in for it."""

    def driver(self) -> Any:
        """A clone of its own after every move; the one before is gone with its ``.snakemake``."""
        return SnakemakeItself(self.results, self.folder / f"clone-{self.moves}")

    def _cut_off(self, *words: Any) -> tuple[Any, None]:
        done, _ = super()._cut_off(*words)
        return done, None  # the model is asked in other processes


def main() -> int:
    options = _options()
    logging.disable(logging.CRITICAL)
    limits = settings(
        max_examples=options.examples,
        stateful_step_count=options.steps,
        derandomize=options.seed is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if options.shrink else (Phase.generate,),
    )
    machine = OfSnakemake if options.snakemake else CohortMachine
    if options.seed is not None:
        machine = seed(options.seed)(machine)
    start, said = time.monotonic(), io.StringIO()
    with contextlib.redirect_stdout(said):  # what stages print of their accounts
        run_state_machine_as_test(machine, settings=limits)
    counted = ", ".join(f"{n:,} {what}" for what, n in sorted(CohortMachine.told.items()))
    print(
        f"{options.examples:,} examples of up to {options.steps} steps: {counted}; "
        f"{len(CohortMachine.undisturbed):,} cohorts to compare with; "
        f"{time.monotonic() - start:,.0f} s, {time.process_time():,.0f} s of processor"
    )
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=10, help="steps of an example at most")
    parser.add_argument("--seed", type=int, help="other examples; always the same if not given")
    parser.add_argument("--snakemake", action="store_true", help="run Snakemake itself")
    parser.add_argument("--shrink", action="store_true", help="make what fails short; takes long")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
