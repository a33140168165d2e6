"""A run on a disk that fails at one call of one job, and the run after it when the disk is back."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

from cohort_machine import CohortMachine
from file_faults import FAULTS, Disk, Fault
from make_like import STAGES

CHANGES = {
    "a first run": (None, STAGES),
    "new weights": (("weights", 0, 0), ("segment", "measure", "assemble")),
    "a withdrawal": (("withdraw a subject", 0, 0), ("manifest", "assemble")),
    "no label maps": (("keep_label_maps", 0, 0), ("segment", "measure", "assemble")),
}
"""What the run has to do, and the stages that this makes run."""

SOUND = [10, 13, 6]


def trial(stage: str, what: str, fault: Fault, at: int) -> bool:
    """Whether the disk failed; False where the run makes fewer calls.

    Asserts what `cohort_invariants` says must hold: nothing torn, no finished scan lost, none
    blamed, an error that tells what to do, and after another run the tables of one in peace.
    """
    machine = CohortMachine()
    disk = Disk(at, stage, fault=fault)
    change, _ = CHANGES[what]
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # what stages print of their accounts
            machine.begin(sound=SOUND, ran=change is not None)
            if change is not None:
                machine._change(change)
            machine._run(1, disk, blameless=True)
            machine._run(1)
    except Exception as error:
        error.add_note(f"{what}, {stage}, call {at}: {fault}")
        raise
    finally:
        machine.teardown()
    return disk.happened


def ways() -> Iterator[tuple[str, str, Fault]]:
    """Every change, every stage that runs after it, every fault."""
    for what, (_, stages) in CHANGES.items():
        for stage in stages:
            for fault in FAULTS:
                yield stage, what, fault
