"""What every file of a results folder was made of, written down where it lies.

``made_of/<job>.json`` holds, of the job that ended last, the settings that its results depend on,
a digest of each input, and size and digest of each file that it made. A record goes before its job
starts and is written when the job has ended, so that files of a job that was killed have none.
What must be made again is told from these records alone: not from times of files, and not from
what a workflow engine keeps elsewhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cohortvol import __version__
from cohortvol.errors import ConfigError, OutputError
from cohortvol.store.files import commit_json, digest_of, read_object, remove, sha256_of
from cohortvol.store.storage import of_ours

RECORDS = "made_of"
LIST = "list_of_scans"
"""Role of the list that a shard's table of ingest is made of."""
LOST_ROWS = "rows were taken"
"""In place of the digest of a list of which a table lost rows; the digest of no file."""
INDEX = "manifest/index.tsv"
SHARD = "{shard}"
"""In the name of an input: one file for each shard in use."""


@dataclass(frozen=True, eq=False)
class Job:
    """A rule for one shard, or for the cohort: what it reads and what it makes.

    Attributes
    ----------
    rule, shard : str
        Name of the stage, and of the shard; no shard is an empty text.
    outputs : tuple of str
        Files that it makes, relative to the results folder.
    inputs : mapping of str to str or tuple of str
        Files that it reads by what they are to it, relative to the results folder or absolute. A
        name with `SHARD` stands for one file of each shard.
    digests : mapping of str to str or None
        Inputs that are no file of ours, by their content.
    settings : mapping
        What else its results depend on.
    lists : str
        Name with `SHARD` of a file that it makes for each shard in use, which it may not know
        before it runs.
    """

    rule: str
    shard: str = ""
    outputs: tuple[str, ...] = ()
    inputs: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    digests: Mapping[str, str | None] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    lists: str = ""

    @property
    def name(self) -> str:
        return f"{self.rule} {self.shard}".strip()

    @property
    def record(self) -> str:
        """Place of its record, relative to the results folder."""
        name = path_of_record(self.outputs[-1]) if self.shard else f"{self.rule}.json"
        return f"{RECORDS}/{name}"

    def files(self, role: str, shards: Sequence[str]) -> list[str]:
        """The files of one input."""
        named = self.inputs[role]
        if not isinstance(named, str):
            return list(named)
        if SHARD in named:
            return [named.replace(SHARD, shard) for shard in shards]
        return [named]

    def text(self, results: str | Path) -> str:
        """All of this as JSON, for the command that does the job."""
        return json.dumps({"results": str(results), **asdict(self)}, sort_keys=True)


def path_of_record(table: str) -> str:
    """Place of the record of a shard's table, below `RECORDS`."""
    return f"{os.path.splitext(table)[0]}.json"


@dataclass(frozen=True)
class Record:
    """What a job that ended was, and made."""

    settings: Mapping[str, Any]
    inputs: Mapping[str, str | None]
    outputs: Mapping[str, Mapping[str, Any]]
    place: str | None


@contextmanager
def noted(
    text: str | None, read: Callable[[], Mapping[str, str | None]] | None = None
) -> Iterator[None]:
    """Keep the record of a job around the work; a job that fails or is killed leaves none.

    Parameters
    ----------
    text : str, optional
        `Job.text`; nothing is noted if not given.
    read : callable, optional
        Digests of inputs that the text does not have.

    Raises
    ------
    ConfigError
        If the text is none of `Job.text`.
    """
    if text is None:
        yield
        return
    try:
        values = json.loads(text)
        results = Path(values.pop("results"))
        job = Job(**values)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ConfigError(f"--record: no description of a job ({error})") from error
    path = results / job.record
    remove(path)
    inputs = {**digests(results, job, read_index(results)), **(read() if read else {})}
    yield
    lists = [job.lists.replace(SHARD, shard) for shard in read_index(results) if job.lists]
    settings = dict(job.settings)
    if "version" in settings:
        settings["version"] = __version__
    own = (results / "ingest" / job.shard).is_dir() if job.rule == "ingest" else False
    commit_json(
        path,
        {
            "inputs": inputs,
            "outputs": {name: _facts(results / name) for name in (*job.outputs, *lists)},
            # Tables of ingest name converted images, which lie in the folder, by where they are.
            "place": os.path.abspath(results) if own else None,
            "settings": settings,
        },
    )


def digests(results: Path, job: Job, shards: Sequence[str]) -> dict[str, str | None]:
    """Digest of each input of a job, as the files are now."""
    known = Digests(results)
    files = {role: known.of(job.files(role, shards)) for role in job.inputs}
    return {**files, **job.digests}


def read_record(path: Path) -> Record | None:
    """A record; None where there is none that is whole."""
    value = read_object(path)
    try:
        record = None if value is None else Record(**value)
    except TypeError:
        return None
    parts = (record.settings, record.inputs, record.outputs) if record else ()
    facts = record.outputs.values() if record and isinstance(record.outputs, dict) else ()
    sound = all(isinstance(part, dict) for part in (*parts, *facts))
    return record if sound else None


def read_index(results: Path) -> list[str]:
    """Every shard that holds a scan, from the index that the manifest stage wrote."""
    try:
        lines = (results / INDEX).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [line.partition("\t")[0] for line in lines[1:]]


class Digests:
    """Digests of files of a results folder, each read once at most."""

    def __init__(self, results: Path) -> None:
        self._results = results
        self._known: dict[str, str | None] = {}

    def of_file(self, path: str) -> str | None:
        """sha256 of a file, None where there is none.

        Raises
        ------
        OutputError
            If this account may not read it.
        """
        if path not in self._known:
            place = self._results / path
            try:
                self._known[path] = of_ours(place, lambda: sha256_of(place))
            except (FileNotFoundError, NotADirectoryError):
                self._known[path] = None
            except PermissionError as error:
                raise OutputError(
                    f"{place}: may not be read by this account\n"
                    "  Run as the account that made the results, or have it made readable."
                ) from error
        return self._known[path]

    def of(self, paths: Sequence[str]) -> str | None:
        """Of one file its sha256; of another number of files that of their names and digests."""
        if len(paths) == 1:
            return self.of_file(paths[0])
        return digest_of([[os.path.basename(path), self.of_file(path)] for path in paths])


def rebase(results: Path, shard: str, changed: Mapping[str, str]) -> None:
    """Put new digests in place of old ones in the records of a shard.

    For tables from which rows were taken in a way that dates nothing that was made of them. A table
    that lost rows which its list of scans, as the record knows it, still has is no longer made of
    that list: should the same list come back, as where somebody consents again, rows are missing.

    Parameters
    ----------
    results : Path
        Results folder.
    shard : str
        The shard.
    changed : mapping of str to str
        sha256 of each such table after the change, by that before it.
    """
    for path in sorted((results / RECORDS).rglob(f"{shard}.json")):
        record = read_record(path)
        if record is None:
            continue
        inputs = {role: changed.get(str(sha), sha) for role, sha in record.inputs.items()}
        lost = [name for name, facts in record.outputs.items() if facts.get("sha256") in changed]
        if lost and record.inputs.get(LIST) not in (None, *changed):
            inputs[LIST] = LOST_ROWS
        facts = {name: _facts(results / name) for name in lost}
        new = replace(record, inputs=inputs, outputs={**record.outputs, **facts})
        if new != record:
            commit_json(path, asdict(new))


def _facts(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"n_bytes": None, "sha256": None}
    return {"n_bytes": path.stat().st_size, "sha256": sha256_of(path)}


class Outdated:
    """Which jobs of a flow must run so that a results folder is what its settings ask for.

    Parameters
    ----------
    results : Path
        Results folder.
    forced : iterable of str
        Rules that are to run in any case, or files that are to be made again.
    """

    def __init__(self, results: Path, forced: Iterable[str] = ()) -> None:
        self.results = results
        self._forced = frozenset(forced)
        self._gone: set[str] = set()
        self._digests = Digests(results)

    @cached_property
    def _here(self) -> str:
        return os.path.abspath(self.results)

    def verified(self) -> set[str]:
        """Files that are, byte for byte, what the records say was made."""
        found = set()
        for path in sorted((self.results / RECORDS).rglob("*.json")):
            record = read_record(path)
            for name, facts in record.outputs.items() if record else ():
                if self._digests.of_file(name) == facts.get("sha256") is not None:
                    found.add(name)
        return found

    def without(self, gone: Iterable[str]) -> None:
        """From now on these files, relative to the results folder, count as not there."""
        self._gone |= set(gone)

    def why(
        self,
        job: Job,
        shards: Sequence[str],
        expected: Mapping[str, frozenset[str | None]] | None = None,
    ) -> str | None:
        """Why a job must run, judged by its own record; None where it need not.

        Parameters
        ----------
        job : Job
            The job.
        shards : sequence of str
            Shards in use.
        expected : mapping of str to frozenset, optional
            Digests of inputs, by role, that are not what the files are now: each of them will do.
        """
        if not self._forced.isdisjoint({job.rule, *job.outputs}):
            return "asked for"
        missing = [name for name in job.outputs if not self._is_there(name)]
        if missing:
            return f"{missing[0]} is not there"
        record = read_record(self.results / job.record)
        if record is None:
            return "it is not known what it was made of"
        if record.place not in (None, self._here):
            return f"the folder was at {record.place}"
        for name, facts in record.outputs.items():
            if not self._is_there(name):
                return f"{name} is not there"
            if self._digests.of_file(name) != facts.get("sha256"):
                return f"{name} is not the file that was made"
        told = _difference(record.settings, job.settings)
        if told:
            return told
        for role in sorted({*job.inputs, *job.digests, *record.inputs}):
            wanted = (expected or {}).get(role) or {self._digest(job, role, shards)}
            if record.inputs.get(role) not in wanted:
                return f"{words_of(role)} changed"
        return None

    def _is_there(self, name: str) -> bool:
        return name not in self._gone and (self.results / name).exists()

    def _digest(self, job: Job, role: str, shards: Sequence[str]) -> str | None:
        if role in job.inputs:
            return self._digests.of(job.files(role, shards))
        return job.digests.get(role)


def words_of(role: str) -> str:
    """What an input is called in a message."""
    return role.replace("_", " ")


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Which settings are others than those of a record, with both values; None where none is."""
    now = json.loads(json.dumps(now))
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if not names:
        return None
    pairs = [(name, _short(now.get(name)), _short(before.get(name))) for name in names]
    return "; ".join(f"{name} {value}, was {old}" for name, value, old in pairs)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
