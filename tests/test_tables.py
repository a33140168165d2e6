"""Tables on disk: what was written comes back, or nothing does."""

import hashlib
import inspect
import io
import re

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from cohortvol.errors import TableError
from cohortvol.store.schemas import VOLUMES
from cohortvol.store.tables import (
    LAYOUT,
    append_rows,
    as_written,
    csv_text,
    read_table,
    write_table,
)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table as it is on disk, and as it is read."""
    path = tmp_path_factory.mktemp("table") / "volumes.parquet"
    rows = [
        {"scan_id": f"sub-{i}", "structure": "liver", "volume_ml": 1400.0 + i, "n_voxels": 900 + i}
        for i in range(100)
    ]
    write_table(path, append_rows(rows, VOLUMES), VOLUMES)
    return path, read_table(path, VOLUMES)


def test_a_table_comes_back_as_it_was(table):
    _, read = table
    assert list(read) == list(VOLUMES)
    assert read["volume_ml"].tolist() == [1400.0 + i for i in range(100)]
    assert read["qc"].isna().all()


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=500)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_changes_nothing(table, tmp_path_factory, place, bit):
    path, read = table
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    damaged = tmp_path_factory.mktemp("flip") / "volumes.parquet"
    damaged.write_bytes(data)
    try:
        found = read_table(damaged, VOLUMES)
    except TableError:
        return
    assert_frame_equal(found, read)


NOT_OF_THE_LAYOUT = {
    "use_deprecated_int96_timestamps": "no column is a time",
    "coerce_timestamps": "no column is a time",
    "allow_truncated_timestamps": "no column is a time",
    "write_time_adjusted_to_utc": "no column is a time",
    "store_decimal_as_integer": "no column is a decimal",
    "flavor": "None is not to be another program's",
    "filesystem": "a stream is written to",
    "column_encoding": "None is by `use_dictionary`",
    "encryption_properties": "None is not to encrypt",
    "sorting_columns": "None is to say nothing; docs/tables.md does",
    "bloom_filter_options": "None is none",
    "use_content_defined_chunking": "pages end by rows and bytes",
}


def test_nothing_of_a_file_is_left_to_the_version_of_pyarrow():
    decided = {*LAYOUT, *NOT_OF_THE_LAYOUT, "table", "where", "kwargs"}
    assert set(inspect.signature(pq.write_table).parameters) - decided == set()


def test_every_pyarrow_that_is_allowed_writes_the_same_bytes(tmp_path):
    rows = [
        {
            "scan_id": f"sub-{i:05d}",
            "structure": ("liver", "spleen", None)[i % 3],
            "volume_ml": 1400.0 + i / 7 if i % 5 else None,
            "n_voxels": 900 + i,
            "cut_by_fov": i % 4 == 0,
            "centroid_ras_mm": [float(i), -2.0, 3.5],
        }
        for i in range(30_000)
    ]
    path = tmp_path / "volumes.parquet"
    write_table(path, append_rows(rows, VOLUMES), VOLUMES)
    nameless, n_names = re.subn(rb"parquet-cpp-arrow version [0-9.]+", b"", path.read_bytes())
    assert n_names == 1
    assert hashlib.sha256(nameless).hexdigest()[:16] == "253c64e7af017d65"


def test_a_name_that_is_no_text_is_a_damaged_table(table, tmp_path):
    path, _ = table
    data = path.read_bytes().replace(b"volume_ml", b"\xf1olume_ml")
    damaged = tmp_path / "volumes.parquet"
    damaged.write_bytes(data)
    with pytest.raises(TableError, match=r"damaged|columns missing"):
        read_table(damaged, VOLUMES)


def test_a_value_of_another_type_is_not_written(tmp_path):
    with pytest.raises(TableError, match="n_voxels"):
        write_table(tmp_path / "t.parquet", pd.DataFrame({"n_voxels": ["many"]}), VOLUMES)


# --- tables for people -------------------------------------------------------------------------


def test_a_text_that_a_spreadsheet_would_run_is_made_harmless_and_numbers_stay_numbers():
    evil = ["=1+1", "+1", "-1", "@sum", "\tx", "\rx", "plain", None]
    frame = pd.DataFrame({"site": evil, "=volume_ml": [-3.5] * len(evil)})
    written = csv_text(frame)
    read = pd.read_csv(io.StringIO(written), keep_default_na=False, lineterminator="\n")
    assert list(read.columns) == ["site", "'=volume_ml"]
    assert read["site"].tolist()[:6] == [f"'{text}" for text in evil[:6]]
    assert read["site"].tolist()[6:] == ["plain", ""]
    assert (read["'=volume_ml"] == -3.5).all()
    assert [as_written(text) for text in read["site"]] == [*evil[:7], ""]
