"""A cohort, and everything that may happen to it: the state machine of `test_state_machine`.

``I1`` to ``I12`` are the invariants of a run that may be cut off anywhere: no finished scan is lost
(1) or counted twice (2); a reader never sees a mixture (3); the final tables are those of an
undisturbed run (4); a run with nothing to do does nothing (5); a change reaches what depends on it
and nothing else (6); a damaged file is found and made again (7); two runs are as one (8); every row
of the manifest is accounted for once (9); what is quarantined stays so (10); inputs are never
written (11); order and number of workers do not matter (12).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from cohortvol.errors import InUseError, WithdrawalError
from cohortvol.models.card import load_card, segmentation_key
from cohortvol.store.files import sha256_of
from cohortvol.store.kept import Kept
from cohortvol.store.records import read_index
from cohortvol.store.schemas import SHARDS
from cohortvol.store.tables import read_table
from cohortvol.tools.verify.folder import repair, verify
from cohortvol.tools.verify.places import holds_no_results
from cohortvol.tools.verify.quick import damaged_tables
from cohortvol.tools.verify.search import search
from cohortvol.workflow.flow import Flow
from file_faults import FAULTS, Disk, Fault
from make_like import STAGES, Killed, MakeLike, Outcome
from threshold_cohort import (
    NOT_SEGMENTED,
    TOO_SHORT,
    Row,
    Settings,
    Source,
    Stages,
    ThresholdSegmenter,
    image_bytes,
    slices_of,
    threshold_in_place_of_the_network,
)

FINAL = ("volumes.parquet", "scans.parquet")
MOST_ROWS = 8
DAY_NS = 86_400 * 10**9
MEMORY = Path("/dev/shm")  # noqa: S108 - a file system in memory, where there is one

CHOICES: dict[str, tuple[Any, ...]] = {
    "model": ("threshold", "other"),
    "weights": ("a", "b"),
    "profile": (None, "ts218"),
    "min_slices": (8, 9),
    "min_largest_fraction": (0.9, 0.5),
    "outlier_max_z": (5.0, 4.0),
    "notes": ("", "a word"),
    "shard_size": (3, 2),
    "workers": (0, 1),
    "keep_label_maps": (True, False),
}

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


class CohortMachine(RuleBasedStateMachine):
    """One results folder; the user, the machine and chance act on it in any order."""

    undisturbed: ClassVar[dict[Any, dict[str, bytes]]] = {}
    told: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.results = self.folder / "results"
        self.source = Source(self.folder / "source")
        self.settings = Settings()
        self.moves = 0
        self.snakemake = self.driver()
        self.images: dict[str, tuple[str, int]] = {}
        self.names: defaultdict[str, set[str]] = defaultdict(set)
        self.n_images = 0
        self.due: set[str] = set()
        self.settled = False
        self.umask = 0o022
        self.dropped = False
        self.kills = 0
        self.damaged: set[str] = set()

    def driver(self) -> Any:
        """What runs the jobs of this results folder."""
        return MakeLike(self.results)

    def teardown(self) -> None:
        os.umask(0o022)
        shutil.rmtree(self.folder)

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
        self.settled = self.settled and name in ("notes", "shard_size")

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

    # What must hold.

    def _check_finished(self) -> None:
        if self._crashed():
            assert self.kills >= 3, "RUN_CRASHED without three starts that came to no end"
            with threshold_in_place_of_the_network():
                self.snakemake.run(self.source, self.settings, forced=["segment"])
        self._check_accounts()
        for name, content in self._fresh().items():
            found = (self.results / name).read_bytes()
            assert found == content, f"I4: {name} is not that of an undisturbed run"
        problems = [str(one) for one in self._problems()]
        assert problems == [], f"not whole: {problems}"
        here = self._times()
        again = self.snakemake.run(self.source, self.settings)
        assert again.ran == [], f"I5: a second run has work: {again.ran}"
        assert self._times() == here, "I5: a second run writes"
        if self.source.withdrawn:
            names = self.folder / "names.txt"
            names.write_text("\n".join(self._names_of_withdrawn()))
            hits = search(self.results, names)["hits"]
            assert hits == {}, f"withdrawn subjects are still there: {hits}"
        self.settled, self.kills = True, 0
        self.due.clear()
        self.damaged.clear()

    def _check_told(self, told: dict[str, str], ran: list[str]) -> None:
        """A run that nobody disturbed does what was told of it, and nothing else."""
        self.told["compared"] += 1
        without, untold = sorted(set(told) - set(ran)), sorted(set(ran) - set(told))
        what = f"told and not run: {[(name, told[name]) for name in without]}; not told: {untold}"
        assert without + untold == [], what

    def _check_accounts(self) -> None:
        """I2, I9, I10: every row once, in the state that its image and row deserve."""
        scans = pd.read_parquet(self.results / "scans.parquet")
        expected = self._states()
        found = list(zip(scans["scan_id"], scans["state"], strict=True))
        assert found == expected, f"I9, I10: {found} in place of {expected}"
        volumes = pd.read_parquet(self.results / "volumes.parquet")
        assert not volumes.duplicated(["scan_id", "structure"]).any(), "I2: counted twice"
        done = {scan_id for scan_id, state in expected if state == "done"}
        assert set(volumes["scan_id"]) == done, "I9: volumes of other scans than those done"

    def _states(self) -> list[tuple[str, str]]:
        """Id and state of every row that is here."""
        here = self.source.here()
        ids = Counter(row.scan_id for row in here)
        return [(row.scan_id, self._state(row, ids[row.scan_id])) for row in here]

    def _state(self, row: Row, n_rows: int) -> str:
        kind, content = self.images[row.image]
        if n_rows > 1 or kind != "sound" or slices_of(content) < self.settings.min_slices:
            return "quarantined"
        return "failed" if content in NOT_SEGMENTED else "done"

    def _of_tomorrow(self) -> bool:
        """Whether the user's own tables were; the user is told, and gives them the time of now."""
        own = (self.source.manifest, self.source.withdrawals)
        late = [path for path in own if path.stat().st_mtime > time.time()]
        for path in late:
            path.touch()
        return bool(late)

    def _check_what_is_left(self) -> None:
        """I1, I3: whatever cut the run off, what is there is whole."""
        damaged = set(damaged_tables(self.results)) - self.damaged
        assert damaged == set(), f"I3: torn: {damaged}"
        for path in self.results.rglob("*.json"):
            json.loads(path.read_bytes())
        for key, (receipt, label_map) in self._receipts().items():
            said = json.loads(receipt)
            if said["state"] == "segmented":
                whole = (label_map == said["label_map_sha256"]) or (self.dropped and not label_map)
                assert whole, f"I1: {key} has another label map"
        digests = self.results / "files.sha256"
        for line in digests.read_text().splitlines() if digests.exists() else []:
            digest, _, name = line.partition("  ")
            path = self.results / name
            same = not path.exists() or name in self.damaged or sha256_of(path) == digest
            assert same, f"I3: {name} is of another run"

    def _fresh(self) -> dict[str, bytes]:
        """The final tables of a run of the stages one after the other in an empty folder."""
        shards = read_table(self.results / "manifest/shards.parquet", SHARDS)
        key = (
            self.source.manifest.read_bytes(),
            tuple(self.source.withdrawn),
            tuple(self.images[row.image] for row in self.source.rows),
            self.settings.matters,
            tuple(zip(shards["scan_id"], shards["shard"], strict=True)),
        )
        if key not in self.undisturbed:
            results = self.folder / "fresh"
            (results / "manifest").mkdir(parents=True)
            shutil.copy(self.results / "manifest/shards.parquet", results / "manifest")
            with threshold_in_place_of_the_network():
                Stages(self.source, replace(self.settings, workers=0), results).all()
            self.undisturbed[key] = {name: (results / name).read_bytes() for name in FINAL}
            shutil.rmtree(results)
        return self.undisturbed[key]

    # Looking.

    def _receipts(self) -> dict[tuple[str, str], tuple[bytes, str | None]]:
        """Each receipt, and the digest of the label map beside it."""
        found = {}
        for path in self.results.glob("segment/*/*/*.json"):
            if not path.name.endswith(".started.json"):
                label_map = path.with_name(f"{path.stem}_dseg.nii.gz")
                digest = sha256_of(label_map) if label_map.exists() else self._kept_of(path)
                found[path.parts[-3], path.stem] = (path.read_bytes(), digest)
        return found

    def _kept_of(self, receipt: Path) -> str | None:
        """Digest of the label map for which rows stand in, where that is what the run is told."""
        shard, model = receipt.parts[-2], receipt.parts[-3]
        table = self.results / f"measure/{model}/kept/{shard}.parquet"
        ingested = self.results / f"ingest/{shard}.parquet"
        if self.settings.keep_label_maps and model == self.settings.model:
            return None
        damaged = f"ingest/{shard}.parquet" in self.damaged
        if damaged or not table.exists() or not ingested.exists():
            return None
        facts = pd.read_parquet(ingested).set_index("scan_id", drop=False)
        if receipt.stem not in facts.index:
            return None
        card = load_card(self.source.model(self.settings))
        kept = Kept(table, Flow(self.settings.config(self.source, self.results), card).measuring)
        return kept.label_map_sha256(facts.loc[receipt.stem])

    def _standing(
        self, receipts: dict[tuple[str, str], tuple[bytes, str | None]]
    ) -> set[tuple[str, str]]:
        """Receipts that the run may not touch: of another model, or what would be made again."""
        key = segmentation_key(load_card(self.source.model(self.settings)), self.settings.profile)
        here = {row.scan_id: self.source.image(row.image) for row in self.source.here()}
        ids = Counter(row.scan_id for row in self.source.here())
        gone = {row.scan_id for row in self.source.rows} - set(here)
        standing = set()
        for (model, scan_id), (receipt, label_map) in receipts.items():
            said = json.loads(receipt)
            whole = said["state"] == "segmented" and said["label_map_sha256"] == label_map
            image = here.get(scan_id)
            same = (
                image is not None
                and image.exists()
                and ids[scan_id] == 1
                and said["image_sha256"] == sha256_of(image)
            )
            if whole and scan_id not in gone and image is not None:
                if model != self.settings.model or (same and said["segmentation_key"] == key):
                    standing.add((model, scan_id))
        return standing

    def _crashed(self) -> bool:
        scans = pd.read_parquet(self.results / "scans.parquet", columns=["reason"])
        return bool((scans["reason"] == "RUN_CRASHED").any())

    def _problems(self) -> list[Any]:
        """What `verify --deep` finds: of no pages, as no run gets that far, and of this model.

        Tables of a model that is not run any more are out of date when scans come and go.
        """
        others = tuple(
            f"{stage}/{model}" for stage in ("segment", "measure") for model in CHOICES["model"]
            if model != self.settings.model
        )  # fmt: skip
        found = verify(self.results, deep=True)["problems"]
        return [one for one in found if not one.path.startswith(("analyse/", "report/", *others))]

    def _files_of_results(self) -> list[str]:
        """Files that must be there: not those of scans that left or broke, and of other models."""
        here = {scan_id for scan_id, state in self._states() if state in ("done", "failed")}
        shards = set(read_index(self.results))
        names = []
        for path in sorted(self.results.rglob("*")):
            name = path.relative_to(self.results).as_posix()
            if path.is_file() and not holds_no_results(name) and self._is_of(name, here, shards):
                names.append(name)
        return names

    def _is_of(self, name: str, here: set[str], shards: set[str]) -> bool:
        """Whether a file is of the scans that are here, and of the model in use."""
        match name.split("/"):
            case ("segment" | "measure", model, *_) if model != self.settings.model:
                return False
            case ("segment", _, shard, "dseg.tsv"):
                return shard in shards
            case ("segment", _, _, file):
                return file.removesuffix(".json").removesuffix("_dseg.nii.gz") in here
            case (*_, file) if file[:4].isdigit():
                return file[:4] in shards
        return True

    def _times(self) -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in self.results.rglob("*")
            if path.is_file() and path.name != ".in-use"
        }

    def _names_of_withdrawn(self) -> list[str]:
        """Subjects who withdrew, and the names that scans of theirs ever had."""
        gone = self.source.withdrawn
        return [*gone, *(name for who in gone for name in sorted(self.names[who]))]

    # Doing.

    def _row(self, at: int) -> Row:
        return self.source.rows[at % len(self.source.rows)]

    def _new_row(self, content: int) -> None:
        self.n_images += 1
        name = f"scan-{self.n_images:04d}"
        row = Row(name, f"person-{self.n_images:04d}", f"{name}.nii.gz", 30 + self.n_images)
        self.source.rows.append(row)
        self._image(row.image, "sound", content)
        self._remember(row)

    def _remember(self, row: Row) -> None:
        self.names[row.subject_id].add(row.scan_id)

    def _broken(self) -> list[str]:
        return sorted(name for name, (kind, _) in self.images.items() if kind != "sound")

    def _image(self, name: str, kind: str, content: int) -> None:
        whole = image_bytes(content)
        self.images[name] = (kind, content)
        if kind == "missing":
            self.source.image(name).unlink(missing_ok=True)
        else:
            self.source.write_image(name, {"cut": whole[:TOO_SHORT], "empty": b""}.get(kind, whole))

    def _damaged_one(self, at: int, way: str, names: list[str]) -> str:
        path = self.results / names[at % len(names)]
        content = bytearray(path.read_bytes())
        time_ns = path.stat().st_mtime_ns
        if way == "deleted":
            path.unlink()
        elif way == "cut":
            path.write_bytes(content[: len(content) * 2 // 3])
        else:
            content[at * 31 % len(content)] ^= 0x01
            path.write_bytes(content)
        if path.exists():
            os.utime(path, ns=(time_ns, time_ns))
        return names[at % len(names)]
