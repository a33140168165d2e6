"""What must hold of a cohort whose runs may be cut off anywhere, and how it is looked at.

``I1`` to ``I12`` are the invariants: no finished scan is lost (1) or counted twice (2); a reader
never sees a mixture (3); the final tables are those of an undisturbed run (4); a run with nothing
to do does nothing (5); a change reaches what depends on it and nothing else (6); a damaged file is
found and made again (7); two runs are as one (8); every row of the manifest is accounted for once
(9); what is quarantined stays so (10); inputs are never written (11); order and number of workers
do not matter (12).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from hypothesis.stateful import RuleBasedStateMachine

from cohortvol.models.card import load_card, segmentation_key
from cohortvol.store import of_scans
from cohortvol.store.files import sha256_of
from cohortvol.store.kept import Kept
from cohortvol.store.of_scans import LABEL_MAP, PACK, RECEIPT
from cohortvol.store.pack import append, read_contents
from cohortvol.store.records import read_index
from cohortvol.store.schemas import SHARDS
from cohortvol.store.tables import read_table
from cohortvol.tools.verify.folder import verify
from cohortvol.tools.verify.places import holds_no_results
from cohortvol.tools.verify.quick import damaged_tables
from cohortvol.tools.verify.search import search
from cohortvol.workflow.flow import Flow
from make_like import MakeLike
from threshold_cohort import (
    NOT_SEGMENTED,
    TOO_SHORT,
    Row,
    Settings,
    Source,
    Stages,
    image_bytes,
    slices_of,
    threshold_in_place_of_the_network,
)

FINAL = ("volumes.parquet", "scans.parquet")
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
    "store": ("files", "packed"),
}


class CohortInvariants(RuleBasedStateMachine):
    """One results folder, what must hold of it, and how its rows and images come about."""

    undisturbed: ClassVar[dict[Any, dict[str, bytes]]] = {}
    told: ClassVar[Counter[str]] = Counter()
    first: ClassVar[Settings] = Settings()

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.results = self.folder / "results"
        self.source = Source(self.folder / "source")
        self.settings = self.first
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
                Stages(self.source, replace(self.settings, workers=0, store="files"), results).all()
            self.undisturbed[key] = {name: (results / name).read_bytes() for name in FINAL}
            shutil.rmtree(results)
        return self.undisturbed[key]

    # Looking.

    def _receipts(self) -> dict[tuple[str, str], tuple[bytes, str | None]]:
        """Each receipt, and the digest of the label map beside it."""
        found = {}
        for folder in self.results.glob("segment/*/*/"):
            for scan_id in of_scans.receipts(folder):
                path, label_map = (folder / f"{scan_id}{end}" for end in (RECEIPT, LABEL_MAP))
                is_there = of_scans.exists(label_map)
                digest = of_scans.digest(label_map) if is_there else self._kept_of(path)
                found[path.parts[-3], scan_id] = (of_scans.read(path), digest)
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
            files = [path] if path.is_file() and path.name != PACK else []
            if path.name == PACK:
                files = [path.with_name(name) for name in sorted(read_contents(path).members)]
            for file in files:
                name = file.relative_to(self.results).as_posix()
                if not holds_no_results(name) and self._is_of(name, here, shards):
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
        if not path.exists():
            _damage_packed(path.with_name(PACK), path.name, at, way)
            return names[at % len(names)]
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


def _damage_packed(pack: Path, name: str, at: int, way: str) -> None:
    """Do to a member of a pack what is done to files."""
    if way in ("deleted", "cut"):
        content = of_scans.read(pack.with_name(name))
        append(pack, name, b"" if way == "deleted" else content[: len(content) * 2 // 3])
        return
    member = read_contents(pack).members[name]
    with open(pack, "r+b") as stream:
        stream.seek(member.at + at * 31 % member.n_bytes)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 0x01]))
