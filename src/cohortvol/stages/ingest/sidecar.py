"""The sidecar of an image, ``<name>.json`` as dcm2niix and BIDS have it, against its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cohortvol.stages.ingest.clock import hours_of

MOST_BYTES = 1 << 20
SAME = 0.01  # relative


def read(image: Path) -> dict[str, Any]:
    """What the sidecar says; nothing where there is none, or it cannot be read as one.

    Parameters
    ----------
    image : Path
        ``<name>.nii`` or ``<name>.nii.gz``, of which the sidecar is looked for beside what a link
        leads to.
    """
    real = Path(image).resolve()
    sidecar = real.with_name(_stem(real) + ".json")
    try:
        if sidecar.stat().st_size > MOST_BYTES:
            return {}
        said = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def step_is_thickness(said: Mapping[str, Any], edges_mm: np.ndarray) -> bool:
    """Whether an edge of the voxels is the thickness of a slice, and none is the step between two.

    Slices with a gap between them, or that overlap, are as far apart as ``SpacingBetweenSlices``
    says; a header with ``SliceThickness`` in that place has every volume wrong.

    Parameters
    ----------
    said : mapping
        What `read` returned.
    edges_mm : (3,) array
        Of the header.
    """
    step_mm, thickness_mm = (_number(said, n) for n in ("SpacingBetweenSlices", "SliceThickness"))
    if step_mm is None or thickness_mm is None:
        return False
    is_step, is_thickness = (
        bool(np.any(np.abs(edges_mm / mm - 1) < SAME)) for mm in (step_mm, thickness_mm)
    )
    return is_thickness and not is_step


def time_of_day_h(said: Mapping[str, Any]) -> float | None:
    """``AcquisitionTime`` of the sidecar, hours since midnight; None where it does not say."""
    return hours_of(said.get("AcquisitionTime"))


def resampled_twin(image: Path) -> str | None:
    """Name of the image that dcm2niix made beside this one where steps between slices differ.

    ``<name>_Eq`` or ``<name>_Eq_1`` is interpolated to equal steps; ``<name>`` has the slices there
    were, as if their steps were equal, so that a missing one is a gap of which nothing else tells.
    """
    real = Path(image).resolve()
    stem = _stem(real)
    twins = (f"{stem}{eq}{suffix}" for eq in ("_Eq", "_Eq_1") for suffix in (".nii.gz", ".nii"))
    return next((name for name in twins if real.with_name(name).exists()), None)


def image_type(said: Mapping[str, Any]) -> tuple[str, ...]:
    """``ImageType`` of the sidecar, in capitals as in DICOM; empty where it does not say."""
    parts = said.get("ImageType")
    return tuple(str(one).upper() for one in parts) if isinstance(parts, list) else ()


def _stem(image: Path) -> str:
    return image.name.removesuffix(".gz").removesuffix(".nii")


def _number(said: Mapping[str, Any], name: str) -> float | None:
    value = said.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 < value < np.inf else None
