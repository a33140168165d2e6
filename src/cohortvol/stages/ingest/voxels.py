"""Voxels: numbers, and an image rather than nothing, a mask, or an image with parts lost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from cohortvol.errors import ScanError
from cohortvol.stages.ingest.rules import Rules

_SAMPLE = 1 << 17
_BLOCK = 1 << 20  # voxels converted at a time

# How sound images were measured to be is in decision 36.
_SECTOR = 255  # voxels of 16 bits in a disk's sector of 512 bytes, less a torn one
_SEGMENT = 128  # voxels: every sector has a whole one
_FULL_PLANE = 0.5  # voxels that are no background, of the middle one of the image's planes
_SYSTEMATIC = 1 / 3  # of all slices repeated: the image was enlarged by repeating slices
_LARGE = 1 << 14  # voxels of a slice
_STEADY = 0.75  # brightness of one neighbour, of the other, where a slice between can be judged
_DARK, _BRIGHT = 0.6, 1.6  # brightness of a slice, of the mean of its neighbours
_FAR = 2.0  # distance to the nearer neighbour, of that between the neighbours
_FAR_END = 2.5  # distance of an end slice to the next, of that to the one after
_ABRUPT = 3.0  # step from row to row, of those beside it and above and below


def check_voxels(voxels: np.ndarray, rules: Rules) -> tuple[float, float, list[str]]:
    """Smallest and largest voxel, and ``QC_...`` and ``W_...`` codes.

    Parameters
    ----------
    voxels : (K, J, I) array
        As stored, in the order of the file: the slowest axis first. It is not copied.
    rules : Rules
        Limits.

    Raises
    ------
    ScanError
        ``VOX_NONFINITE``, ``VOX_CONSTANT``, ``VOX_LOW_ENTROPY``, ``VOX_HOLE``, ``VOX_REPEATED``
        or ``QC_ZERO_SLICES``.
    """
    lows, highs = voxels.min(axis=2), voxels.max(axis=2)  # of every row of every slice
    low, high = lows.min(), highs.max()
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
    empty = lows.min(axis=1) == highs.max(axis=1)
    codes = _check_end_slices(empty, rules)
    _check_holes(voxels, empty)
    codes += _check_repeats(voxels, lows, highs, empty)
    if _odd_slices(voxels, empty):
        codes.append("QC_ODD_SLICE")
    if np.count_nonzero(voxels[highs == high] == high) > rules.max_saturated_fraction * voxels.size:
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


def _check_end_slices(empty: np.ndarray, rules: Rules) -> list[str]:
    """Slices of one value at either end, as a file cut off and padded long ago has them."""
    filled = (~empty).tolist()
    n_empty = filled.index(True) + filled[::-1].index(True)
    if n_empty > rules.max_zero_slices_fraction * len(filled):
        raise ScanError("QC_ZERO_SLICES", f"{n_empty} of {len(filled)} slices, all at the ends")
    return ["QC_ZERO_SLICES"] if n_empty else []


def _check_holes(voxels: np.ndarray, empty: np.ndarray) -> None:
    """Parts of one value inside the image, as writes that were lost leave them.

    Slices are looked at along the slowest axis, wherever they lie, and along the others, as an
    image may have been turned since; between two of these air may lie, so both neighbours must be
    full. Pieces of a slice are looked at in the order in which the file holds them.
    """
    inner = _between(~empty) & empty
    if inner.any():
        raise ScanError("VOX_HOLE", f"{inner.sum()} of {len(empty)} slices inside hold one value")
    ends = voxels.min(axis=0), voxels.max(axis=0)
    for axis, name in ((1, "second"), (2, "first")):
        low, high = ends[0].min(axis=2 - axis), ends[1].max(axis=2 - axis)
        n_lost = _lost_planes(voxels, axis, low, high)
        if n_lost:
            detail = f"{n_lost} of {voxels.shape[axis]} planes of the {name} axis hold one value"
            raise ScanError("VOX_HOLE", detail)
    _check_segments(voxels, empty)


def _check_segments(voxels: np.ndarray, empty: np.ndarray) -> None:
    """A sector of one value, in the order of the file, where all around hold other values."""
    flat = voxels.reshape(len(voxels), -1)
    n = flat.shape[1] // _SEGMENT
    parts = flat[:, : n * _SEGMENT].reshape(len(voxels), n, _SEGMENT)
    first = parts[:, :, 0]
    is_flat = (first == parts[:, :, -1]) & (first == parts[:, :, _SEGMENT // 2])
    for k in np.flatnonzero(is_flat.any(axis=1)):  # few are left to be read in full
        maybe = is_flat[k].nonzero()[0]
        is_flat[k, maybe] = (parts[k, maybe] == first[k, maybe, None]).all(axis=1)
    beside = np.zeros_like(is_flat)
    beside[1:] |= is_flat[:-1]
    beside[:-1] |= is_flat[1:]
    for k, m in np.argwhere(is_flat & ~beside & ~empty[:, None]):
        value, filled = parts[k, m, 0], np.flatnonzero(~is_flat[k])
        at = int(np.searchsorted(filled, m))
        # The nearest on each side may be lost in part, so one of two will do.
        sides = [parts[k, side] for side in (filled[:at][-2:], filled[at:][:2]) if len(side) > 1]
        sides += [parts[one, m : m + 1] for one in (k - 1, k + 1) if 0 <= one < len(voxels)]
        others = [np.count_nonzero(side != value, axis=1).max() for side in sides]
        if len(sides) > 1 and min(others) >= _SEGMENT / 2:
            n_equal = _run_around(flat[k] == value, m * _SEGMENT)
            if n_equal >= _SECTOR:
                detail = f"{n_equal} voxels in a row hold one value, and none around them do"
                raise ScanError("VOX_HOLE", detail)


def _run_around(equal: np.ndarray, at: int) -> int:
    """Length of the run of True that holds an index."""
    others = np.flatnonzero(~equal)
    n = int(np.searchsorted(others, at))
    start = int(others[n - 1]) + 1 if n else 0
    return (int(others[n]) if n < len(others) else len(equal)) - start


def _between(filled: np.ndarray) -> np.ndarray:
    """Where something filled lies on both sides."""
    return np.logical_or.accumulate(filled) & np.logical_or.accumulate(filled[::-1])[::-1]


def _lost_planes(voxels: np.ndarray, axis: int, low: np.ndarray, high: np.ndarray) -> int:
    """Planes of one value along the second or third axis, whose neighbours are full."""
    filled = low != high
    inside = _between(filled) & ~filled
    if not inside.any():
        return 0
    planes = np.moveaxis(voxels, axis, 0)
    value = low[inside][0]
    n_voxels = np.array([np.count_nonzero(plane != value) for plane in planes])
    full = n_voxels >= _FULL_PLANE * np.median(n_voxels[filled])
    last = np.maximum.accumulate(np.where(filled, np.arange(len(filled)), -1))
    following = np.flatnonzero(filled)
    return sum(
        bool(full[last[n]] and full[following[np.searchsorted(following, n)]])
        for n in np.flatnonzero(inside)
    )


def _check_repeats(
    voxels: np.ndarray, lows: np.ndarray, highs: np.ndarray, empty: np.ndarray
) -> list[str]:
    """Slices with the very voxels of another: noise alone makes any two differ."""
    n_repeated = 0
    seen: dict[bytes, int] = {}
    for k in map(int, np.flatnonzero(~empty)):
        ends = lows[k].tobytes() + highs[k].tobytes()
        n_repeated += ends in seen and np.array_equal(voxels[k], voxels[seen[ends]])
        seen[ends] = k
    if n_repeated > _SYSTEMATIC * len(voxels):
        return ["W_REPEATED_SLICES"]
    if n_repeated:
        detail = f"{n_repeated} of {len(voxels)} slices hold the voxels of another"
        raise ScanError("VOX_REPEATED", detail)
    return []


def _odd_slices(voxels: np.ndarray, empty: np.ndarray) -> int:
    """Slices that are much brighter, darker or other than both of their neighbours.

    Judged on every fourth row and column of large slices; beside slices of one value nothing is.
    """
    step = 4 if voxels[0].size > _LARGE else 1
    sample = voxels[:, ::step, ::step].reshape(len(voxels), -1).astype(np.float32)
    sample -= sample.min()
    filled = ~empty
    brightness = sample.mean(axis=1)
    apart = np.abs(np.diff(sample, axis=0)).mean(axis=1)
    odd = 0
    for k in range(1, len(voxels) - 1):
        if not filled[k - 1 : k + 2].all():
            continue
        darker, brighter = sorted((brightness[k - 1], brightness[k + 1]))
        if darker < _STEADY * brighter or not brighter:
            continue
        share = 2 * brightness[k] / (darker + brighter)
        across = float(np.abs(sample[k + 1] - sample[k - 1]).mean())
        odd += not _DARK <= share <= _BRIGHT or min(apart[k - 1], apart[k]) > _FAR * across
    for end, following, further in ((0, 1, 2), (-1, -2, -3)):
        if len(voxels) > 3 and filled[[end, following, further]].all():
            odd += 0 < apart[following] < apart[end] / _FAR_END
    return int(odd)


def has_odd_rows(voxels: np.ndarray) -> bool:
    """Whether rows of a slice fit neither those above and below nor those of the slices beside.

    Where a piece of a slice was overwritten, the step from row to row is abrupt at its edges, and
    not so in the slices beside it.

    Parameters
    ----------
    voxels : (K, J, I) array
        Rows along the last axis.
    """
    if min(voxels.shape) < 3:
        return False
    steps = np.stack([_steps(part) for part in voxels])
    if not steps.any():
        return False
    beside = np.maximum(np.roll(steps, 1, axis=0), np.roll(steps, -1, axis=0))
    beside[0], beside[-1] = steps[1], steps[-2]
    beside = np.maximum.reduce([_shifted(beside, n) for n in (-1, 0, 1)])
    near = np.maximum(_shifted(steps, -2), _shifted(steps, 2))
    usual = np.maximum.reduce([beside, near, np.full_like(steps, np.median(steps[steps > 0]))])
    return bool((steps > _ABRUPT * usual).any())


def _steps(part: np.ndarray) -> np.ndarray:
    """Mean difference of each row of a slice from the one before, in a quarter of the columns."""
    return np.asarray(np.abs(np.diff(part[:, ::4].astype(np.float32), axis=0)).mean(axis=1))


def _shifted(steps: np.ndarray, n: int) -> np.ndarray:
    """Steps `n` rows away, those at the edge repeated."""
    return np.take(steps, np.clip(np.arange(steps.shape[1]) + n, 0, steps.shape[1] - 1), axis=1)


def digest_of_values(
    voxels: np.ndarray, slope: float, intercept: float, ends: Sequence[float]
) -> str:
    """sha256 of the grey values, however they are stored.

    Values that are all whole numbers are taken as the smallest of int16, int32 and int64 that holds
    them, others as float32, as they are read for segmentation; all of them little endian.

    Parameters
    ----------
    voxels : (K, J, I) array
        Finite, as stored.
    slope, intercept : float
        Grey value = slope x voxel + intercept.
    ends : sequence of 2 floats
        Smallest and largest grey value.
    """
    whole = next((kind for kind in ("<i2", "<i4", "<i8") if _holds(kind, *ends)), None)
    if whole is not None:
        digest = hashlib.sha256()
        for values in _values(voxels, slope, intercept):
            if values.dtype.kind == "f" and (values != np.rint(values)).any():
                break
            digest.update(np.ascontiguousarray(values.astype(whole, copy=False)).data)
        else:
            return digest.hexdigest()
    digest = hashlib.sha256()
    for values in _values(voxels, slope, intercept):
        digest.update(np.ascontiguousarray(values.astype("<f4") + np.float32(0)).data)  # -0 is 0
    return digest.hexdigest()


def _holds(kind: str, low: float, high: float) -> bool:
    limits = np.iinfo(kind)
    return limits.min <= low and high <= limits.max


def _values(voxels: np.ndarray, slope: float, intercept: float) -> Iterator[np.ndarray]:
    """Grey values, some slices at a time."""
    n = max(1, _BLOCK // max(1, voxels[0].size))
    for start in range(0, len(voxels), n):
        part = voxels[start : start + n]
        is_scaled = (slope, intercept) != (1.0, 0.0)
        yield part.astype(float) * slope + intercept if is_scaled else part
