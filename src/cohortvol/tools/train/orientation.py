"""Train the network that sees which way round a body lies: `cohortvol.models.orientation`.

Each picture is recoloured, moved, cut and shaded anew in every step, and has to be told from eleven
turned copies of itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from safetensors.numpy import save
from scipy.ndimage import uniform_filter
from torch import nn
from torch.nn import functional

from cohortvol.errors import ConfigError
from cohortvol.models.orientation import (
    STEP_MM,
    TURNS,
    N,
    from_torch,
    picture,
    scores,
)
from cohortvol.store.files import commit_bytes, commit_text, make_folder
from cohortvol.tools.train.precision import half_precision_where_native

log = logging.getLogger(__name__)

FINER = 2
"""Pictures are kept this many times as fine, to be moved."""
CHANNELS, HIDDEN = (16, 32, 48), 32
BATCH, COPIES = 6, 12
LEARNING_RATE, DROPPED = 3e-3, 0.3
SPEAKS_EVERY = 100
_LEFT_RIGHT = TURNS.index(((0, 1, 2), (True, False, False)))
_SAME_AXES = [n for n, (axes, _) in enumerate(TURNS) if n and axes == (0, 1, 2)]
_OTHERS = list(range(1, len(TURNS)))


class Scorer(nn.Module):
    """(B, 1, N, N, N) pictures to (B,) scores: how much each looks as it should."""

    def __init__(self) -> None:
        super().__init__()
        ins = (1, *CHANNELS)
        side = N
        for n, out in enumerate(CHANNELS, start=1):
            self.add_module(f"c{n}", nn.Conv3d(ins[n - 1], out, 3, stride=2, padding=1))
            side = (side + 1) // 2
        self.f1 = nn.Linear(CHANNELS[-1] * side**3, HIDDEN)
        self.f2 = nn.Linear(HIDDEN, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.score(self.features(x))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 48, 5, 5, 5) of them."""
        for n in range(1, len(CHANNELS) + 1):
            x = functional.relu(getattr(self, f"c{n}")(x))
        return x

    def score(self, features: torch.Tensor) -> torch.Tensor:
        """(B,) of the features."""
        x = functional.dropout(features.flatten(1), DROPPED, self.training)
        scored: torch.Tensor = self.f2(functional.relu(self.f1(x)))[:, 0]
        return scored


@dataclass(frozen=True)
class Examples:
    """Fine pictures by name, of scans and of simulated bodies, whose headers are right."""

    real: Mapping[str, np.ndarray]
    simulated: Mapping[str, np.ndarray]

    def without(self, names: Sequence[str]) -> Examples:
        """All but these scans."""
        return Examples({k: v for k, v in self.real.items() if k not in names}, self.simulated)

    def drawn(self, rng: np.random.Generator) -> np.ndarray:
        """A scan half of the time, where there are both."""
        kinds = [kind for kind in (self.real, self.simulated) if kind]
        kind = kinds[rng.integers(len(kinds))]
        return kind[list(kind)[rng.integers(len(kind))]]


def run(
    real: Path | None, simulated: Path | None, out: Path, steps: int, folds: int, seed: int,
    processes: int = 1,
) -> None:  # fmt: skip
    """Train on all images, and once without each fold of the real ones, which it then scores.

    Writes ``orientation.safetensors`` and, with `folds`, ``fold_<n>.safetensors`` and
    ``out_of_fold.csv``: the scores of every real scan in the 48 `TURNS`.

    Parameters
    ----------
    real, simulated : Path, optional
        Folders of NIfTI images whose headers are right, one for each person.
    out : Path
        Folder to write to.
    steps : int
        Of gradient descent, `BATCH` pictures each.
    folds : int
        Groups of real images; 0 for none.
    seed : int
        The same seed gives the same weights on the same kind of machine.
    processes : int
        Trainings at a time, on a thread each.
    """
    examples = Examples(_fine(real), _fine(simulated))
    if not examples.real and not examples.simulated:
        raise ConfigError("no image to train on: give --real, --simulated or both")
    if folds > len(examples.real):
        raise ConfigError(f"--folds {folds}: there are {len(examples.real)} real images")
    names = sorted(examples.real)
    held_out = {f"fold_{fold}": names[fold::folds] for fold in range(folds)}
    make_folder(out)
    unseen: list[dict[str, Any]] = []
    with ProcessPoolExecutor(
        processes, get_context("spawn"), initializer=_remember, initargs=(examples,)
    ) as pool:
        trained = {
            pool.submit(_fit, left_out, steps, seed + n, name): (name, left_out)
            for n, (name, left_out) in enumerate({**held_out, "orientation": []}.items())
        }
        for done in as_completed(trained):
            name, left_out = trained[done]
            state = done.result()
            commit_bytes(out / f"{name}.safetensors", save(state))
            weights = from_torch(state)
            for scan in left_out:
                scored = scores(_coarse(examples.real[scan]), weights)
                unseen.append({"scan": scan, **{str(n): one for n, one in enumerate(scored)}})
    if unseen:
        unseen.sort(key=lambda row: str(row["scan"]))
        commit_text(out / "out_of_fold.csv", pd.DataFrame(unseen).to_csv(index=False))


_examples: Examples
"""Of a process that trains: given once, for all its trainings."""


def _remember(examples: Examples) -> None:
    global _examples
    _examples = examples
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s")


def _fit(left_out: Sequence[str], steps: int, seed: int, name: str) -> dict[str, np.ndarray]:
    """Weights in half precision, trained without some scans."""
    net = fit(_examples.without(left_out), steps, seed, name)
    return {name: tensor.half().numpy() for name, tensor in net.state_dict().items()}


def _fine(folder: Path | None) -> dict[str, np.ndarray]:
    if folder is None:
        return {}
    found = {}
    for path in sorted(folder.rglob("*.nii*")):
        image: Any = nib.load(path)
        voxels = np.asanyarray(image.dataobj)
        voxels = voxels.reshape((*voxels.shape[:3], -1))[..., 0]
        fine = picture(voxels, image.affine, FINER * N, STEP_MM / FINER)
        found[path.name.partition(".")[0]] = fine
    return found


def _coarse(fine: np.ndarray) -> np.ndarray:
    coarse: np.ndarray = fine.reshape(N, FINER, N, FINER, N, FINER).mean(axis=(1, 3, 5))
    return coarse


def fit(examples: Examples, steps: int, seed: int, what: str) -> Scorer:
    """A network trained on these."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    net = Scorer()
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    right = torch.zeros(BATCH, dtype=torch.long)
    total = 0.0
    net.train()
    for step in range(1, steps + 1):
        pictures = [augmented(examples.drawn(rng), rng) for _ in range(BATCH)]
        copies = [one for each in pictures for one in _copies(each, rng)]
        stacked = torch.stack(copies)[:, None].contiguous(memory_format=torch.channels_last_3d)
        with half_precision_where_native():
            features = net.features(stacked)
        loss = functional.cross_entropy(net.score(features.float()).view(BATCH, -1), right)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        total += float(loss.detach())
        if step % SPEAKS_EVERY == 0:
            log.info("%s: step %d of %d, loss %.3f", what, step, steps, total / SPEAKS_EVERY)
            total = 0.0
    return net.eval()


def _copies(each: torch.Tensor, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    """A picture and turned copies of it, one of them mirrored left to right, and others on the same
    axes more often than on exchanged ones."""
    chosen = {_LEFT_RIGHT, *rng.choice(_SAME_AXES, 4, replace=False)}
    while len(chosen) < COPIES - 1:
        chosen.add(rng.choice(_OTHERS))
    yield each
    for n in sorted(chosen):
        axes, backwards = TURNS[n]
        yield each.permute(axes).flip([axis for axis in range(3) if backwards[axis]])


def augmented(fine: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """(N, N, N) picture of a body like this one, in another contrast, place, size and cut."""
    moved = _moved(_recoloured(fine, rng), rng)
    if rng.random() < 0.6:
        moved = _cut(moved, rng)
    inside = moved > 0
    if rng.random() < 0.5:
        moved = moved * torch.exp(_smooth((1, 3), 0.4, rng)[0])
    noise = rng.normal(0, rng.uniform(0, 0.05), moved.shape).astype(np.float32)
    grey = moved + torch.from_numpy(noise)
    if int(inside.sum()) < 50:
        return torch.where(inside, grey, 0)
    low, high = torch.quantile(grey[inside][::10], torch.tensor([0.02, 0.99]))
    return torch.where(inside, ((grey - low) / (high - low + 1e-6)).clamp(0, 1.2), 0)


def _recoloured(fine: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grey values mapped anew, in any order; the air most often stays dark."""
    kind = rng.random()
    if kind > 0.75:
        return fine
    knots = int(rng.integers(3, 6))
    to = rng.random(knots)
    if kind < 0.45:
        to = np.sort(to) if kind < 0.3 else np.sort(to)[::-1]
    to = (to - to.min()) / max(float(np.ptp(to)), 0.2)
    mapped = np.interp(fine, np.linspace(0, 1.2, knots), to).astype(np.float32)
    air = (fine < 0.06) if rng.random() < 0.8 else (fine == 0)
    return np.where(air, fine, mapped)


def _moved(fine: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Turned by up to 11 degrees, scaled, shifted and, half of the time, bent."""
    matrix = np.eye(3)
    for (a, b), angle in zip(((0, 1), (1, 2), (0, 2)), rng.uniform(-0.2, 0.2, 3), strict=True):
        turn = np.eye(3)
        turn[[a, a, b, b], [a, b, a, b]] = (
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        )
        matrix = matrix @ turn
    matrix = matrix @ np.diag(np.exp(rng.uniform(-0.18, 0.18) + rng.uniform(-0.06, 0.06, 3)))
    shift = rng.uniform(-0.25, 0.25, 3) * [0.6, 0.6, 1.0]
    # The last axis comes first where torch samples a grid.
    theta = np.concatenate([matrix[::-1, ::-1], shift[::-1, None]], axis=1)[None]
    grid = functional.affine_grid(
        torch.from_numpy(theta.astype(np.float32)), [1, 1, N, N, N], align_corners=False
    )
    if rng.random() < 0.5:
        grid = grid + _smooth((3, 4), 0.06, rng).permute(1, 2, 3, 0)
    soft = torch.from_numpy(uniform_filter(fine, 3, mode="constant"))
    return functional.grid_sample(soft[None, None], grid, align_corners=False)[0, 0]


def _cut(each: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A slab of 40 to 95 % of what there is along one axis, most often from feet to head."""
    axis = int(rng.choice(3, p=[0.2, 0.3, 0.5]))
    along = each.amax([other for other in range(3) if other != axis])
    seen = np.flatnonzero(along.numpy() > 0.02)
    if len(seen) <= 8:
        return each
    n = int(len(seen) * rng.uniform(0.4, 0.95))
    start = int(seen[0] + rng.integers(0, len(seen) - n + 1))
    kept = torch.zeros(N)
    kept[start : start + n] = 1
    return each * kept.view([-1 if other == axis else 1 for other in range(3)])


def _smooth(shape: tuple[int, int], spread: float, rng: np.random.Generator) -> torch.Tensor:
    """(channels, N, N, N) random field with so many knots along an axis."""
    channels, knots = shape
    coarse = rng.normal(0, spread, (1, channels, knots, knots, knots)).astype(np.float32)
    return functional.interpolate(
        torch.from_numpy(coarse), (N, N, N), mode="trilinear", align_corners=True
    )[0]
