"""Geometry of a header: one affine on which all readers agree, of a plausible size."""

from __future__ import annotations

from typing import Any

import numpy as np
from nibabel.quaternions import fillpositive, quat2mat

from cohortvol.anatomy.geometry import orientation, spacing_mm, voxel_volume_ml
from cohortvol.anatomy.nifti import ROUNDED_SHEAR
from cohortvol.errors import ScanError
from cohortvol.stages.ingest.rules import Rules

_MM = 2
_UNITS = {1: "metre", 3: "micrometre"}
_MAX_ZOOM_CONFLICT = 1e-3  # relative
_MAX_ANGLE_DEG = 1.0
_RIGHT_ANGLE = 1e-5  # cosine between two axes
_MAX_SHEAR_DEG = 2.0  # decision 42
_FLAT = 1e-3  # |det| of the unit axes, 1 at right angles
_QUATERNION_SLACK = -1e-5


def check_grid(
    fields: np.void, shape: tuple[int, int, int], rules: Rules
) -> tuple[np.ndarray, list[str]]:
    """Affine of a NIfTI header, voxel to RAS+ millimetres, and ``W_...`` codes.

    The sform where there is one, else the qform, as nibabel takes it; both must agree where
    both are given, and with the voxel sizes of ``pixdim``.

    Raises
    ------
    ScanError
        ``GEO_...``.
    """
    zooms = np.asarray(fields["pixdim"][1:4], float)
    if not np.all(np.isfinite(zooms) & (zooms > 0)):
        raise ScanError("GEO_PIXDIM", _lengths(zooms))
    warnings = _check_units(fields)
    sform = _sform(fields) if fields["sform_code"] > 0 else None
    qform = _qform(fields, zooms) if fields["qform_code"] > 0 else None
    if sform is not None:
        affine = sform
    elif qform is not None:
        affine = qform
    else:
        raise ScanError("GEO_NO_XFORM", "qform_code 0, sform_code 0")
    warnings += _check_axes(affine)
    if sform is not None:
        _check_agreement(sform, qform, zooms)
    return affine, warnings + _check_size(affine, shape, rules)


def describe_grid(shape: tuple[int, int, int], affine: np.ndarray) -> dict[str, Any]:
    """The grid columns of the ingest table."""
    i, j, k = (float(edge) for edge in spacing_mm(affine))
    return {
        "n_i": shape[0],
        "n_j": shape[1],
        "n_k": shape[2],
        "spacing_i_mm": i,
        "spacing_j_mm": j,
        "spacing_k_mm": k,
        "orientation": orientation(affine),
        "voxel_ml": voxel_volume_ml(affine),
    }


def _lengths(edges_mm: np.ndarray) -> str:
    return " x ".join(f"{edge:.4g}" for edge in edges_mm) + " mm"


def _check_units(fields: np.void) -> list[str]:
    unit = int(fields["xyzt_units"]) & 7
    if unit == 0:
        return ["W_UNITS_UNKNOWN"]
    if unit != _MM:
        raise ScanError("GEO_UNITS", _UNITS.get(unit, f"code {unit}"))
    return []


def _sform(fields: np.void) -> np.ndarray:
    rows = [np.asarray(fields[name], float) for name in ("srow_x", "srow_y", "srow_z")]
    affine = np.vstack([*rows, [0.0, 0.0, 0.0, 1.0]])
    if not np.isfinite(affine).all():
        raise ScanError("GEO_NONFINITE", "sform")
    return affine


def _qform(fields: np.void, zooms: np.ndarray) -> np.ndarray:
    """Affine of the quaternion; ``pixdim[0]`` below 0 turns the third axis round."""
    bcd = np.array([fields[f"quatern_{axis}"] for axis in "bcd"], float)
    origin = np.array([fields[f"qoffset_{axis}"] for axis in "xyz"], float)
    if not (np.isfinite(bcd).all() and np.isfinite(origin).all()):
        raise ScanError("GEO_NONFINITE", "qform")
    if 1.0 - bcd @ bcd < _QUATERNION_SLACK:
        raise ScanError("GEO_NONFINITE", f"qform: quaternion of length {np.sqrt(bcd @ bcd):.4g}")
    affine = np.eye(4)
    turn = quat2mat(fillpositive(bcd, _QUATERNION_SLACK))  # type: ignore[no-untyped-call, unused-ignore]
    affine[:3, :3] = turn * zooms * [1.0, 1.0, -1.0 if fields["pixdim"][0] < 0 else 1.0]
    affine[:3, 3] = origin
    return affine


def _check_axes(affine: np.ndarray) -> list[str]:
    """Three axes at right angles, or nearly so."""
    edges = spacing_mm(affine)
    if not np.all(edges > 0):
        raise ScanError("GEO_SINGULAR", _lengths(edges))
    axes = affine[:3, :3] / edges
    flatness = abs(np.linalg.det(axes))
    if flatness < _FLAT:
        raise ScanError("GEO_SINGULAR", f"determinant of the axes {flatness:.2g}")
    shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if np.degrees(np.arcsin(shear)) > _MAX_SHEAR_DEG:
        angle = np.degrees(np.arccos(shear))
        raise ScanError("GEO_SHEAR", f"{angle:.2f} degrees between two axes")
    if shear > ROUNDED_SHEAR:
        return ["W_SHEAR"]
    return ["W_SHEAR_ROUNDED"] if shear > _RIGHT_ANGLE else []


def _check_agreement(sform: np.ndarray, qform: np.ndarray | None, zooms: np.ndarray) -> None:
    """The sform's voxel size is that of pixdim, its axes are those of the qform."""
    edges = spacing_mm(sform)
    if np.any(np.abs(edges / zooms - 1) > _MAX_ZOOM_CONFLICT):
        raise ScanError(
            "GEO_ZOOM_CONFLICT",
            f"sform {_lengths(edges)} = {edges.prod():.4g} mm3, "
            f"pixdim {_lengths(zooms)} = {zooms.prod():.4g} mm3",
        )
    if qform is None:
        return
    cosines = np.sum((sform[:3, :3] / edges) * (qform[:3, :3] / zooms), axis=0)
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    if angles.max() > _MAX_ANGLE_DEG:
        raise ScanError("GEO_XFORM_CONFLICT", f"axes up to {angles.max():.1f} degrees apart")


def _check_size(affine: np.ndarray, shape: tuple[int, int, int], rules: Rules) -> list[str]:
    edges = spacing_mm(affine)
    low, high = rules.spacing_range_mm
    if edges.min() < low or edges.max() > high:
        raise ScanError("GEO_SPACING_RANGE", f"{_lengths(edges)}, not {low:g} to {high:g} mm")
    extent = edges * shape
    low, high = rules.fov_range_mm
    if extent.min() < low or extent.max() > high:
        raise ScanError("GEO_FOV_RANGE", f"{_lengths(extent)}, not {low:g} to {high:g} mm")
    return ["W_ANISOTROPIC"] if edges.max() / edges.min() > rules.max_anisotropy else []
