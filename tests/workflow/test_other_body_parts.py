"""The embedded model on real images of a limb: organs it makes up do not pass as an abdomen."""

import nibabel as nib
import numpy as np
import pytest

from cohortvol import reasons
from cohortvol.stages import measure
from cohortvol.stages.segment import Segmenter

MODEL = "models/embedded-v2"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def judged(shared_data, request):
    """What `measure` says of the embedded model's labels on the MRI of a limb."""

    def judge(subject):
        image = nib.load(shared_data / "ibsi/sts_ct_mr" / subject / "MR_T1_image.nii.gz")
        segmenter = Segmenter.load(request.config.rootpath / MODEL)
        labels, _ = segmenter.segment(image.get_fdata(dtype=np.float32), image.affine)
        return measure.judge(measure.structure_volumes(labels, image.affine, segmenter.card.labels))

    return judge


def test_a_limb_is_no_abdomen_to_the_embedded_model(judged):
    rows = judged("STS_002")
    assert rows["volume_ml"].notna().any()  # it does find something
    assert rows["qc_flags"].str.contains("QC_WRONG_BODY_PART").all()
    assert (rows["qc"] == "exclude").all()


@pytest.mark.parametrize("subject", ["STS_001", "STS_003", "STS_004"])
def test_a_limb_whose_organs_come_out_large_enough_is_flagged(judged, subject):
    rows = judged(subject)
    assert rows["volume_ml"].notna().any()
    codes = {code for row in rows["qc_flags"].dropna() for code in row.split(";") if code}
    assert "flag" in {reasons.load()[code].class_ for code in codes}
