"""The embedded model on real images of a limb: organs it makes up do not pass as an abdomen."""

import nibabel as nib
import numpy as np
import pytest

from cohortvol import measure
from cohortvol.segment import Segmenter

MODEL = "models/embedded-v1"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("subject", ["STS_001", "STS_003"])
def test_a_limb_is_no_abdomen_to_the_embedded_model(shared_data, request, subject):
    image = nib.load(shared_data / "ibsi/sts_ct_mr" / subject / "MR_T1_image.nii.gz")
    segmenter = Segmenter.load(request.config.rootpath / MODEL)
    labels, _ = segmenter.segment(image.get_fdata(dtype=np.float32), image.affine)
    rows = measure.judge(measure.structure_volumes(labels, image.affine, segmenter.card.labels))
    assert rows["volume_ml"].notna().any()  # it does find something
    assert rows["qc_flags"].str.contains("QC_WRONG_BODY_PART").all()
    assert (rows["qc"] == "exclude").all()
