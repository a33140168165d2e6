"""What stands in for label maps that are not kept: the rows and pictures that were made of them.

With ``keep_label_maps: false`` measure writes these below ``measure/<model>/kept``, where no rule
declares them, and only then removes the label maps. segment takes a scan for finished by its
receipt and either its label map or such rows.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cohortvol.errors import TableError
from cohortvol.store.companions import without_places
from cohortvol.store.files import digest_of
from cohortvol.store.schemas import KEPT, PREVIEWS, VOLUMES, Column
from cohortvol.store.tables import append_rows, read_table, write_table

log = logging.getLogger(__name__)


def measuring_key(settings: str, ingested: Mapping[str, Any]) -> str:
    """16 hex digits that change when the rows of a scan might, its label map being the same.

    Facts that few scans have, of stations and companions, are no part of it where there are none.

    Parameters
    ----------
    settings : str
        Those of `cohortvol.workflow.flow.measuring_settings`.
    ingested : mapping
        Row of the scan in the table INGEST.
    """
    facts = [ingested[name] for name in ("dixon", "intensity_min", "intensity_max")]
    known = [None if pd.isna(fact) else fact for fact in facts]
    stations, companions = ingested.get("stations"), without_places(ingested.get("companions"))
    told = {"stations": stations, "companions": companions}
    rare = {name: fact for name, fact in told.items() if isinstance(fact, str)}
    return digest_of([settings, *known, *([rare] if rare else [])])[:16]


class Kept:
    """Rows and pictures of the scans of one shard, by the label map that they were made of.

    Parameters
    ----------
    table : Path
        ``measure/<model>/kept/<shard>.parquet``; the pictures are in ``previews`` beside it. One
        that is missing or damaged holds nothing.
    settings : str
        See `measuring_key`. Rows made under another key do not count.
    """

    def __init__(self, table: Path, settings: str) -> None:
        self._table = table
        self._pictures_table = _pictures_of(table)
        self._settings = settings
        self._rows = {str(scan): rows for scan, rows in _read(table, KEPT).groupby("scan_id")}
        pictures = _read(self._pictures_table, PREVIEWS)
        self._pictures = {row["scan_id"]: row for row in pictures.to_dict("records")}

    def label_map_sha256(self, ingested: Mapping[str, Any]) -> str | None:
        """Digest of the label map of which the rows of a scan stand; None where none do."""
        rows = self._rows.get(ingested["scan_id"])
        if rows is None:
            return None
        first = rows.iloc[0]
        is_lost = first["has_picture"] and ingested["scan_id"] not in self._pictures
        if is_lost or first["measuring_key"] != self._key(ingested):
            return None
        return str(first["label_map_sha256"])

    def rows(self, scan_id: str) -> pd.DataFrame:
        """The rows of VOLUMES of a scan that has a `label_map_sha256`."""
        return self._rows[scan_id][list(VOLUMES)]

    def pictures(self, scan_id: str) -> list[dict[str, Any]]:
        """The row of PREVIEWS of a scan, if there is one."""
        return [self._pictures[scan_id]] if scan_id in self._pictures else []

    def commit(
        self, scans: Collection[Mapping[str, Any]], volumes: pd.DataFrame, pictures: pd.DataFrame
    ) -> None:
        """Write the rows of these scans in place of older ones; those of other scans stay.

        Parameters
        ----------
        scans : collection of mapping
            Rows of SEGMENT with the columns that `measuring_key` asks for.
        volumes, pictures : pandas.DataFrame
            Rows of VOLUMES and PREVIEWS; those of other scans are passed over.
        """
        drawn = {row["scan_id"]: row for row in pictures.to_dict("records")}
        rows_of = dict(iter(volumes.groupby("scan_id")))
        for scan in scans:
            scan_id = scan["scan_id"]
            self._rows[scan_id] = rows_of[scan_id].assign(
                label_map_sha256=scan["label_map_sha256"],
                measuring_key=self._key(scan),
                has_picture=scan_id in drawn,
            )
            if scan_id in drawn:
                self._pictures[scan_id] = drawn[scan_id]
        in_order = [self._rows[scan_id] for scan_id in sorted(self._rows)]
        shown = [self._pictures[scan_id] for scan_id in sorted(self._pictures)]
        if shown:
            write_table(self._pictures_table, pd.DataFrame(shown), PREVIEWS)
        if in_order:
            write_table(self._table, pd.concat(in_order, ignore_index=True), KEPT)

    def _key(self, ingested: Mapping[str, Any]) -> str:
        return measuring_key(self._settings, ingested)


def table_of(measured: Path) -> Path:
    """The table of `Kept` of a shard, by its table of measure."""
    return measured.parent / "kept" / measured.name


def forget(measured: Path) -> None:
    """Remove the tables of `Kept` of a shard of which every label map is there."""
    table = table_of(measured)
    for path in (table, _pictures_of(table)):
        path.unlink(missing_ok=True)


def _pictures_of(table: Path) -> Path:
    return table.parent / "previews" / table.name


def _read(path: Path, columns: dict[str, Column]) -> pd.DataFrame:
    if path.is_file():
        try:
            return read_table(path, columns)
        except TableError as error:
            log.warning("%s; its scans are segmented again", error)
    return append_rows([], columns)
