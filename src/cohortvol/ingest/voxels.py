"""Voxels: numbers, and an image rather than nothing or a mask."""

from __future__ import annotations

import numpy as np

from cohortvol.errors import ScanError
from cohortvol.ingest.rules import Rules

_SAMPLE = 1 << 17


def check_voxels(voxels: np.ndarray, rules: Rules) -> tuple[float, float, list[str]]:
    """Smallest and largest voxel, and ``QC_...`` codes.

    Parameters
    ----------
    voxels : (K, J, I) array
        As stored, in the order of the file: the slowest axis first. It is not copied.
    rules : Rules
        Limits.

    Raises
    ------
    ScanError
        ``VOX_NONFINITE``, ``VOX_CONSTANT``, ``VOX_LOW_ENTROPY``, or ``QC_ZERO_SLICES``.
    """
    low, high = voxels.min(), voxels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = voxels.size - np.count_nonzero(np.isfinite(voxels))
        raise ScanError("VOX_NONFINITE", f"{bad} of {voxels.size} voxels, {bad / voxels.size:.2g}")
    if low == high:
        raise ScanError("VOX_CONSTANT", f"all {voxels.size} voxels are {low:g}")
    zeros = 1 - np.count_nonzero(voxels) / voxels.size
    if zeros > rules.max_zero_fraction:
        raise ScanError("VOX_LOW_ENTROPY", f"{100 * zeros:.2f} % of the voxels are 0")
    bits, levels = _foreground_entropy(voxels)
    if bits < rules.min_entropy_bits:
        raise ScanError(
            "VOX_LOW_ENTROPY",
            f"{bits:.2f} bits in {levels} values, under {rules.min_entropy_bits:g}; "
            "is it a label map?",
        )
    codes = _check_end_slices(voxels, rules)
    if np.count_nonzero(voxels == high) > rules.max_saturated_fraction * voxels.size:
        codes.append("QC_INTENSITY")
    return float(low), float(high), codes


def _foreground_entropy(voxels: np.ndarray) -> tuple[float, int]:
    """Bits per voxel without the commonest value, and the number of values, of a sample.

    Without it, as an image whose background was set to zero has little information in all.
    """
    step = max(1, voxels.size // _SAMPLE) | 1  # odd, so as not to walk along one column
    _, counts = np.unique(voxels.reshape(-1)[::step], return_counts=True)
    rest = np.delete(counts, counts.argmax())
    if not rest.size:
        return 0.0, 1
    share = rest / rest.sum()
    return float(abs((share * np.log2(share)).sum())), len(counts)


def _check_end_slices(voxels: np.ndarray, rules: Rules) -> list[str]:
    """Slices of zeros at either end, as a file cut off and padded long ago has them."""
    filled = [bool(part.any()) for part in voxels]
    empty = filled.index(True) + filled[::-1].index(True)
    if empty > rules.max_zero_slices_fraction * len(filled):
        raise ScanError("QC_ZERO_SLICES", f"{empty} of {len(filled)} slices, all at the ends")
    return ["QC_ZERO_SLICES"] if empty else []
