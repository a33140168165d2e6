"""Fat and water confused in a Dixon image: organs of water beside the tissue that is bright."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

WATERY = ("liver", "spleen", "kidney_left", "kidney_right")
"""Organs that hold little fat in nearly everyone."""

PARTS = ("water", "fat")
"""Dixon images in which a swap can be told; in phase and opposed phase hold both."""

SWAP_RATIO = 0.35
"""Organs darker than this share of bright tissue hold the signal of fat, brighter ones of water."""


def is_swapped(
    image: np.ndarray,
    layers: Sequence[tuple[np.ndarray, Mapping[int, str]]],
    part: str,
    swap_ratio: float = SWAP_RATIO,
) -> bool:
    """Whether the water image of a Dixon acquisition shows fat, or the fat image water.

    In a water image the organs of `WATERY` are about as bright as whatever else is bright; in a
    fat image they are the darkest of the body beside bright fat. A water image is swapped when
    every organ that was found is darker than `swap_ratio` of the bright tissue, a fat image when
    every one is brighter: one fatty liver, or one dark with iron, does not make a swap. False
    where no organ was found, as then nothing can be said.

    The rule and its ratio are cohortvol's own, set on simulated images; see decision 14.

    Parameters
    ----------
    image : (I, J, K) array
        Grey values; air is near 0.
    layers : sequence of ((I, J, K) integer array, mapping of int to str)
        Label maps on the grid of the image, with label index to structure.
    part : str
        One of `PARTS`: what the image is called.
    swap_ratio : float
        Of the mean of an organ to the mean of bright tissue.
    """
    ratios = organ_ratios(image, layers)
    if not ratios:
        return False
    if part == "water":
        return max(ratios.values()) < swap_ratio
    return min(ratios.values()) > swap_ratio


def organ_ratios(
    image: np.ndarray, layers: Sequence[tuple[np.ndarray, Mapping[int, str]]]
) -> dict[str, float]:
    """Mean of each organ of `WATERY` over the mean of bright tissue outside all of them.

    Bright is what exceeds the mean of the whole image, which lies between air and body.
    """
    means = {}
    outside = np.ones(image.shape, dtype=bool)
    for label_map, structures in layers:
        for label, structure in structures.items():
            if structure in WATERY:
                mask = label_map == label
                outside &= ~mask
                if mask.any():
                    means[structure] = float(image[mask].mean(dtype=np.float64))
    bright = image[outside & (image > image.mean(dtype=np.float64))]
    if not bright.size:
        return {}
    reference = float(bright.mean(dtype=np.float64))
    return {structure: mean / reference for structure, mean in means.items()}
