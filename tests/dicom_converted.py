"""A DICOM folder brought to an image, or refused, for the tests of it."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from cohortvol.errors import ScanError
from cohortvol.stages import ingest
from cohortvol.stages.ingest import Rules
from cohortvol.stages.ingest.dicom import to_nifti
from cohortvol.store.schemas import INGEST, SHARD
from cohortvol.store.tables import append_rows, read_table, write_table
from dicom_fixture import pixels

N = 12


def converted(source, tmp_path, **rules):
    """Image, covariates, flags and rows of the table SERIES."""
    series = []
    out = tmp_path / "converted" / "scan.nii.gz"
    covariates, codes = to_nifti(source, out, Rules(**rules), series)
    return nib.load(out), covariates, codes, series


def refused(source, tmp_path, **rules):
    with pytest.raises(ScanError) as error:
        converted(source, tmp_path, **rules)
    return error.value


def expected_volume(seed=0, n=N):
    return np.stack([pixels(k, seed).T for k in range(n)], axis=-1)


def ingested(tmp_path, images, **rules):
    shard, out = tmp_path / "shards" / "0000.parquet", tmp_path / "ingest" / "0000.parquet"
    rows = [{"scan_id": name, "image": str(image)} for name, image in images.items()]
    write_table(shard, append_rows(rows, SHARD), SHARD)
    ingest.run(shard, out, Rules(min_entropy_bits=0.1, fov_range_mm=(30, 2500), **rules))
    return read_table(out, INGEST).set_index("scan_id"), out
