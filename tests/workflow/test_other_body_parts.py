"""The embedded model on real images of a limb: organs it makes up do not pass as an abdomen."""

import nibabel as nib
import numpy as np
import pytest

from cohortvol import measure, reasons
from cohortvol.segment import Segmenter

MODEL = "models/embedded-v2"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("subject", ["STS_001", "STS_002", "STS_003", "STS_004"])
def test_no_limb_passes_for_an_abdomen(shared_data, request, subject):
    """Whether it is excluded hangs on how large the organs come out that the model makes up."""
    image = nib.load(shared_data / "ibsi/sts_ct_mr" / subject / "MR_T1_image.nii.gz")
    segmenter = Segmenter.load(request.config.rootpath / MODEL)
    labels, _ = segmenter.segment(image.get_fdata(dtype=np.float32), image.affine)
    rows = measure.judge(measure.structure_volumes(labels, image.affine, segmenter.card.labels))
    assert rows["volume_ml"].notna().any()  # it does find something
    codes = {code for row in rows["qc_flags"].dropna() for code in row.split(";") if code}
    assert "flag" in {reasons.load()[code].class_ for code in codes}
