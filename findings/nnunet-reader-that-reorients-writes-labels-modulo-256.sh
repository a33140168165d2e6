#!/usr/bin/env bash
# nnunetv2: SimpleITKIOWithReorient writes label 300 as 44, and 256 as background, without a word.
#
# Expected: nnU-Net's readers write label maps in the smallest type that holds them. SimpleITKIO and
# NibabelIO ask for the greatest label and go from 8 to 16 bits; the same two with reorienting differ
# from them in the axes only, so label maps are the same.
# Seen (nnunetv2 2.8.1, SimpleITK 2.5, Python 3.11): SimpleITKIOWithReorient casts to 8 bits whatever
# the labels are. 254 to 256 and 300 come back as 254, 255, 0 and 44; the three other readers, below,
# keep them. A data set with more than 255 labels, such as one that joins several atlases, trains and
# validates; only its label maps on disk are wrong.
# Exits 1 where this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    nnunetv2==2.8.1 torch==2.13.0 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import nibabel as nib, numpy as np
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient

wanted = [254, 255, 256, 300]
nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([-1.0, -1.0, 2.0, 1.0])), "image.nii.gz")
found = {}
for reader in (SimpleITKIO, NibabelIO, NibabelIOWithReorient, SimpleITKIOWithReorient):
    data, properties = reader().read_images(["image.nii.gz"])
    labels = np.zeros(data.shape[1:], np.int64)
    labels[1, 1, :4] = wanted
    reader().write_seg(labels, "labels.nii.gz", properties)
    back = np.asarray(nib.load("labels.nii.gz").dataobj)
    found[reader.__name__] = sorted(int(value) for value in np.unique(back) if value)
    print(reader.__name__, back.dtype, found[reader.__name__])
as_seen = found.pop("SimpleITKIOWithReorient") == [44, 254, 255] and all(
    values == wanted for values in found.values()
)
print("as described" if as_seen else "changed")
raise SystemExit(not as_seen)
PYTHON
