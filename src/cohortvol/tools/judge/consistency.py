"""How steady labels are when grey values change and the anatomy does not: an error without labels.

A network that is sure of an organ finds it again where the image is a little darker, noisier or
lit unevenly. The Dice of a structure between the scan and its altered copies is its agreement. On
labelled scans new to the network agreement is set against the true Dice, which says what it tells.
Images are not mirrored: to a network that was trained without mirroring, so that it does not
exchange left and right, a body with the liver on its left is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.anatomy.overlap import Overlap, overlap_by_structure
from cohortvol.drawing import style
from cohortvol.errors import ConfigError
from cohortvol.models.card import FOLD_MODEL, Card, choose_profile, load_card
from cohortvol.models.inference import recipe_of
from cohortvol.stages.segment.infer import Segmenter
from cohortvol.store.files import commit_text
from cohortvol.store.schemas import Column, real, text
from cohortvol.store.tables import csv_text, write_table
from cohortvol.tools.judge.expectation import ON_CARD, Expectation, expectation, figure_of, left_out
from cohortvol.tools.judge.labelled import (
    channels_of,
    label_names,
    labelled_scans,
    of_every_scan,
    read_channels,
    read_labels,
    write_on_card,
)

GREY_PERCENTILES = (0.5, 99.5)
"""Between which grey values of a scan alterations are measured."""
SHADING = 0.3
"""Share by which one end of the image gets darker and the other brighter."""
NOISE = 0.03
"""Standard deviation, as a share of the range of grey values."""

CONSISTENCY = {
    "scan": Column(text, "image without its ending"),
    "structure": Column(text, "anatomical structure"),
    "agreement": Column(real, "mean Dice of the altered copies against the scan as it is"),
    "agreement_least": Column(real, "least of these Dice"),
    "volume_spread_pct": Column(
        real, "largest less smallest volume of all copies, % of the volume as it is"
    ),
    "dice": Column(real, "against the label map given; null where it has none of the structure"),
    "dice_expected": Column(
        real,
        "Dice that labelled scans of this agreement had, of those given the others'; null where "
        "nobody has measured it",
    ),
}
"""Columns of a table of consistency."""


def _gamma(power: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    def altered(share: np.ndarray, _random: np.random.Generator) -> np.ndarray:
        return np.where(share > 0, np.abs(share) ** power, share)

    return altered


def _shaded(share: np.ndarray, _random: np.random.Generator) -> np.ndarray:
    ramp = np.linspace(1 - SHADING, 1 + SHADING, share.shape[1])
    return share * ramp[None, :, None]


def _noisy(share: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return share + NOISE * random.standard_normal(share.shape)


ALTERATIONS: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "darker": _gamma(1.4),
    "brighter": _gamma(0.7),
    "shaded": _shaded,
    "noisy": _noisy,
}
"""What is done to a scan whose grey values are brought to 0 to 1 from the least to the greatest of
`GREY_PERCENTILES`: powers, shading along the second axis, and normal noise of a fixed seed."""


def altered_copies(data: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """A scan under each of `ALTERATIONS`, in its own range of grey values.

    Parameters
    ----------
    data : (I, J, K) or (I, J, K, channel) float array
        A scan of one grey value is given back as it is, but for the noise. Of several channels
        each is altered by itself, all of them in the same way.
    """
    channels = data[..., np.newaxis] if data.ndim == 3 else data
    low, high = np.percentile(channels, GREY_PERCENTILES, axis=(0, 1, 2))
    width = np.where(high > low, high - low, 1.0)
    share = (channels - low) / width
    for place, (name, alter) in enumerate(ALTERATIONS.items()):
        random = np.random.default_rng(place)
        moved = np.stack([alter(one, random) for one in np.moveaxis(share, -1, 0)], axis=-1)
        yield name, (low + width * moved).astype(data.dtype).reshape(data.shape)


def consistency_of(
    segmenter: Segmenter, data: np.ndarray, affine: np.ndarray
) -> tuple[pd.DataFrame, np.ndarray]:
    """Agreement of every structure that is found in a scan or in any altered copy of it.

    Parameters
    ----------
    data : (I, J, K) or (I, J, K, channel) float array
    affine : (4, 4) float array
        Voxel indices to RAS+ millimetres.

    Returns
    -------
    table : pandas.DataFrame
        ``structure, agreement, agreement_least, volume_spread_pct``, the last null where the scan
        as it is has none of the structure.
    label_map : integer array
        Of the scan as it is, from `Segmenter.segment`.
    """
    labels, _ = segmenter.segment(data, affine)
    index_of = {structure: label for label, structure in segmenter.card.labels.items()}
    found: dict[str, list[Overlap]] = {structure: [] for structure in index_of}
    for _, copy in altered_copies(data):
        again, _ = segmenter.segment(copy, affine)
        for structure, overlap in overlap_by_structure(labels, index_of, again, index_of).items():
            found[structure].append(overlap)
    rows: list[dict[str, Any]] = []
    for structure, overlaps in found.items():
        as_is = overlaps[0].n_first
        n_voxels = [as_is, *(one.n_second for one in overlaps)]
        if any(n_voxels):
            dice = np.nan_to_num([one.dice for one in overlaps], nan=1.0)  # neither has any of it
            spread = 100 * (max(n_voxels) - min(n_voxels)) / as_is if as_is else None
            rows.append(
                {
                    "structure": structure,
                    "agreement": float(dice.mean()),
                    "agreement_least": float(dice.min()),
                    "volume_spread_pct": spread,
                }
            )
    return pd.DataFrame(rows), labels


def run(
    model: Path,
    folder: Path,
    out: Path,
    *,
    labelled: bool,
    write: bool = False,
    profile: str | None = None,
    note: str = "",
    device: str = "auto",
    threads: int = 0,
) -> tuple[pd.DataFrame, Expectation | None]:
    """Agreement of every scan of a folder, and the Dice to expect of it; see `save`.

    Parameters
    ----------
    model : Path
        Model folder.
    folder : Path
        Of scans: see `scans_of`, and where they are `labelled`
        `cohortvol.tools.judge.labelled.labelled_scans`. Or what `cohortvol train` left of its
        folds, see `fold_folders`: there each scan is segmented by the network that has not seen it.
    write : bool
        Put what agreement tells on the model's card, where scans are labelled.
    profile, device, threads
        As for `Segmenter.load`.
    note : str
        For the card: which scans.

    Returns
    -------
    table : pandas.DataFrame
        Rows of CONSISTENCY.
    expected : Expectation or None
        Of the labelled scans; without, what the card says.

    Raises
    ------
    ConfigError
        If there are no usable scans, or too few that are labelled.
    """
    recipe = recipe_of(choose_profile(load_card(model), profile).name)
    expected = Expectation.of_card(model, recipe)

    def of(network: Path, scans: Path) -> pd.DataFrame:
        segmenter = Segmenter.load(network, recipe, device=device, threads=threads)
        card = segmenter.card
        if not labelled:
            return measured(segmenter, scans_of(scans, card), {})
        return measured(segmenter, labelled_scans(scans, card), label_names(scans, card))

    folds = fold_folders(folder) if labelled else []
    if folds:
        found = pd.concat([of(fold / FOLD_MODEL, fold) for fold in folds], ignore_index=True)
    else:
        found = of(model, folder)
    if labelled:
        expected = expectation(found, recipe, note)
        found["dice_expected"] = left_out(found[found["dice"].notna()])
        if write:
            write_on_card(model, ON_CARD, asdict(expected))
    elif expected is not None:
        found["dice_expected"] = expected.of(found["agreement"].to_numpy())
    save(found, expected, out)
    return found, expected


def fold_folders(folder: Path) -> list[Path]:
    """Folders of the folds of a training: each holds a model and scans that are new to it."""
    return sorted(path.parent for path in folder.glob(f"*/{FOLD_MODEL}") if path.is_dir())


def measured(
    segmenter: Segmenter,
    scans: Mapping[str, tuple[Sequence[Path], Path | None]],
    names: Mapping[int, str],
) -> pd.DataFrame:
    """Rows of CONSISTENCY for some scans, without what to expect.

    Parameters
    ----------
    scans : mapping of str to tuple
        Images of each scan, one for each channel, and its label map where there is one.
    names : mapping of int to str
        Structure of each index of the label maps.

    Raises
    ------
    ConfigError
        If no scan could be segmented, or a label map or channel is on another grid than its image.
    """
    own = {structure: label for label, structure in segmenter.card.labels.items()}
    theirs = {structure: index for index, structure in names.items()}

    def of_one(files: tuple[Sequence[Path], Path | None]) -> pd.DataFrame:
        images, label_map = files
        scan = read_channels(images, segmenter.dtype)
        table, labels = consistency_of(segmenter, scan.data, scan.affine)
        if label_map is not None and len(table):
            overlaps = overlap_by_structure(labels, own, read_labels(label_map, scan), theirs)
            drawn = {name: one.dice for name, one in overlaps.items() if one.n_second}
            table["dice"] = table["structure"].map(drawn)
        return table

    tables = [table.assign(scan=name) for name, table in of_every_scan(scans, of_one)]
    if not any(len(table) for table in tables):
        raise ConfigError(f"no structure of model {segmenter.card.id} was found in any scan")
    return pd.concat(tables, ignore_index=True).reindex(columns=list(CONSISTENCY))


def scans_of(folder: Path, card: Card) -> dict[str, tuple[list[Path], Path | None]]:
    """Images of a folder, or of ``images/`` in it, see `channels_of`, without label maps.

    Raises
    ------
    ConfigError
        If there are none, or one lacks a channel.
    """
    inside = folder / "images"
    images = sorted((inside if inside.is_dir() else folder).glob("*.nii.gz"))
    if not images:
        raise ConfigError(f"{folder}: no *.nii.gz, nor images/*.nii.gz in it")
    return {
        image.name.removesuffix(".nii.gz"): (channels_of(image, card), None) for image in images
    }


def by_structure(found: pd.DataFrame) -> pd.DataFrame:
    """Medians of rows of CONSISTENCY by structure, and how many scans there are."""
    medians = found.drop(columns="scan").groupby("structure", sort=False)
    table = medians.median().dropna(axis="columns", how="all")
    table.insert(0, "n", medians.size())
    return table.reset_index()


def save(found: pd.DataFrame, expected: Expectation | None, out: Path) -> None:
    """Write ``consistency.parquet`` and ``.csv``; with labelled scans the figure of what it tells.

    Parameters
    ----------
    found : pandas.DataFrame
        Rows of CONSISTENCY.
    expected : Expectation, optional
        The line to draw through the labelled scans.
    """
    write_table(out / "consistency.parquet", found, CONSISTENCY)
    commit_text(out / "consistency.csv", csv_text(found))
    known = found[found["dice"].notna()]
    if expected is None or known.empty:
        return
    with style.journal_style():
        figure = figure_of(known, expected)
        style.save_figure(figure, out / "agreement", known, _caption(known, expected))


def _caption(known: pd.DataFrame, expected: Expectation) -> str:
    return (
        f"Dice of {len(known)} structures in {known['scan'].nunique()} labelled scans against "
        "their agreement, the mean Dice between the scan and four copies of other grey values "
        f"({', '.join(ALTERATIONS)}). Line: isotonic regression of all structures; the expected "
        f"Dice of a scan left out is off by {expected.error:.3f} in the mean. Spearman's "
        f"correlation {expected.correlation_text}."
    )
