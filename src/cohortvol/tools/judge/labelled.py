"""Scans of a folder with label maps beside them, to measure a model on; and its card, to say so."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track

from cohortvol.anatomy.geometry import check_same_grid
from cohortvol.errors import ConfigError, GeometryError, ScanError
from cohortvol.models.card import CARD, Card, load_card
from cohortvol.models.files import read_object
from cohortvol.stages.segment.images import Image, read_unchecked
from cohortvol.store.channels import in_folders
from cohortvol.store.files import commit_json
from cohortvol.store.text_table import read_frame

LOG = logging.getLogger(__name__)

NAMES = "dseg.tsv"

Files = TypeVar("Files")
Found = TypeVar("Found")


def labelled_scans(folder: Path, card: Card) -> dict[str, tuple[list[Path], Path]]:
    """Images, see `channels_of`, and label map of every scan of a folder, by name.

    ``images/a.nii.gz`` goes with ``labels/a.nii.gz``, ``images/image_7.nii.gz`` with
    ``labels/label_7.nii.gz``.

    Raises
    ------
    ConfigError
        If there is no image, an image has no label map or lacks a channel, or the folder is one to
        train on.
    """
    if (folder / "cases.csv").is_file():
        raise ConfigError(
            f"{folder}: cases.csv says that this is a folder to train on\n"
            "  Intervals are worth what they are on scans that the network has not seen; "
            "`cohortvol train` calibrates its model out of fold by itself."
        )
    scans, alone = {}, []
    for image in sorted((folder / "images").glob("*.nii.gz")):
        name = image.name.removesuffix(".nii.gz")
        number = name.removeprefix("image_")
        places = [folder / "labels" / f"{stem}.nii.gz" for stem in (name, f"label_{number}")]
        found = [place for place in places if place.is_file()]
        if found:
            scans[number] = (channels_of(image, card), found[0])
        else:
            alone.append(image.name)
    if alone:
        raise ConfigError(f"{folder}: no label map in labels/ for {', '.join(alone[:5])}")
    if not scans:
        raise ConfigError(f"{folder}: no images/*.nii.gz to calibrate with")
    return scans


def channels_of(image: Path, card: Card) -> list[Path]:
    """The images of a scan that a model sees, the further ones from folders beside the first's.

    Raises
    ------
    ConfigError
        If one is not there.
    """
    images = in_folders(image, max(1, len(card.channels)))
    folders = ", ".join(one.parent.name for one in images)
    for channel, path in zip(card.channels, images, strict=False):
        if not path.is_file():
            raise ConfigError(
                f"{path}: not there; it would be {channel} of {image.name}\n"
                f"  Model {card.id} sees {', '.join(card.channels)} of a scan: images of one name\n"
                f"  in the folders {folders}, in this order."
            )
    return images


def read_channels(images: Sequence[Path], dtype: type[np.floating[Any]]) -> Image:
    """A scan as networks see it: (I, J, K) of one image, (I, J, K, channel) of several.

    Raises
    ------
    GeometryError
        If they are on different grids.
    ScanError
        If one cannot be read.
    """
    first, *others = (read_unchecked(image, dtype) for image in images)
    for path, one in zip(images[1:], others, strict=True):
        here, there = ((scan.data.shape, scan.affine) for scan in (first, one))
        check_same_grid(here, there, ("image", path.parent.name))
    if not others:
        return first
    return Image(np.stack([first.data, *(one.data for one in others)], axis=-1), first.affine)


def label_names(folder: Path, card: Card) -> dict[int, str]:
    """Structure of every index of the label maps: ``dseg.tsv`` of the folder, else the model's.

    Raises
    ------
    ConfigError
        If ``dseg.tsv`` has no columns ``index`` and ``name``, or names nothing the model knows.
    TableError
        If it cannot be read with certainty.
    """
    path = folder / NAMES
    if not path.is_file():
        return dict(card.labels)
    table = read_frame(path)
    try:
        names = {int(index): str(name) for index, name in table[["index", "name"]].to_numpy()}
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{path}: needs the columns index and name, tab-separated") from error
    if not set(names.values()) & set(card.labels.values()):
        raise ConfigError(
            f"{path}: names nothing that model {card.id} knows: {', '.join(card.labels.values())}"
        )
    return names


def of_every_scan(
    scans: Mapping[str, Files], measure: Callable[[Files], Found]
) -> Iterator[tuple[str, Found]]:
    """What is measured of each scan, by name, with a progress display.

    A scan that cannot be read or segmented is left out with a warning.

    Raises
    ------
    ConfigError
        If a label map or a further channel is on another grid than its image.
    """
    console = Console(stderr=True)
    for name, files in track(
        scans.items(), "segmenting", console=console, disable=not sys.stderr.isatty()
    ):
        try:
            found = measure(files)
        except ScanError as error:
            LOG.warning("%s: left out (%s)", name, error)
        except GeometryError as error:
            raise ConfigError(f"{name}: {error}") from error
        else:
            yield name, found


def read_labels(label_map: Path, scan: Image) -> np.ndarray:
    """(I, J, K) int64: a label map on the grid of its scan.

    Raises
    ------
    GeometryError
        If it is on another grid.
    ScanError
        If it cannot be read.
    """
    drawn = read_unchecked(label_map)
    check_same_grid((scan.data.shape[:3], scan.affine), (drawn.data.shape, drawn.affine))
    labels: np.ndarray = np.rint(drawn.data).astype(np.int64)
    return labels


def write_on_card(model: Path, name: str, value: Any) -> None:
    """Put a measurement on the card of a model in place of an earlier one; all else stays."""
    path = model / CARD
    card = read_object(path)
    commit_json(path, card | {name: value})
    load_card(model)
