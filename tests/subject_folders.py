"""A data set in the layout of TotalSegmentator: a folder of each subject, a file per structure."""

import nibabel as nib
import numpy as np

AFFINE = np.diag([-3.0, -3.0, 4.0, 1.0])  # LPS


def write_subject(place, image, masks, affine=AFFINE, name="mri.nii.gz"):
    """``mri.nii.gz`` and ``segmentations/<structure>.nii.gz`` of one subject."""
    (place / "segmentations").mkdir(parents=True)
    nib.save(nib.Nifti1Image(image, affine), place / name)
    for structure, mask in masks.items():
        file = place / "segmentations" / f"{structure}.nii.gz"
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), file)


def write_meta(folder, splits, **columns):
    """``meta.csv`` as the publisher writes it: semicolons, and a byte order mark."""
    names = ["image_id", *columns, "split"]
    rows = [
        ";".join([subject, *(values[place] for values in columns.values()), split])
        for place, (subject, split) in enumerate(splits.items())
    ]
    text = "\n".join([";".join(names), *rows]) + "\n"
    (folder / "meta.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
