"""A results folder whose images were DICOM, and its label maps read back from what was written."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pydicom

from cohortvol.anatomy.geometry import voxel_volume_ml
from cohortvol.anatomy.nifti import nifti_gz
from cohortvol.stages import ingest
from cohortvol.stages.ingest import Rules
from cohortvol.store.files import sha256_of
from cohortvol.store.schemas import INGEST, MANIFEST, SCANS, SHARD, VOLUMES
from cohortvol.store.tables import append_rows, read_table, write_table

MODEL = "my-v1"
FREE = {"min_entropy_bits": 0.1, "fov_range_mm": (1, 2500), "max_zero_fraction": 1.0}
NAMES = {1: "liver", 2: "kidney_left", 3: "made_up", 4: "patella", 7: "subcutaneous_fat"}


class Results:
    """A results folder of which ingest is real, with random label maps on the grids it found."""

    def __init__(self, folder, images, n_layers=1, **rules):
        self.folder = folder
        shard, out = folder / "manifest/shards/0000.parquet", folder / "ingest/0000.parquet"
        rows = [{"scan_id": name, "image": str(image)} for name, image in images.items()]
        write_table(shard, append_rows(rows, SHARD), SHARD)
        write_table(folder / "manifest/scans.parquet", append_rows(rows, MANIFEST), MANIFEST)
        ingest.run(shard, out, Rules(**FREE | rules))
        table = read_table(out, INGEST)
        assert set(table["state"]) == {"ready"}, table[["scan_id", "reason", "detail"]]
        self.ids, self.qc, self.n_layers = list(images), {}, n_layers
        for number, (scan_id, image) in enumerate(
            zip(table["scan_id"], table["image"], strict=True)
        ):
            grid = nib.load(image)
            self.put(scan_id, random_labels(grid.shape[:3], number, n_layers), grid.affine)

    def place(self, scan_id):
        return self.folder / f"segment/{MODEL}/0000/{scan_id}_dseg.nii.gz"

    def put(self, scan_id, labels, affine):
        self.place(scan_id).parent.mkdir(parents=True, exist_ok=True)
        self.place(scan_id).write_bytes(nifti_gz(labels, affine))

    def labels(self, scan_id):
        loaded = nib.load(self.place(scan_id))
        return np.asarray(loaded.dataobj), loaded.affine

    def write(self):
        scans, volumes = [], []
        for number, scan_id in enumerate(self.ids):
            labels, affine = self.labels(scan_id)
            scans.append({
                "manifest_line": number + 2, "scan_id": scan_id, "state": "done",
                "label_map": str(self.place(scan_id).relative_to(self.folder)),
                "label_map_sha256": sha256_of(self.place(scan_id)), "model": MODEL, "profile": "p",
                "segmentation_key": "0123456789abcdef", "cohortvol_version": "9.9",
                "qc": self.qc.get(scan_id, "pass"),
            })  # fmt: skip
            for label, name in NAMES.items():
                n = int((labels == label).sum())
                row = {"scan_id": scan_id, "structure": name, "label": label, "qc": "pass"}
                row |= {"status": "absent"} if n == 0 else {
                    "n_voxels": n, "volume_ml": n * voxel_volume_ml(affine), "status": "cut",
                    "cut_by_fov": True if name == "liver" else None,
                    "qc_flags": "QC_OUTLIER" if label == 2 else None,
                }  # fmt: skip
                volumes.append(row | ({"qc": "exclude"} if name == "patella" else {}))
            total = {"scan_id": scan_id, "structure": "kidneys", "volume_ml": 3.5, "status": "ok"}
            volumes.append(total | {"qc": "pass"})
        write_table(self.folder / "scans.parquet", append_rows(scans, SCANS), SCANS)
        write_table(self.folder / "volumes.parquet", append_rows(volumes, VOLUMES), VOLUMES)
        return self.folder


def random_labels(shape, seed, n_layers):
    """Blobs, none in one slice; with a second layer, one label that overlaps those of the first."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 0, 1, 2, 3, 4], size=[-(-n // 4) for n in shape[:2]] + [shape[2]])
    labels = np.kron(coarse, np.ones((4, 4, 1), int))[: shape[0], : shape[1]].astype(np.uint8)
    labels[:, :, 1] = 0
    if n_layers == 1:
        return labels
    return np.stack([labels * (labels < 4), np.where(labels > 1, 4, 0)], axis=-1).astype(np.uint8)


def put_back(path, labels, affine):
    """The label map of a segmentation, by pydicom alone, each frame where it says it lies."""
    seg = pydicom.dcmread(path)
    to_voxel = np.linalg.inv(affine) @ np.diag([-1.0, -1, 1, 1])
    names = {one.SegmentNumber: one.SegmentLabel for one in seg.SegmentSequence}
    indices = {name: label for label, name in NAMES.items()}
    found = np.zeros_like(labels)
    shared = seg.SharedFunctionalGroupsSequence[0]
    axes = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    rows_mm, columns_mm = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    for frame, mask in zip(
        seg.PerFrameFunctionalGroupsSequence, np.atleast_3d(seg.pixel_array), strict=True
    ):
        origin = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        row, column = np.nonzero(mask)
        places = (
            origin + np.outer(column * columns_mm, axes[:3]) + np.outer(row * rows_mm, axes[3:])
        )
        voxels = np.c_[places, np.ones(len(places))] @ to_voxel.T
        i, j, k = np.rint(voxels[:, :3]).astype(int).T
        assert np.abs(voxels[:, :3] - np.c_[i, j, k]).max() < 1e-3
        named = frame.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence
        number = named[0].ReferencedSegmentNumber
        assert (found[i, j, k] == 0).all()
        found[i, j, k] = indices[names[number]]
    return found


def measurements(path):
    """Structure to (mL, codes of its qualities) of a report, by pydicom alone."""
    report = pydicom.dcmread(path)

    def children(item, code):
        named = [one for one in item.get("ContentSequence", []) if "ConceptNameCodeSequence" in one]
        return [one for one in named if one.ConceptNameCodeSequence[0].CodeValue == code]

    found = {}
    for all_of_them in children(report, "126010"):
        for group in children(all_of_them, "125007"):
            (name,) = children(group, "112039")
            (volume,) = children(group, "118565006")
            (value,) = volume.MeasuredValueSequence
            assert value.MeasurementUnitsCodeSequence[0].CodeValue == "mL"
            qualities = [one.ConceptCodeSequence[0].CodeValue for one in children(group, "qc")]
            found[name.TextValue] = float(value.NumericValue), qualities
            (segment,) = children(group, "121191")
            uid = segment.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            assert uid in {pydicom.dcmread(p).SOPInstanceUID for p in path.parent.glob("*_seg*")}
    return found


def content_of(out):
    return {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
