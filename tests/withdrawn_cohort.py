"""A small manifest, its results folder, and lists of people who withdrew from it."""

from __future__ import annotations

from cohortvol.store import schemas, tables
from cohortvol.store.records import Job, Outdated, noted
from results_folder import ingest_row


def list_of(tmp_path, text, name="withdrawn.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def cohort(tmp_path, rows):
    """A manifest of these (scan_id, subject_id), all with an image."""
    for scan_id, _ in rows:
        image = tmp_path / f"{scan_id}.nii"
        if not image.exists():
            image.write_bytes(b"x" * 10)
    lines = [f"{scan_id},{scan_id}.nii,{subject}\n" for scan_id, subject in rows]
    return list_of(tmp_path, "scan_id,image,subject_id\n" + "".join(lines), "scans.csv")


ROWS = [("a-1", "anna"), ("b-1", "bert"), ("a-2", "anna"), ("c-1", "cleo")]


def table(results, name, columns):
    return tables.read_table(results / "manifest" / name, columns)


LISTED, INGESTED = "manifest/shards/0000.parquet", "ingest/0000.parquet"
INGEST = Job("ingest", "0000", (INGESTED,), {"list_of_scans": LISTED})


def ingest(results, rows):
    """The table of ingest, with the record of what it was made of."""
    table = tables.append_rows([ingest_row(scan_id) for scan_id, _ in sorted(rows)], schemas.INGEST)
    with noted(INGEST.text(results)):
        tables.write_table(results / INGESTED, table, schemas.INGEST)


def why(results):
    """Why the next run makes this table again, if it does."""
    return Outdated(results).why(INGEST, ["0000"])


def names(path, text):
    return text in path.read_bytes() or text in path.name.encode()
