"""What ingest would find, with nothing left behind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from cohortvol.stages.ingest import run
from cohortvol.stages.ingest.rules import Rules
from cohortvol.store.schemas import SHARD
from cohortvol.store.tables import write_table

TRIAL_SCANS = 32
"""Scans of a trial that are converted before their images are removed again."""


def trial(
    scans: pd.DataFrame, rules: Rules | None = None, threads: int = 1
) -> Iterator[pd.DataFrame]:
    """What `run` would find in these scans, some at a time, with nothing left behind.

    DICOM is converted into a temporary folder (``TMPDIR`` says where), which goes with its scans.

    Parameters
    ----------
    scans : pandas.DataFrame
        Columns ``scan_id``, ``image`` and ``dseg``.
    rules, threads
        As in `run`.

    Yields
    ------
    pandas.DataFrame
        Rows of the table INGEST; the image of a DICOM scan is there until the next are asked for.
    """
    for start in range(0, len(scans), TRIAL_SCANS):
        with tempfile.TemporaryDirectory(prefix="cohortvol-") as folder:
            shard = Path(folder, "shard.parquet")
            write_table(shard, scans.iloc[start : start + TRIAL_SCANS], SHARD)
            yield run(shard, Path(folder, "ingest.parquet"), rules, threads)
