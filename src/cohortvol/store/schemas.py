"""The schema of every table that stages hand on: columns, types, units, what may be missing."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

text, real, whole, flag = pa.string(), pa.float64(), pa.int64(), pa.bool_()
packed = pa.binary()


@dataclass(frozen=True)
class Column:
    """One column: its type, its unit or the values it may take, and what it means."""

    type: pa.DataType
    meaning: str


RARE = (
    *("more_images", "more_facts", "channels", "stations", "station_shift_mm"),
    "companions",
)
"""Columns that a file has only where a row has a value: tables of scans with several channels, put
together of several stations, or with companions."""

COVARIATES = {
    "subject_id": Column(text, "person, or its key; repeated scans of one person share it"),
    "session_id": Column(text, "visit, as the manifest gives it, or its key"),
    "acquisition_date": Column(text, "ISO 8601 date, as the manifest gives it"),
    "time_of_day_h": Column(real, "when on that day, hours since midnight"),
    "age_years": Column(real, "age at the scan, years"),
    "sex": Column(text, "F or M"),
    "height_cm": Column(real, "body height, cm"),
    "weight_kg": Column(real, "body weight, kg"),
    "site": Column(text, "where the scan was made"),
    "scanner": Column(text, "scanner model or serial"),
    "field_strength_t": Column(real, "field strength, tesla"),
    "sequence": Column(text, "pulse sequence or weighting"),
    "contrast": Column(text, "contrast agent or phase"),
    "cluster_id": Column(text, "family, or whatever else its members were drawn with, or its key"),
    "sampling_weight": Column(real, "people of the population that this one stands for"),
    "stratum": Column(text, "part of the population that was drawn from by itself"),
    "absent": Column(text, "structures that surgery took, joined by ;"),
}
CONTINUOUS, FACTOR = "continuous", "factor"
"""Kinds of a further column: numbers, or names of groups."""
_GRID = {
    "n_i": Column(whole, "voxels along the first array axis"),
    "n_j": Column(whole, "voxels along the second array axis"),
    "n_k": Column(whole, "voxels along the third array axis"),
    "spacing_i_mm": Column(real, "voxel edge along the first array axis, mm"),
    "spacing_j_mm": Column(real, "voxel edge along the second array axis, mm"),
    "spacing_k_mm": Column(real, "voxel edge along the third array axis, mm"),
    "orientation": Column(text, "axis codes of the array axes, such as LAS"),
    "voxel_ml": Column(real, "volume of one voxel, |det(affine)|, mL"),
}
_DSEG = Column(
    text,
    "label map of the scan that was made elsewhere: absolute path of the file, of a folder with "
    "one file per structure, of such files with * for the structure, or of the link that hides it",
)
_PROVENANCE = {
    "image_sha256": Column(text, "sha256 of the image file's bytes"),
    "label_map": Column(
        text, "label map, relative to the results folder; removed where label maps are not kept"
    ),
    "label_map_sha256": Column(text, "sha256 of the label map file"),
    "model": Column(text, "segmentation model id"),
    "profile": Column(text, "inference profile of the model"),
    "segmentation_key": Column(text, "hash of weights, profile and algorithm version"),
    "cohortvol_version": Column(text, "version of cohortvol that segmented the scan"),
    "precision": Column(
        text, "numbers that networks multiplied: float32, float16 (GPU), bfloat16; null: not known"
    ),
}
_MORE_IMAGES = Column(
    text,
    "absolute paths of the further channels, image_2 and so on: JSON, empty text where a row has "
    "none; the column is there where a scan has some",
)
_COMPANIONS = Column(
    text,
    "absolute paths of companions, by the names in their columns companion_<name>: JSON; the "
    "column is there where a scan has some",
)
MANIFEST = {
    "manifest_line": Column(
        whole, "line of the manifest, the header being line 1; of a BIDS dataset, number of the row"
    ),
    "scan_id": Column(
        text, "row key: as the manifest gives it, or with hash_ids a key in its place"
    ),
    "image": Column(text, "absolute path of the image, or of the link that hides it"),
    "dseg": _DSEG,
    "state": Column(text, "null, or skipped or quarantined where the row itself is no scan"),
    "reason": Column(text, "reason code where state is given"),
    "detail": Column(text, "what the reason code refers to"),
    "shard": Column(text, "shard of the scan; null where the row is no scan"),
    **COVARIATES,
    "further": Column(
        text, "columns of the manifest that `covariates` of the config names: JSON, text by name"
    ),
    "more_images": _MORE_IMAGES,
    "companions": _COMPANIONS,
}
SHARDS = {
    "scan_id": Column(text, "row key"),
    "shard": Column(text, "shard it was put in, for good"),
    "subject_id": Column(text, "person of the scan, or its key, also after it left the manifest"),
}
SHARD = {
    "scan_id": Column(text, "row key"),
    "image": Column(text, "absolute path of the image"),
    "n_bytes": Column(
        whole, "bytes of the image, or of all files of the folder; null where missing"
    ),
    "mtime_ns": Column(whole, "modification time of the image, ns; the newest in a folder"),
    "dseg": _DSEG,
    "dseg_n_bytes": Column(whole, "size of the files of dseg, bytes; null where there are none"),
    "dseg_mtime_ns": Column(whole, "latest modification time of these files, ns"),
    "sequence": COVARIATES["sequence"],
    "more_images": _MORE_IMAGES,
    "companions": _COMPANIONS,
    "more_facts": Column(
        text, "size, bytes, and time, ns, of each of more_images, then of companions: JSON"
    ),
}
BODY_ORIENTATION = Column(
    text,
    "how the body lies in the image: as the header says, or what was done to it; null where that "
    "cannot be told or was not looked at",
)
INGEST = {
    "scan_id": Column(text, "row key"),
    "state": Column(text, "ready, quarantined, skipped or failed"),
    "reason": Column(text, "reason code where state is not ready"),
    "detail": Column(text, "numbers behind the reason"),
    "warnings": Column(text, "codes noted or flagged (W_..., QC_..., DCM_...), joined by ;"),
    "image": Column(text, "absolute path of the NIfTI image to segment"),
    "volume": Column(whole, "volume taken of a 4D image, from 1; null where it holds one"),
    "n_bytes": Column(whole, "bytes of the image file that were read"),
    "image_sha256": _PROVENANCE["image_sha256"],
    "voxels_sha256": Column(text, "sha256 of the grey values, in whatever type they are stored"),
    "dseg": _DSEG,
    "dseg_sha256": Column(
        text,
        "sha256 of the bytes of dseg, of several files that of their names and digests; null where "
        "there is none, or it could not be read",
    ),
    **_GRID,
    "body_orientation": BODY_ORIENTATION,
    "intensity_min": Column(real, "smallest voxel value after scaling"),
    "intensity_max": Column(real, "largest voxel value after scaling"),
    "dixon": Column(
        text,
        "water, fat, in_phase, opposed_phase or fat_fraction, as the DICOM header or else the "
        "manifest's sequence says; null where neither does",
    ),
    "header_age_years": Column(real, "age in the DICOM header, years"),
    "header_sex": Column(text, "sex in the DICOM header, F or M"),
    "header_acquisition_date": Column(text, "day of the scan in the DICOM header, ISO 8601"),
    "header_time_of_day_h": Column(
        real,
        "hours since midnight in the DICOM header, or in the sidecar of an image, to the minute; "
        "null where the header says that times were changed",
    ),
    "header_scanner": Column(text, "manufacturer and model in the DICOM header"),
    "header_field_strength_t": Column(real, "field strength in the DICOM header, tesla"),
    "header_sequence": Column(text, "coded scanning sequence in the DICOM header"),
    "channels": Column(
        text,
        "channels that the image holds along its fourth axis, by the model's names, joined by ;; "
        "the column is there where a scan has several",
    ),
    "stations": Column(
        text,
        "table positions that the image was put together from, in the order of its third axis: "
        "JSON, for each its series, first and last slice of the image from 0, gain (what its grey "
        "values were multiplied by) and shift_mm (how far the body moved against the one before, "
        "null where that cannot be told); a slice of two is blended, one of none is a gap; the "
        "column is there where a scan has several",
    ),
    "station_shift_mm": Column(
        real,
        "largest shift_mm of stations; null where it cannot be told of one that another overlaps "
        "(QC_STATION_UNMEASURED), or of none; the column is there where a scan has several",
    ),
    "companions": Column(
        text,
        "companions of the config, by name: JSON, for each its unit, factor (to it from what is "
        "stored), and the image with n_bytes and image_sha256, or else reason and detail; the "
        "column is there where the config names some",
    ),
}
SERIES = {
    "scan_id": Column(text, "row key"),
    "series": Column(
        text,
        "12 hex digits that stand for the SeriesInstanceUID; null for files that are in no series, "
        "or say of none",
    ),
    "modality": Column(text, "MR, CT, ..."),
    "image_type": Column(text, "coded ImageType or FrameType, joined by a backslash"),
    "plane": Column(text, "axial, coronal or sagittal, whichever is nearest"),
    "dixon": Column(
        text, "water, fat, in_phase, opposed_phase or fat_fraction, where that can be told"
    ),
    "echo_time_ms": Column(real, "echo time, ms"),
    "has_contrast": Column(flag, "the header names a contrast agent"),
    "n_images": Column(whole, "images; files, where reason says that they are none or damaged"),
    "n_positions": Column(whole, "planes at different positions"),
    "n_columns": Column(whole, "columns of an image"),
    "n_rows": Column(whole, "rows of an image"),
    "column_mm": Column(real, "distance of columns, mm"),
    "row_mm": Column(real, "distance of rows, mm"),
    "chosen": Column(flag, "this is the scan, or one of its stations"),
    "reason": Column(text, "reason code where it is not"),
    "detail": Column(text, "numbers behind the reason"),
}
SEGMENT = {
    "scan_id": Column(text, "row key"),
    "state": Column(text, "segmented, quarantined or failed"),
    "reason": Column(text, "reason code where state is not segmented"),
    "detail": Column(text, "numbers behind the reason"),
    **_PROVENANCE,
    "attempts": Column(whole, "times the scan was started"),
    "started_utc": Column(text, "start of the successful attempt, ISO 8601 UTC"),
    "seconds": Column(real, "wall time of the scan inside the worker, s"),
    "seconds_network": Column(real, "of which in the network, s"),
    "softmax_labels": Column(
        pa.list_(whole),
        "labels found, for the two columns below; null unless the profile ends in +softmax",
    ),
    "expected_ratio": Column(
        pa.list_(real), "sum of softmax p / voxels won, on the network's grid"
    ),
    "spread_ratio": Column(pa.list_(real), "sum of p (1 - p) / voxels won, on the network's grid"),
}
VOLUMES = {
    "scan_id": Column(text, "row key"),
    "model": _PROVENANCE["model"],
    "profile": _PROVENANCE["profile"],
    "structure": Column(text, "anatomical structure, TotalSegmentator spelling; a sum in plural"),
    "label": Column(whole, "label index in the label map; null for a sum of a pair"),
    "n_voxels": Column(whole, "voxels of the structure; null where it was not found"),
    "volume_ml": Column(real, "n_voxels x |det(affine)|, mL; null where unknown, never 0"),
    "volume_expected_ml": Column(
        real,
        "volume_ml x expected_ratio, mL: voxels shared as the softmax shares them; null where "
        "the profile kept no softmax, as of label maps made elsewhere",
    ),
    "volume_low_ml": Column(real, "lower end of the interval around volume_ml, mL, 0 at least"),
    "volume_high_ml": Column(real, "upper end of the interval around volume_ml, mL"),
    "interval": Column(
        text,
        "what the interval is worth: calibrated, with the share of scans it covers and on "
        "what, or uncalibrated, then one spread (volume_ml x spread_ratio) to either side; of a "
        "cut structure it is for the part inside",
    ),
    "status": Column(
        text, "ok, cut, absent (not found; or a sum, one side of which cannot be used) or failed"
    ),
    "reason": Column(text, "reason code where status is not ok"),
    "cut_by_fov": Column(flag, "the structure reaches the edge of the image: a lower bound"),
    "cut_faces": Column(text, "faces reached, letters of L R P A I S"),
    "cut_area_mm2": Column(real, "area of contact with the edge of the image, mm2"),
    "n_components": Column(whole, "face-connected components"),
    "largest_component_fraction": Column(real, "voxels of the largest component / n_voxels"),
    "centroid_ras_mm": Column(pa.list_(pa.float64()), "centre of mass, RAS+ mm"),
    "bbox": Column(pa.list_(pa.int64()), "i_min, i_max, j_min, j_max, k_min, k_max, inclusive"),
    "mean_intensity": Column(real, "mean of the image in the structure"),
    "sd_intensity": Column(real, "standard deviation of the image in the structure"),
    "outlier_z": Column(
        real,
        "robust z of the logarithm of the volume in the cohort, at this age and sex; null before "
        "assemble, where not measured, and where too few scans are to compare with",
    ),
    "qc": Column(text, "pass, flag or exclude"),
    "qc_flags": Column(text, "QC codes, joined by ;"),
    "companions": Column(
        text,
        "values of companions in the structure, by name: JSON, as the table companions has them "
        "in columns of their own; the column is there where the config names some",
    ),
}
COMPANIONS = {
    **{name: VOLUMES[name] for name in ("scan_id", "model", "profile", "structure", "label")},
    "companion": Column(text, "name of the companion in the config, such as fat_fraction"),
    "unit": Column(text, "unit of median, mean and sd; null of grey values, which have none"),
    "n_voxels": Column(whole, "voxels that the values are of; null where there are none"),
    "median": Column(real, "median of the companion in the structure, in its unit"),
    "mean": Column(real, "mean of the companion in the structure, in its unit"),
    "sd": Column(real, "standard deviation (of all voxels) in the structure, in its unit"),
    "reason": Column(
        text, "reason code where there are no values, of the companion or of the structure"
    ),
    "qc": Column(text, "pass, flag or exclude: of the structure, as in volumes"),
}
AGREEMENT = {
    "scan_id": Column(text, "row key"),
    "structure": Column(text, "structure that both models know; null where nothing was compared"),
    "model": _PROVENANCE["model"],
    "profile": _PROVENANCE["profile"],
    "other_model": Column(text, "model it is compared with"),
    "other_profile": Column(text, "inference profile of the other model"),
    "other_segmentation_key": Column(text, "hash of weights, profile and version of the other"),
    "volume_ml": Column(real, "volume by the model, mL; null where it did not find it"),
    "other_volume_ml": Column(real, "volume by the other, mL; null where it did not find it"),
    "volume_difference_pct": Column(
        real, "100 (other - this) / mean of both; null unless both found it"
    ),
    "dice": Column(
        real, "2 |A and B| / (|A| + |B|) of the voxels; 0 where one found it, null where neither"
    ),
    "reason": Column(text, "reason code where the scan was not compared"),
}
PREVIEWS = {
    "scan_id": Column(text, "row key"),
    "png": Column(
        packed,
        "PNG of three planes with outlines, and of three closer ones through `structure`; "
        "the right of the person is on the left",
    ),
    "outlines": Column(text, "JSON object: each structure in the first row to its colour, #rrggbb"),
    "structure": Column(text, "structure of the second row: the one to look at; null if none"),
    "structure_colour": Column(text, "colour of its outline in the second row, #rrggbb"),
    "reason": Column(text, "reason code where there is no picture"),
}
CONTACT_SHEET = {
    "tile": Column(text, "number of the tile on the page, such as F3 or R12"),
    "scan_id": Column(text, "row key"),
    "sheet": Column(text, "flagged or random"),
    "qc": Column(text, "pass, flag or exclude"),
    "qc_flags": Column(text, "warning and QC codes of the scan, joined by ;"),
    "structure": PREVIEWS["structure"],
}
_REVIEW = {
    "qc_auto": Column(text, "qc before people looked"),
    "review": Column(text, "what people decided: accept or exclude; null if nothing"),
    "review_line": Column(whole, "line of the decision table that says so; null for a sum"),
}
COHORT_VOLUMES = {name: VOLUMES[name] for name in VOLUMES if name != "companions"} | _REVIEW
KEPT = {
    **VOLUMES,
    "label_map_sha256": Column(text, "sha256 of the label map that was measured and removed"),
    "measuring_key": Column(
        text, "hash of the settings of measure, its rules, and what they take from ingest"
    ),
    "has_picture": Column(flag, "a picture was made of it, too"),
}
SCANS = {
    "manifest_line": MANIFEST["manifest_line"],
    "scan_id": MANIFEST["scan_id"],
    "state": Column(text, "done, skipped, quarantined or failed"),
    "reason": Column(text, "reason code where state is not done"),
    "detail": Column(text, "numbers behind the reason"),
    "qc": Column(text, "pass, flag or exclude; null unless done"),
    "qc_flags": Column(text, "warning and QC codes of the scan, joined by ;"),
    **_REVIEW,
    "shard": MANIFEST["shard"],
    **COVARIATES,
    "further": MANIFEST["further"],
    **_GRID,
    "body_orientation": BODY_ORIENTATION,
    "usual_scale": Column(
        text,
        "axis and factor that would make the extents of its organs as usual in the cohort; null "
        "where they are, or cannot be judged",
    ),
    **_PROVENANCE,
}
SCHEMAS: dict[str, dict[str, Column]] = {
    "manifest/scans": MANIFEST,
    "manifest/shards": SHARDS,
    "manifest/shards/<shard>": SHARD,
    "ingest/<shard>": INGEST,
    "ingest/series/<shard>": SERIES,
    "segment/<model>/<shard>": SEGMENT,
    "measure/<model>/<shard>": VOLUMES,
    "agreement/<model>/<shard>": AGREEMENT,
    "agreement": AGREEMENT,
    "measure/<model>/previews/<shard>": PREVIEWS,
    "measure/<model>/kept/<shard>": KEPT,
    "volumes": COHORT_VOLUMES,
    "companions": COMPANIONS,
    "scans": SCANS,
    "contact_sheet": CONTACT_SHEET,
}
"""Every table of a results folder, by its place there. docs/tables.md lists the same."""
DECISION_COLUMNS = ("scan_id", "structure", "decision", "reviewer", "date", "note")
"""Columns of a table of decisions, which a person fills in."""
