"""The label maps of a finished results folder, for what writes them out in another form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cohortvol.errors import ConfigError
from cohortvol.store import of_scans
from cohortvol.store.schemas import SCANS
from cohortvol.store.tables import read_table


def with_label_maps(results: Path) -> tuple[pd.DataFrame, str]:
    """Scans of an assembled folder that are done and have a label map, and the model of these.

    Raises
    ------
    ConfigError
        If no scan is done, or no label maps were kept.
    TableError
        If the results are not assembled.
    """
    scans = read_table(results / "scans.parquet", SCANS)
    done = scans[(scans["state"] == "done") & scans["label_map"].notna()]
    if done.empty:
        raise ConfigError(f"{results}: no scan is done, so there are no label maps to write")
    model = str(done["model"].iloc[0])
    if (results / "measure" / model / "kept").is_dir():
        raise ConfigError(
            f"{results}: made with `keep_label_maps: false`, so there are no label maps to write\n"
            "  Run with `keep_label_maps: true` first; it segments the scans again."
        )
    return done, model


def has_its_label_map(results: Path, scan: Mapping[str, Any]) -> bool:
    """Whether the label map of a row of ``scans.parquet`` is there, byte for byte."""
    try:
        return of_scans.digest(results / scan["label_map"]) == str(scan["label_map_sha256"])
    except OSError:
        return False
