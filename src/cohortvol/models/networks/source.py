"""What becomes a part of a model: a trained nnU-Net, and the earlier stage that a cascade needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cohortvol.errors import ModelError
from cohortvol.models.networks.unpacking import has_training
from cohortvol.models.postprocessing import Steps


@dataclass(frozen=True)
class Source:
    """A trained nnU-Net v2 that becomes one part of a model.

    Attributes
    ----------
    place : Path
        ``Trainer__Plans__3d_fullres`` with ``plans.json``, ``dataset.json`` and
        ``fold_N/checkpoint_final.pth``; or a folder or a zip that holds such.
    part : str
        Name of the part.
    folds : sequence of str
        Which folds to import, such as ``["0"]``; all that have the checkpoint if empty.
    sha256 : str, optional
        Of the zip, or of the checkpoint where `place` is a folder with one fold.
    training : str, optional
        Which one where `place` holds several: ``Trainer__Plans__3d_fullres``, or ``3d_fullres``.
    expected_labels : mapping of int to str, optional
        Label index to name that ``dataset.json`` must have, exactly.
    by_index : bool
        Take the names of `expected_labels` for those of ``dataset.json``, which need only have the
        same indices, and no name of another label.
    weights_version : float, optional
        What ``version.json`` beside the weights must say, where there is one.
    rename : mapping of str to str
        Names of ``dataset.json`` to structure names of this project.
    drop : collection of str
        Names of ``dataset.json`` that are no result: background in the label map.
    tile_step, layer, crop, margin_mm, spacing_mm, keep_largest
        See `cohortvol.models.part.Part`.
    mirrors : bool
        Whether whoever published it mirrors patches where the training allows it, as
        ``nnUNetv2_predict`` does.
    previous : Path, optional
        Where the earlier stage of a cascade lies; in `place` or beside it if not given.
    """

    place: Path
    part: str = "main"
    folds: Sequence[str] = ()
    sha256: str | None = None
    expected_labels: Mapping[int, str] | None = None
    by_index: bool = False
    weights_version: float | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    drop: Collection[str] = ()
    tile_step: float | None = None
    layer: int = 0
    mirrors: bool = True
    training: str | None = None
    crop: tuple[str, ...] = ()
    margin_mm: float | None = None
    spacing_mm: tuple[float, float, float] | None = None
    keep_largest: Steps = ()
    previous: Path | None = None


def stage_before(source: Source, trained: Path, stage: str) -> Source:
    """The earlier stage of a cascade, to become a part by itself.

    Parameters
    ----------
    source : Source
        The cascade.
    trained : Path
        The folder with its plans.
    stage : str
        The configuration that these plans name.

    Raises
    ------
    ModelError
        If it is not given, and neither in the zip nor beside the folder.
    """
    before = replace(source, part=f"{source.part}_before", sha256=None, keep_largest=())
    if source.previous is not None:
        alone = (source.previous / "plans.json").is_file()
        return replace(before, place=source.previous, training=None if alone else stage)
    if source.place.is_file():
        if has_training(source.place, stage):
            return replace(before, training=stage)
    elif trained.name.count("__") == 2:
        beside = trained.with_name("__".join([*trained.name.split("__")[:2], stage]))
        if (beside / "plans.json").is_file():
            return replace(before, place=beside, training=None)
    raise ModelError(
        f"{source.place}: a cascade, which sees what {stage} found, and that is not with it; say "
        f"where it is: --previous FOLDER, the results folder that ends in __{stage}"
    )
