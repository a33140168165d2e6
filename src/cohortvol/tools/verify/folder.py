"""A whole results folder: every file that must be there, against the others."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from cohortvol.errors import FINISHED_WITH_PROBLEMS, OK, ConfigError, TableError
from cohortvol.store.files import DIGESTS
from cohortvol.store.keys import IDS, IMAGES, PRIVATE, SALT, key_of, map_bytes, read_map
from cohortvol.store.locks import claim
from cohortvol.store.of_scans import discard
from cohortvol.store.removals import RECORD, Removals
from cohortvol.store.schemas import AGREEMENT, COHORT_VOLUMES, COMPANIONS, MANIFEST, SCANS, SHARDS
from cohortvol.tools.verify.places import INDEX, Problem
from cohortvol.tools.verify.reading import Folder
from cohortvol.tools.verify.shards import check_ingest, check_model

Told = Callable[[int, int], None]


def verify(
    results: Path,
    *,
    deep: bool = False,
    salt_file: Path | None = None,
    told: Told = lambda done, total: None,
) -> dict[str, Any]:
    """Look at every file of a results folder; nothing is changed.

    Parameters
    ----------
    results : Path
        Results folder.
    deep : bool
        Read every byte of label maps and converted images; of these the size alone is compared
        without it. Everything else is read in full either way.
    salt_file : Path, optional
        Salt of hashed ids; ``<results>/private/salt`` if not given.
    told : callable
        Called with the number of shards looked at, and of all.

    Returns
    -------
    dict
        ``files`` and ``bytes`` looked at; ``problems``, a list of `Problem` by path;
        ``counts`` of them by kind; ``deep``; ``exit_code``.

    Raises
    ------
    ConfigError
        If it is no results folder.
    TableError
        If a table may not be read by this account.
    TemporaryError
        If the storage is at fault.
    """
    folder = Folder(Path(results), deep=deep)
    if not (folder.results / "manifest").is_dir():
        raise ConfigError(
            f"{results}: not a results folder, it has no manifest/\n"
            "  Give the folder with --results, or start with `cohortvol manifest`."
        )
    manifest = folder.table("manifest/scans.parquet", MANIFEST)
    assigned = folder.table("manifest/shards.parquet", SHARDS)
    shards = _shards(folder, manifest, assigned)
    scans, tables = _cohort_tables(folder, manifest)
    models = _models(folder, scans)
    for done, shard in enumerate(shards):
        told(done, len(shards))
        ingested = check_ingest(folder, shard)
        for model, must in models.items():
            check_model(folder, shard, model, ingested, must=must)
    final = [model for model, must in models.items() if must["measure"]]
    if len(final) == 1:
        tables_of = [f"measure/{final[0]}/{shard}.parquet" for shard in shards]
        folder.made_of(DIGESTS, "assemble.json", measure=tables_of)
    _pages(folder, tables)
    _private(folder, salt_file)
    problems = _first_of_each(folder.problems)
    counts: dict[str, int] = {}
    for one in problems:
        counts[one.kind] = counts.get(one.kind, 0) + 1
    return {
        "results": str(results),
        "deep": deep,
        "files": folder.n_files,
        "bytes": folder.n_bytes,
        "counts": counts,
        "problems": problems,
        "exit_code": FINISHED_WITH_PROBLEMS if problems else OK,
    }


def repair(results: Path, problems: Iterable[Problem]) -> list[str]:
    """Delete what the next run must make again; the files deleted, relative to the folder.

    Raises
    ------
    InUseError
        If a run is working in the folder.
    """
    with claim(Path(results)):
        gone = []
        for path in sorted({path for one in problems for path in one.remake}):
            if discard([Path(results, path)]):
                gone.append(path)
        return gone


def _first_of_each(problems: list[Problem]) -> list[Problem]:
    """One problem for each file, the first that was found, in order of paths."""
    first: dict[str, Problem] = {}
    for one in problems:
        first.setdefault(one.path, one)
    return [first[path] for path in sorted(first)]


def _shards(folder: Folder, manifest: pa.Table | None, assigned: pa.Table | None) -> list[str]:
    """The shards that hold a scan: those of the manifest, or of the index if that is damaged."""
    counts: dict[str, int] = {}
    if manifest is not None:
        for shard in manifest["shard"].to_pylist():
            if shard is not None:
                counts[shard] = counts.get(shard, 0) + 1
        pairs = set(zip(*_columns(manifest, "scan_id", "shard"), strict=True))
        known = assigned and set(zip(*_columns(assigned, "scan_id", "shard"), strict=True))
        lost = [pair for pair in pairs if pair[1] is not None and known and pair not in known]
        if lost:
            what = f"{len(lost)} scans are in another shard"
            folder.report("manifest/shards.parquet", "contradicts", what)
    if folder.is_there(INDEX):
        listed = _index(folder.results / INDEX)
        if listed is None or (manifest is not None and listed != counts):
            folder.report(INDEX, "damaged", "does not count the scans of the manifest")
        if manifest is None and listed is not None:
            counts = listed
    return sorted(counts, key=int)


def _columns(table: pa.Table, *names: str) -> list[list[Any]]:
    return [table[name].to_pylist() for name in names]


def _index(path: Path) -> dict[str, int] | None:
    """Scans of each shard; None if it is not as the manifest stage writes it."""
    try:
        text = path.read_bytes().decode()
        rows = list(csv.DictReader(text.splitlines(), delimiter="\t"))
        counts = {row["shard"]: int(row["n_scans"]) for row in rows}
    except (ValueError, KeyError, TypeError):
        return None
    lines = [f"{shard}\t{n_scans}\n" for shard, n_scans in counts.items()]
    sound = text == "shard\tn_scans\n" + "".join(lines) and all(map(str.isdigit, counts))
    return counts if sound else None


def _models(folder: Folder, scans: pa.Table | None) -> dict[str, dict[str, bool]]:
    """Models of the folder, each with the tables that every shard must have of it.

    A model that the cohort tables do not speak of may have been left half way, on purpose. Where
    no scan was usable they speak of none.
    """
    there = {
        stage: {path.name for path in (folder.results / stage).glob("*/")}
        for stage in ("segment", "measure", "agreement")
    }
    final = {model for model in _columns(scans, "model")[0] if model} if scans is not None else None
    models = {}
    for model in sorted(there["segment"] | there["measure"]):
        must = not final or model in final
        drawn = (folder.results / "measure" / model / "previews").is_dir()
        models[model] = {
            "segment": must,
            "measure": must,
            "previews": must and drawn,
            "agreement": must and model in there["agreement"],
        }
    return models


def _cohort_tables(
    folder: Folder, manifest: pa.Table | None
) -> tuple[pa.Table | None, dict[str, str]]:
    """SCANS if it is sound, and the digests of the cohort's tables."""
    scans = folder.table("scans.parquet", SCANS)
    folder.table("volumes.parquet", COHORT_VOLUMES)
    for name, columns in (("agreement", AGREEMENT), ("companions", COMPANIONS)):
        if (folder.results / f"{name}.parquet").exists():
            folder.table(f"{name}.parquet", columns)
    folder.json("assemble.json")
    tables = folder.listed("", last="scans.parquet")
    if scans is not None and manifest is not None:
        rows = [_columns(table, "manifest_line", "scan_id") for table in (scans, manifest)]
        if rows[0] != rows[1]:
            what = (
                f"has {scans.num_rows} other rows than the manifest, which has {manifest.num_rows}"
            )
            folder.report("scans.parquet", "out of date", what)
    return scans, tables


def _pages(folder: Folder, tables: dict[str, str]) -> None:
    """What analyse and report wrote, and whether they wrote it of the tables as they are."""
    folder.listed("analyse", last="analyse.json")
    folder.listed("report", last="index.html")
    record = folder.json("analyse/analyse.json")
    for of in record["inputs"].values() if record is not None else ():
        if tables.get(of["file"], of["sha256"]) != of["sha256"]:
            folder.report(
                "analyse/analyse.json", "out of date", f"was made of another {of['file']}"
            )
    folder.made_of(f"report/{DIGESTS}", "report.json", analyse=f"analyse/{DIGESTS}")


def _private(folder: Folder, salt_file: Path | None) -> None:
    """The record of removals, the map of hashed ids, and the salt that its keys were made with."""
    place = folder.results / PRIVATE
    if (place / RECORD).exists():
        folder.is_there(f"{PRIVATE}/{RECORD}")
        try:
            Removals.read(folder.results)
        except TableError:
            folder.report(f"{PRIVATE}/{RECORD}", "damaged", "is not as it was written")
    if not any((place / name).exists() for name in (IDS, IMAGES)):
        return
    salt_path = salt_file or place / SALT
    salt = salt_path.read_bytes() if salt_path.exists() else None
    if salt is None:
        folder.report(f"{PRIVATE}/{SALT}", "missing", "is not there, nor named with --salt-file")
    path = f"{PRIVATE}/{IDS}"
    if not folder.is_there(path):
        return
    try:
        ids = read_map(folder.results)
        wrong = [key for key, text in ids.items() if salt and key_of(salt, key[0], text) != key]
        sound = map_bytes(ids) == (place / IDS).read_bytes()
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        ids, wrong, sound = {}, [], False
    if len(wrong) > 1 and len(wrong) == len(ids):
        what = "is not the salt that the keys were made with"
        folder.report(f"{PRIVATE}/{SALT}", "damaged", what)
    elif wrong or not sound:
        folder.report(path, "damaged", "holds keys that do not follow from their ids")
