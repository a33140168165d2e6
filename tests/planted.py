"""Search of everything that a run writes for strings that were planted in what it reads."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from pathlib import Path

import pyarrow.parquet as pq

REPOSITORY = Path(__file__).parents[1]


def written(results, began):
    """Files of a results folder, and those that Snakemake wrote beside it since then.

    Other tests run Snakemake in the same folder: what has gone meanwhile, and its copies of their
    results, are not of this run.
    """
    files = [path for path in results.rglob("*") if path.is_file()]
    beside = REPOSITORY / ".snakemake"
    own_copies = beside / "backups" / results.relative_to("/")
    for place, _, names in os.walk(beside):
        folder = Path(place)
        if folder.is_relative_to(beside / "backups") and not folder.is_relative_to(own_copies):
            continue
        files += [path for name in names if _is_since(path := folder / name, began)]
    return files


def _is_since(path, began):
    try:
        return path.stat().st_mtime >= began
    except FileNotFoundError:
        return False


def found_in(pattern, path):
    """Matches in a file's name and in it: as it is, unpacked, and in the columns of a table.

    None in a file that has gone: other tests run Snakemake in the same folder.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return set()
    parts = [path.name.encode(), data]
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        parts += [str(table.schema.metadata).encode()]
        parts += ["\n".join(map(str, column.to_pylist())).encode() for column in table.columns]
    elif path.suffix == ".gz":
        parts.append(gzip.decompress(data))
    elif path.suffix == ".pdf":
        parts += [
            zlib.decompressobj().decompress(stream)
            for stream in re.findall(rb"stream\r?\n(x.*?)endstream", data, re.DOTALL)
        ]
    return {match for part in parts for match in pattern.findall(part)}
