"""Every table the analysis writes, and how it is written."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cohortvol.stages.analyse.answers import schemas as answers
from cohortvol.stages.analyse.cohort import schemas as cohort
from cohortvol.stages.analyse.robustness import schemas as robustness
from cohortvol.store.files import commit_text
from cohortvol.store.schemas import Column
from cohortvol.store.tables import csv_text, to_arrow, to_pandas, write_arrow

SCHEMAS: dict[str, dict[str, Column]] = {
    **cohort.SCHEMAS,
    **answers.SCHEMAS,
    **robustness.SCHEMAS,
}
"""Every table of the analysis, by its place in a results folder."""


def write(out: Path, name: str, frame: pd.DataFrame) -> int:
    """Write ``analyse/<name>`` as Parquet and as CSV below `out`; how many rows it has."""
    columns = SCHEMAS[f"analyse/{name}"]
    table = to_arrow(frame.reindex(columns=list(columns)), columns)
    write_arrow(out / f"{name}.parquet", table)
    commit_text(out / f"{name}.csv", csv_text(to_pandas(table)))
    return len(frame)
