"""Everything that happened to one scan, stage by stage."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cohortvol import reasons
from cohortvol.errors import ConfigError, TableError, did_you_mean
from cohortvol.store import of_scans
from cohortvol.store.keys import keys_of_scans
from cohortvol.store.machine import raise_if_lacking
from cohortvol.tools.status.reading import choose_model, read_manifest

Row = dict[str, Any]

STAGES = ("ingest", "segment", "measure", "assemble")
_INTERVAL_COLUMNS = ("volume_expected_ml", "volume_low_ml", "volume_high_ml", "interval")
_REVIEW_COLUMNS = ("qc_auto", "review")
_VOLUME_COLUMNS = (
    "structure",
    "volume_ml",
    *_INTERVAL_COLUMNS,
    "status",
    "qc",
    "qc_flags",
    *_REVIEW_COLUMNS,
)
_RATIOS = {"softmax_labels", "expected_ratio", "spread_ratio"}
_VERDICT = ("qc", "qc_flags", *_REVIEW_COLUMNS, "review_line")


def explain(results: Path, scan_id: str, model: str | None = None) -> dict[str, Any]:
    """What every stage knows of one scan.

    Parameters
    ----------
    results : Path
        Results folder.
    scan_id : str
        A scan of the manifest; with hash_ids its key, or the id itself for who may read the map.
    model : str, optional
        Model id, where the folder holds several.

    Returns
    -------
    dict
        ``scan_id``; ``state``, final or what it waits for; ``steps``, one per stage reached
        with ``stage``, ``outcome`` and ``facts`` (a manifest row each, for a duplicated id);
        ``volumes``; ``reasons``, with sentence and what to do; ``commands`` that run the
        scan's shard again from the stage at which it ended, empty where it is done.

    Raises
    ------
    ConfigError
        If the manifest has no such scan; the message names the nearest one.
    """
    results = Path(results)
    model = choose_model(results, model)
    ids = read_manifest(results, ["scan_id"])["scan_id"]
    if not pc.any(pc.equal(ids, scan_id)).as_py():
        keys = keys_of_scans(results)
        scan_id = keys.get(unicodedata.normalize("NFC", scan_id), scan_id)
    if not pc.any(pc.equal(ids, scan_id)).as_py():
        hint = did_you_mean(scan_id, keys or set(ids.to_pylist()))
        raise ConfigError(f"{results}: no scan {scan_id!r} in the manifest{hint}")
    rows = _rows(results / "manifest" / "scans.parquet", scan_id)
    steps = [_manifest_step(row) for row in rows]
    end: Row = rows[0]
    again: str | None = None
    volumes: list[Row] = []
    if end["state"] is None:
        end, again, volumes = _follow(results, end, model, steps)
    codes = [end.get("reason"), *_codes([*volumes, end])]
    known = reasons.load()
    return {
        "scan_id": scan_id,
        "state": end["state"],
        "steps": steps,
        "volumes": [{name: row.get(name) for name in _VOLUME_COLUMNS} for row in volumes],
        "reasons": [
            {"reason": code, "sentence": known[code].sentence, "what_to_do": known[code].what_to_do}
            for code in dict.fromkeys(codes)
            if code in known
        ],
        "commands": _commands(results, rows[0]["shard"], model or "MODEL", again) if again else [],
    }


def _follow(
    results: Path, row: Row, model: str | None, steps: list[Row]
) -> tuple[Row, str | None, list[Row]]:
    """Add a step per stage reached; how it ended, the stage to run again, and the volumes."""
    scan_id, shard = row["scan_id"], row["shard"]
    reached = {
        "ingest": _one_row(results / "ingest" / f"{shard}.parquet", scan_id),
        "segment": _segmented(results, model, shard, scan_id),
    }
    for stage, facts in reached.items():
        if facts is None:
            return {"state": f"waiting for {stage}"}, stage, []
        shown = {name: fact for name, fact in facts.items() if name not in _RATIOS}
        steps.append(_step(stage, facts["state"], shown))
        if facts["state"] not in ("ready", "segmented"):
            return facts, stage, []
    volumes = _rows(results / "measure" / str(model) / f"{shard}.parquet", scan_id)
    if not volumes:
        return {"state": "waiting for measure"}, "measure", []
    if all(structure["status"] == "failed" for structure in volumes):
        failure = {"state": "failed", "reason": volumes[0]["reason"]}
        steps.append(_step("measure", "failed", failure))
        return failure, "segment", volumes  # what cannot be measured is segmented again
    steps.append(_step("measure", f"{len(volumes)} structures and sums", {}))
    final = _one_row(results / "scans.parquet", scan_id)
    if final is None:
        return {"state": "waiting for assemble"}, "assemble", volumes
    verdict = {name: final.get(name) for name in _VERDICT}
    if verdict["qc_auto"] == verdict["qc"]:
        del verdict["qc_auto"]
    steps.append(_step("assemble", final["state"], verdict))
    in_cohort = _rows(results / "volumes.parquet", scan_id)  # with what only the cohort can tell
    return final, None, [row for row in in_cohort if row["model"] == model] or volumes


def _rows(path: Path, scan_id: str) -> list[Row]:
    try:
        table = pq.read_table(path, filters=[("scan_id", "==", scan_id)])
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise TableError(f"{path}: may be read by the account alone that wrote it") from error
    except (pa.ArrowException, OSError) as error:
        raise_if_lacking(path, error)
        raise TableError(f"{path}: damaged table ({error}); delete it and run again") from error
    return [dict(row) for row in table.to_pylist()]


def _one_row(path: Path, scan_id: str) -> Row | None:
    rows = _rows(path, scan_id)
    return rows[0] if rows else None


def _segmented(results: Path, model: str | None, shard: str, scan_id: str) -> Row | None:
    """The receipt, which is the commit point, or the shard's table where that is all there is."""
    if model is None:
        return None
    folder = results / "segment" / model
    receipt = folder / shard / f"{scan_id}{of_scans.RECEIPT}"
    try:
        facts = json.loads(of_scans.read(receipt))
    except PermissionError as error:
        raise TableError(f"{receipt}: may be read by the account alone that wrote it") from error
    except (OSError, ValueError):
        return _one_row(folder / f"{shard}.parquet", scan_id)
    facts["receipt"] = of_scans.place(receipt)
    if facts.get("label_map"):
        facts["label_map"] = of_scans.place(folder / shard / facts["label_map"])
    facts |= {f"{name}_version": number for name, number in facts.pop("versions", {}).items()}
    return dict(facts)


def _manifest_step(row: Row) -> Row:
    outcome = row["state"] or f"in shard {row['shard']}"
    facts = {name: value for name, value in row.items() if name != "manifest_line"}
    return _step("manifest", f"line {row['manifest_line']}, {outcome}", facts)


def _step(stage: str, outcome: str, facts: Row) -> Row:
    shown = {
        name: value
        for name, value in facts.items()
        if value is not None and value != "" and name not in ("scan_id", "state", "shard")
    }
    return {"stage": stage, "outcome": outcome, "facts": shown}


def _codes(rows: list[Row]) -> list[str]:
    return [code for row in rows for code in (row.get("qc_flags") or "").split(";")]


def _commands(results: Path, shard: str, model: str, stage: str) -> list[str]:
    """What the workflow runs for a shard, from one stage on."""
    segmented, measured = (
        results / name / model / f"{shard}.parquet" for name in ("segment", "measure")
    )
    ingested = results / "ingest" / f"{shard}.parquet"
    previews = results / "measure" / model / "previews" / f"{shard}.parquet"
    drawn = f" --previews {previews}" if previews.exists() else ""
    commands = {
        "ingest": f"cohortvol ingest --shard {results}/manifest/shards/{shard}.parquet "
        f"--out {ingested}",
        "segment": f"cohortvol segment --ingest {ingested} --model models/{model} "
        f"--folder {segmented.with_suffix('')} --out {segmented}",
        "measure": f"cohortvol measure --segment {segmented} --ingest {ingested} "
        f"--model models/{model} --results {results} --out {measured}{drawn}",
        "assemble": f"cohortvol assemble --results {results} --model {model}",
    }
    return [commands[name] for name in STAGES[STAGES.index(stage) :]]
