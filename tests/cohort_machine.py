"""A cohort, and everything that may happen to it: the state machine of `test_state_machine`.

What must hold of it, ``I1`` to ``I12``, stands in `cohort_invariants`.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from cohort_invariants import CHOICES, CohortInvariants
from cohortvol.errors import InUseError, WithdrawalError
from cohortvol.tools.verify.folder import repair
from file_faults import FAULTS, Disk, Fault
from make_like import STAGES, Killed, Outcome
from threshold_cohort import ThresholdSegmenter, threshold_in_place_of_the_network

MOST_ROWS = 8
DAY_NS = 86_400 * 10**9

USER = (
    "add a scan", "remove a scan", "repeat a row", "rename a scan", "correct an age",
    "withdraw a subject", "consent again", "touch the manifest", "change an image",
    "break an image", "repair an image", "touch an image",
)  # fmt: skip
"""What the user does. An image that goes away is missed with ``--forcerun manifest`` alone, as the
documentation says: what was made of images that cannot be seen now stands."""

PLACES = ("renamed", "copied", "another checkout", "another umask")
"""How a results folder is brought elsewhere; in a copy no file has its time."""

positions = st.integers(0, 99)
contents = st.integers(0, 15)
calls = st.integers(1, 25) | st.integers(1, 60)
stages = st.sampled_from(STAGES)
changes = st.tuples(st.sampled_from((*USER, *sorted(CHOICES))), positions, contents)


class CohortMachine(CohortInvariants):
    """The user, the machine and chance act on it in any order."""

    # What the user does.

    @initialize(sound=st.lists(contents, min_size=3, max_size=5), ran=st.booleans())
    def begin(self, sound: list[int], ran: bool) -> None:
        for content in sound:
            self._new_row(content)
        self.source.write()
        if ran:
            self._run(0)

    @rule(change=changes)
    def user_does(self, change: tuple[str, int, int]) -> None:
        self._change(change)

    def _change(self, change: tuple[str, int, int]) -> None:
        what, at, content = change
        if what in CHOICES:
            self._change_setting(what)
        else:
            self._change_inputs(what, at, content)

    def _change_inputs(self, what: str, at: int, content: int) -> None:
        """One of `USER`, with the row that `at` points to."""
        here = self.source.here()
        few, row = len(self.source.rows) < MOST_ROWS, self._row(at)
        match what:
            case "add a scan" if few:
                self._new_row(content)
            case "remove a scan" if len(self.source.rows) > 1:
                self.source.rows.remove(row)
            case "repeat a row" if few:
                self.source.rows.append(replace(row))
            case "rename a scan":
                self.n_images += 1
                row.scan_id = f"scan-{self.n_images:04d}"
                self._remember(row)
            case "correct an age":
                row.age_years = 20 + content
            case "withdraw a subject" if len({one.subject_id for one in here}) > 1:
                self.source.withdrawn.append(here[at % len(here)].subject_id)
            case "consent again" if self.source.withdrawn:
                self.source.withdrawn.pop()
            case "touch the manifest":
                self.source.manifest.touch()
                return
            case "change an image":
                self._image(row.image, "sound", content)
            case "break an image":
                kind = ("cut", "empty", "missing")[content % 3]
                self._image(row.image, kind, self.images[row.image][1])
                if kind == "missing":
                    self.due.add("manifest")
            case "repair an image" if broken := self._broken():
                self._image(broken[at % len(broken)], "sound", content)
            case "touch an image" if self.source.image(row.image).exists():
                self.source.touch(row.image)
            case _:
                return
        self.source.write()
        self.settled = False

    def _change_setting(self, name: str) -> None:
        before = self.settings
        values = CHOICES[name]
        other = values[1 - values.index(getattr(before, name))]
        self.settings = replace(before, **{name: other})
        self.settled = self.settled and name in ("notes", "shard_size", "store")

    # What chance does.

    @rule(days=st.sampled_from([-1, 1]))
    def clock_jumps(self, days: int) -> None:
        """All files seem older or newer, but for images."""
        for path in [self.source.manifest, self.source.withdrawals, *self.results.rglob("*")]:
            if path.is_file():
                time_ns = path.stat().st_mtime_ns - days * DAY_NS
                os.utime(path, ns=(time_ns, time_ns))

    @rule(way=st.sampled_from(PLACES), seed=positions)
    def is_brought_elsewhere(self, way: str, seed: int) -> None:
        """It is as if nobody had: a run with nothing to do does nothing there either (I5)."""
        self.moves += 1
        place = self.folder / f"results-{self.moves}"
        self.results.mkdir(exist_ok=True)
        self.source.model(self.settings)
        match way:
            case "renamed":
                self.results.rename(place)
                self.results = place
            case "copied":
                place.mkdir()
                files = [path for path in self.results.rglob("*") if path.is_file()]
                random.Random(seed).shuffle(files)  # noqa: S311
                for path in files:
                    copy = place / path.relative_to(self.results)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, copy)
                shutil.rmtree(self.results)
                self.results = place
            case "another checkout":
                shutil.move(self.source.models_dir, self.folder / f"models-{self.moves}")
                self.source.models_dir = self.folder / f"models-{self.moves}"
            case "another umask":
                self.umask ^= 0o022 ^ 0o007
                os.umask(self.umask)
        self.snakemake = self.driver()
        if self.settled:
            told = self.snakemake.told(self.source, self.settings)
            assert told == {}, f"I5: {way}, and a run has work: {told}"

    @precondition(lambda self: self.settled)
    @rule(at=positions, way=st.sampled_from(["deleted", "cut", "flipped"]))
    def damage_and_repair(self, at: int, way: str) -> None:
        """I7: one file goes bad, `verify --deep --repair` finds it, the next run makes it again."""
        name = self._damaged_one(at, way, self._files_of_results())
        found = self._problems()
        reported = {one.path for one in found} | {path for one in found for path in one.remake}
        assert name in reported, f"{name} {way}: not found by verify"
        repair(self.results, found)
        self.settled = False

    @precondition(lambda self: self.settled)
    @rule(at=positions)
    def damage_a_table(self, at: int) -> None:
        """I7: a table that is cut short is made again by the next run, without being asked."""
        tables = [name for name in self._files_of_results() if name.endswith(".parquet")]
        self.damaged.add(self._damaged_one(at, "cut", tables))
        self.settled = False

    # Runs.

    @rule(seed=positions)
    def run(self, seed: int) -> None:
        self._run(seed)

    @rule(change=changes, seed=positions, stage=stages, at=calls)
    def run_and_be_killed(
        self, change: tuple[str, int, int], seed: int, stage: str, at: int
    ) -> None:
        self._change(change)
        self._run(seed, Disk(at, stage))

    @rule(change=changes, seed=positions, stage=stages, at=calls)
    def run_and_lose_a_job(
        self, change: tuple[str, int, int], seed: int, stage: str, at: int
    ) -> None:
        """The job is killed, as for want of memory; the run goes on."""
        disk = Disk(at, stage)
        self._change(change)
        self._run(seed, disk, end_of_killed_job=disk.revive)

    @rule(change=changes, seed=positions, bytes_left=st.integers(0, 60_000))
    def run_on_a_full_disk(self, change: tuple[str, int, int], seed: int, bytes_left: int) -> None:
        self._change(change)
        self._run(seed, Disk(bytes_left=bytes_left))

    @rule(change=changes, seed=positions, stage=stages, at=calls, fault=st.sampled_from(FAULTS))
    def run_on_a_failing_disk(
        self, change: tuple[str, int, int], seed: int, stage: str, at: int, fault: Fault
    ) -> None:
        """A job ends as one that may be repeated, or the disk is asked again: no scan is blamed."""
        self._change(change)
        self._run(seed, Disk(at, stage, fault=fault), blameless=True)

    @rule(change=changes, seed=positions, stage=stages, at=calls)
    def run_twice_at_once(
        self, change: tuple[str, int, int], seed: int, stage: str, at: int
    ) -> None:
        """I8: the second driver is told to wait, or finds nothing to do."""

        def second() -> None:
            at_work = self.snakemake.at_work
            with contextlib.suppress(InUseError):
                again = self.snakemake.run(self.source, self.settings)
                assert not again.ran or not at_work, f"I8: two at work: {again.ran}"

        self._change(change)
        self._run(seed, Disk(at, stage, happens=second), harmless=True)

    def _run(
        self,
        seed: int,
        disk: Disk | None = None,
        *,
        harmless: bool = False,
        blameless: bool = False,
        **options: Any,
    ) -> None:
        self.source.write()
        self.source.model(self.settings)
        inputs = self.source.snapshot()
        before = self._receipts()
        kept = self._standing(before)
        told = self._told()
        try:
            done, predictions = self._cut_off(seed, disk or Disk(), options)
        except WithdrawalError:
            self._take_back_the_list()
            self._run(seed)
            return
        assert self.source.snapshot() == inputs, "I11: an input was written"
        after = self._receipts()
        same = slice(None) if self.settings.keep_label_maps else slice(1)  # receipts alone
        lost = sorted(key for key in kept if after.get(key, ())[same] != before[key][same])
        assert lost == [], f"I1, I6: finished scans were lost or segmented again: {lost}"
        disturbed = disk is not None and disk.happened and not harmless
        if done is None or not done.good:
            manifest_alone = done is not None and set(done.failed) == {"manifest"}
            disturbed = disturbed or (manifest_alone and self._of_tomorrow())
            assert disturbed, f"failed with nothing in the way: {done}"
            self.kills += not blameless
            self.settled = False
            self._check_what_is_left()
            return
        if disk is None:
            self._check_told(told, done.ran)
        if not disturbed:
            new = [key for key, (said, _) in after.items() if before.get(key, ("", ""))[0] != said]
            assert predictions in (None, len(new)), (
                f"I6: {predictions} predictions for receipts {new}"
            )
        self._check_finished()

    def _take_back_the_list(self) -> None:
        """What a user does with a list of people who all were never here, which stops a run."""
        here = {row.subject_id for row in self.source.rows} & set(self.source.withdrawn)
        assert not here, f"refused as a list of strangers: {here}"
        self.source.withdrawn.clear()

    def _cut_off(
        self, seed: int, disk: Disk, options: dict[str, Any]
    ) -> tuple[Outcome | None, int]:
        """What a run did, None if it was killed, and how often the model was asked."""
        predictions = ThresholdSegmenter.predictions
        self.dropped = self.dropped or not self.settings.keep_label_maps
        try:
            with threshold_in_place_of_the_network(), disk.watched():
                done = self.snakemake.run(
                    self.source,
                    self.settings,
                    forced=self.due,
                    order=random.Random(seed),  # noqa: S311
                    starts=disk.job_starts,
                    at_work=disk.job_at_work,
                    **options,
                )
        except Killed:
            done = None
        self.told["killed" if done is None else "good" if done.good else "failed"] += 1
        return done, ThresholdSegmenter.predictions - predictions

    def _told(self) -> dict[str, str]:
        """What ``snakemake -n`` says of the next run; it writes nothing."""
        here = self._times()
        told = self.snakemake.told(self.source, self.settings, self.due)
        assert self._times() == here, "a dry run writes"
        return told
