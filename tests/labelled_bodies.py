"""A body of four organs as label maps, for the tests of evaluation."""

import numpy as np

from cohortvol.anatomy.nifti import nifti_gz

AFFINE = np.diag([1.25, 1.5, 3.0, 1.0])  # RAS+, mm
NAMES = {"liver": 1, "kidney_right": 2, "kidney_left": 3, "spleen": 4}


def body(shift=0, without=()):
    """Liver and right kidney at high x, which is right; spleen and left kidney at low x."""
    labels = np.zeros((24, 20, 12), dtype=np.uint8)
    labels[14 + shift : 22, 8:16, 4:10] = 1
    labels[14 : 18 - shift, 2:6, 2:6] = 2
    labels[4 + shift : 8, 2:6, 2:6] = 3
    labels[2:6, 10 + shift : 16, 5:9] = 4
    for name in without:
        labels[labels == NAMES[name]] = 0
    return labels


def renamed(names):
    """The same body under the label indices of `names`."""
    labels = np.zeros_like(body())
    for name, label in NAMES.items():
        labels[body() == label] = names[name]
    return labels


def save(path, labels, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(nifti_gz(labels, affine))
