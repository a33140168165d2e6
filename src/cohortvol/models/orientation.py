"""Which way round a body lies in an image, whatever its header says.

A small network scores how much a coarse picture looks like an abdomen that lies as the header
says. It scores all 48 ways of mirroring and turning the picture, so that what it says of an image
and of a mirrored copy of it are one judgement. `cohortvol train-orientation` makes its weights;
here they are run with numpy alone, as ingest has no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import permutations, product

import numpy as np
from safetensors.numpy import load

from cohortvol.anatomy.geometry import spacing_mm, to_ras

N = 36
"""Bins along each axis of a picture."""
STEP_MM = 11.0
"""Edge of a bin; a picture shows 396 mm."""
LEAST_MM = 120.0
"""Extent of an image along two axes, below which it shows too little."""
_SAMPLES = 3  # voxels of a bin that are looked at along an axis, where there are more
_COVERED = 0.25  # of a bin by the image, for it to be seen
_PERCENTILES = (2, 99)
_BRIGHTEST = 1.2

WHOLE_MM = (140.0, 170.0, 280.0)
"""Extents of a body, sorted, from which on it is a whole abdomen and no slab of one."""
_BODY = 0.25  # grey value of a bin that is no air
SHARPENED = 1.5
"""Factor of the scores of a whole abdomen. The network learns from pictures that are recoloured,
bent and cut, and is as unsure as these are. Of scans as they are, not trained on, the likelihood is
highest with 2.5 to 3; with this none that was called was wrong (`benchmarks/orientation.py`)."""
WRONG = 0.01
"""Share of headers that are wrong, before an image is looked at."""
SURE = 0.9
"""Probability from which on an image is said to lie as its header says, every way being equally
likely before; or not to, `WRONG` of them being wrong before."""

Turn = tuple[tuple[int, int, int], tuple[bool, bool, bool]]
"""For each axis of the turned picture, the axis that it was, and whether it runs backwards."""

TURNS: tuple[Turn, ...] = tuple(
    ((i, j, k), (back_i, back_j, back_k))
    for i, j, k in permutations((0, 1, 2))
    for back_i, back_j, back_k in product((False, True), repeat=3)
)
"""The 48 ways; the first leaves all as it is."""

Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Verdict:
    """What a picture looks like.

    Attributes
    ----------
    turn : Turn or None
        What would make it look as its header says: the first of `TURNS` where it does, None
        where that cannot be told.
    probability : float
        Of the likeliest turn, see `SURE`.
    """

    turn: Turn | None
    probability: float

    @property
    def is_turned(self) -> bool:
        """Whether the image surely does not lie as its header says."""
        return self.turn not in (None, TURNS[0])


def look(voxels: np.ndarray, affine: np.ndarray, weights: Weights | None = None) -> Verdict:
    """Judge an image.

    Parameters
    ----------
    voxels : (I, J, K) array
        Grey values on any scale; a few of them are read, none is changed.
    affine : (4, 4) array
        Voxel to RAS+ mm.
    weights : mapping, optional
        Those of the package if not given.
    """
    extents_mm = np.sort(spacing_mm(affine) * voxels.shape)
    if extents_mm[1] < LEAST_MM:
        return Verdict(None, 1 / len(TURNS))
    return judge(scores(picture(voxels, affine), weights or packaged()))


def picture(
    voxels: np.ndarray, affine: np.ndarray, n: int = N, step_mm: float = STEP_MM
) -> np.ndarray:
    """(n, n, n) mean grey values in bins of `step_mm` around the middle, along R, A and S.

    From 0, a low percentile, to `_BRIGHTEST`; 0 also where the image does not reach.
    """
    ras, ras_affine = to_ras(voxels, affine)
    edges_mm = spacing_mm(ras_affine)
    every = [max(1, int(step_mm / _SAMPLES / edge)) for edge in edges_mm]
    seen = ras[tuple(slice(None, None, step) for step in every)]
    shares = [
        _shares((np.arange(0, size, one) - (size - 1) / 2) * edge, edge * one, n, step_mm)
        for size, edge, one in zip(ras.shape, edges_mm, every, strict=True)
    ]
    total: np.ndarray = seen.astype(np.float32)
    for share in shares:  # the axis that is added up goes behind the others, in turn
        total = np.tensordot(total, share, axes=(0, 1))
    covered = [share.sum(axis=1) for share in shares]
    inside = np.einsum("i,j,k->ijk", *covered) > _COVERED * step_mm**3
    if not inside.any():
        return np.zeros((n, n, n), np.float32)
    means = total[inside] / np.einsum("i,j,k->ijk", *covered)[inside]
    low, high = np.percentile(means, _PERCENTILES)
    found = np.zeros((n, n, n), np.float32)
    found[inside] = np.clip((means - low) / max(high - low, 1e-6), 0, _BRIGHTEST)
    return found


def _shares(middles_mm: np.ndarray, edge_mm: float, n: int, step_mm: float) -> np.ndarray:
    """(n, samples) mm of each bin that each sample covers."""
    starts = (np.arange(n + 1) - n / 2) * step_mm
    low = np.maximum(starts[:-1, None], middles_mm - edge_mm / 2)
    high = np.minimum(starts[1:, None], middles_mm + edge_mm / 2)
    return np.asarray(np.clip(high - low, 0, None), np.float32)


def turned(volume: np.ndarray, turn: Turn) -> np.ndarray:
    """A view of a volume with its axes exchanged and reversed."""
    axes, backwards = turn
    steps = tuple(slice(None, None, -1 if reverse else 1) for reverse in backwards)
    return np.asarray(volume.transpose(axes)[steps])


def scores(volume: np.ndarray, weights: Weights) -> np.ndarray:
    """(48,) how much a picture, turned in each of the `TURNS`, looks as it should: log likelihoods
    but for a constant."""
    found = np.array([_score(turned(volume, turn), weights) for turn in TURNS])
    return found * (SHARPENED if _shows_whole(volume) else 1.0)


def _shows_whole(volume: np.ndarray) -> bool:
    body = volume > _BODY
    seen = [
        STEP_MM * np.count_nonzero(body.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)
    ]
    return all(mm >= least for mm, least in zip(sorted(seen), WHOLE_MM, strict=True))


def judge(scored: np.ndarray) -> Verdict:
    """What (48,) scores say: a header is believed where nothing speaks against it, and a picture
    where it speaks for itself."""
    likely = np.exp(scored - scored.max())
    best = int(likely.argmax())
    if best:
        likely[0] *= (1 - WRONG) / (WRONG / (len(TURNS) - 1))
    probability = float(likely[best] / likely.sum())
    return Verdict(TURNS[best] if probability >= SURE else None, probability)


def _score(volume: np.ndarray, weights: Weights) -> float:
    x = volume[..., None]
    for layer in ("c1", "c2", "c3"):
        x = _halved(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"])
    hidden = np.maximum(x.ravel() @ weights["f1.weight"] + weights["f1.bias"], 0)
    return float((hidden @ weights["f2.weight"] + weights["f2.bias"])[0])


def _halved(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Convolution 3 x 3 x 3 in steps of two, and what is below zero cut off; channels come last."""
    padded = np.pad(x, ((1, 1),) * 3 + ((0, 0),))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3, 3), axis=(0, 1, 2))
    every_second = windows[::2, ::2, ::2]  # (i, j, k, channel, 3, 3, 3)
    flat = every_second.reshape(*every_second.shape[:3], -1)
    found: np.ndarray = np.maximum(flat @ weight + bias, 0)
    return found


@cache
def packaged() -> Weights:
    """The weights that come with cohortvol."""
    return from_torch(
        load(files("cohortvol.models").joinpath("orientation.safetensors").read_bytes())
    )


def from_torch(state: Weights) -> Weights:
    """A state dict of `cohortvol.tools.train.orientation`, as matrices for channels that come last.

    A convolution (out, in, 3, 3, 3) becomes (in x 27, out); the first linear layer, of channels
    first, (5 x 5 x 5 x channels, out).
    """
    ours = {name: array.astype(np.float32) for name, array in state.items()}
    for layer in ("c1", "c2", "c3"):
        weight = ours[f"{layer}.weight"]
        ours[f"{layer}.weight"] = weight.reshape(len(weight), -1).T
    n = len(ours["c3.bias"])
    first = ours["f1.weight"]
    side = round((first.shape[1] / n) ** (1 / 3))
    first = first.reshape(len(first), n, side, side, side).transpose(2, 3, 4, 1, 0)
    ours["f1.weight"] = first.reshape(-1, first.shape[-1])
    ours["f2.weight"] = ours["f2.weight"].T
    return ours


# --- in words ----------------------------------------------------------------------------------

_ENDS = (("left", "right"), ("back", "front"), ("feet", "head"))
_MIRRORED = ("left to right", "front to back", "head to feet")


def in_words(turn: Turn) -> str:
    """What was done to an image that would have to be turned so to look as its header says."""
    axes, backwards = turn
    if axes == (0, 1, 2):
        reversed_axes = [axis for axis in range(3) if backwards[axis]]
        if not reversed_axes:
            return "as the header says"
        if len(reversed_axes) == 2:
            (still,) = set(range(3)) - set(reversed_axes)
            return (
                f"turned by 180 degrees about the axis from {_ENDS[still][0]} to {_ENDS[still][1]}"
            )
        return "mirrored " + " and ".join(_MIRRORED[axis] for axis in reversed_axes)
    places = ", ".join(
        f"{_ENDS[axis][1]} lies where the header says {_ENDS[old][0 if back else 1]}"
        for axis, (old, back) in enumerate(zip(axes, backwards, strict=True))
        if (axis, False) != (old, back)
    )
    return f"axes exchanged: {places}"
