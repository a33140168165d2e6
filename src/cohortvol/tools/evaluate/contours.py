"""The worst and the best scan, expert green, models red, as in the TotalSegmentator MRI study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cohortvol.anatomy.geometry import spacing_mm, to_ras
from cohortvol.drawing import style
from cohortvol.tools.evaluate.labels import LabelMap
from cohortvol.tools.evaluate.plots import Plot

EXPERT, MODEL = "#00e05a", "#ff3b30"
"""That study's colours; the model's line is broken besides, for who cannot tell them apart."""

_PANEL_MM = 58.0
_WINDOW_PERCENTILES = (1.0, 99.0)


@dataclass(frozen=True)
class Picture:
    """One scan with the label maps of the expert and of the models that have one.

    Attributes
    ----------
    scan_id : str
        The scan.
    grey : (I, J, K) array or None
        The image; None where there is none.
    grey_affine : (4, 4) array or None
        Of the image.
    expert : LabelMap
        What the expert drew.
    models : mapping of str to LabelMap
        By name of the model.
    dice : mapping of str to float
        Mean over the structures of this scan, by model.
    """

    scan_id: str
    grey: np.ndarray | None
    grey_affine: np.ndarray | None
    expert: LabelMap
    models: Mapping[str, LabelMap]
    dice: Mapping[str, float]


def extremes(pairs: pd.DataFrame) -> list[tuple[str, dict[str, float]]]:
    """The scans of the lowest and the highest Dice, with the mean Dice of each model.

    The mean over structures and models decides; only one scan where there is only one.
    """
    values = pairs[pairs["dice"].notna()]
    if values.empty:
        return []
    means = values.groupby("scan_id")["dice"].mean().sort_values(kind="stable")
    chosen = dict.fromkeys((str(means.index[0]), str(means.index[-1])))
    return [
        (scan, values[values["scan_id"] == scan].groupby("model")["dice"].mean().to_dict())
        for scan in chosen
    ]


def contour_figure(pictures: Sequence[Picture], models: Sequence[str]) -> Plot:
    """A row per scan, lowest Dice first, a column per model, all of one axial slice."""
    width_mm = min(style.DOUBLE_COLUMN_MM, _PANEL_MM * len(models) + 8)
    panel_mm = (width_mm - 8) / len(models)
    views = [_View(picture) for picture in pictures]
    heights_mm = [panel_mm * view.height_mm / view.width_mm for view in views]
    scale = min(1.0, (style.MAX_HEIGHT_MM - 9 * len(views) - 2) / sum(heights_mm))
    heights_mm = [height * scale for height in heights_mm]
    total_mm = sum(heights_mm) + 9 * len(views) + 2
    figure = style.new_figure(width_mm, total_mm)
    rows = []
    top = total_mm
    for view, height_mm, which in zip(views, heights_mm, ("Lowest", "Highest"), strict=False):
        top -= 9 + height_mm
        for column, model in enumerate(models):
            axis = figure.add_axes(
                (
                    (4 + column * panel_mm) / width_mm,
                    top / total_mm,
                    (panel_mm - 1.5) / width_mm,
                    height_mm / total_mm,
                )
            )
            dice = view.picture.dice.get(model)
            axis.set_title(
                f"{model}\n{which} scan: Dice {style.number(dice, 3)}", loc="left", pad=2
            )
            view.draw(axis, model)
            rows.append(
                {"case": which.lower(), "scan_id": view.picture.scan_id, "model": model,
                 "dice": dice, "slice": view.slice, "slices": view.n_slices}
            )  # fmt: skip
    return Plot(figure, pd.DataFrame(rows))


class _View:
    """One axial slice of a picture, x to the left of the person on the right."""

    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        expert, affine = _ras(picture.expert)
        areas = (expert > 0).reshape(*expert.shape[:3], -1).any(axis=-1).sum(axis=(0, 1))
        self.slice = int(np.argmax(areas))
        self.n_slices = expert.shape[2]
        self.edges_mm = spacing_mm(affine)
        self.width_mm, self.height_mm = expert.shape[:2] * self.edges_mm[:2]
        self.expert = expert[:, :, self.slice]
        self.grey, self.why_black = self._grey(expert.shape[:3])

    def _grey(self, shape: tuple[int, ...]) -> tuple[np.ndarray, str | None]:
        """The slice of the image; black, and why, where there is none on this grid."""
        black = np.zeros(shape[:2])
        if self.picture.grey is None or self.picture.grey_affine is None:
            return black, "no image"
        grey, _ = to_ras(self.picture.grey, self.picture.grey_affine)
        if grey.shape != shape:
            return black, "image of another grid"
        return np.asarray(grey[:, :, self.slice]), None

    def draw(self, axis: Axes, model: str) -> None:
        """Image, the expert's outlines, and those of a model that has a label map."""
        axis.set_axis_off()
        low, high = np.percentile(self.grey, _WINDOW_PERCENTILES)
        extent = (0.0, float(self.width_mm), 0.0, float(self.height_mm))
        axis.imshow(
            self.grey.T, origin="lower", cmap="gray", extent=extent, aspect="equal",
            vmin=low, vmax=max(high, low + 1e-6), interpolation="bilinear",
        )  # fmt: skip
        if self.why_black:
            _note(axis, 0.93, self.why_black)
        self._outline(axis, self.expert, EXPERT, "-", self.picture.expert)
        if model in self.picture.models:
            label_map = self.picture.models[model]
            labels, _ = _ras(label_map)
            self._outline(axis, labels[:, :, self.slice], MODEL, (0, (3, 1.2)), label_map)
        else:
            _note(axis, 0.04, "no label map")
        axis.set_xlim(self.width_mm, 0.0)  # the right of the person is on the left
        axis.set_ylim(0.0, self.height_mm)

    def _outline(
        self, axis: Axes, plane: np.ndarray, colour: str, line: object, label_map: LabelMap
    ) -> None:
        """Outlines of the structures that the expert's vocabulary names."""
        centres = [
            (np.arange(n) + 0.5) * edge
            for n, edge in zip(plane.shape[:2], self.edges_mm[:2], strict=True)
        ]
        for structure in self.picture.expert.labels:
            label = label_map.labels.get(structure)
            if label is None:
                continue
            mask = (plane == label).reshape(*plane.shape[:2], -1).any(axis=-1)
            if mask.any() and not mask.all():
                axis.contour(
                    *centres, mask.T.astype(float), levels=[0.5], colors=[colour],
                    linewidths=0.8, linestyles=[line],
                )  # fmt: skip


def _note(axis: Axes, height: float, text: str) -> None:
    axis.text(0.5, height, text, transform=axis.transAxes, ha="center", color="white")


def _ras(label_map: LabelMap) -> tuple[np.ndarray, np.ndarray]:
    return to_ras(label_map.voxels, label_map.affine)
