"""Import a trained nnU-Net v2 folder or zip as a model folder: once, offline, checked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cohortvol.errors import ModelError
from cohortvol.models.card import (
    AS_STORED,
    CARD,
    Card,
    card_json,
    load_card,
    plans_files,
)
from cohortvol.models.catalogue import KnownModel, KnownWeights
from cohortvol.models.channels import channels_of
from cohortvol.models.files import (
    check_id,
    problems,
    read_object,
    schema,
    shown,
)
from cohortvol.models.folders import read_plans
from cohortvol.models.inference import FAST, SOFTMAX, UNMIRRORED
from cohortvol.models.networks.axes import (
    axes_wanted,
    only_one,
)
from cohortvol.models.networks.checkpoints import (
    CHECKPOINT,
)
from cohortvol.models.networks.importing import import_parts
from cohortvol.models.networks.source import Source
from cohortvol.store.files import commit_json
from cohortvol.store.storage import temporary_beside


def import_nnunet(
    sources: Sequence[Source],
    out: Path,
    *,
    model_id: str,
    licence: str,
    title: str = "",
    origin: str = "",
    citation: str = "",
    orientation: str | None = None,
    stored_axes: str | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    profiles: Sequence[str] | None = None,
    checkpoint: str = "checkpoint_final.pth",
    accuracy: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    volume_interval: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    ensemble: bool = False,
) -> Card:
    """Make a model folder out of trained nnU-Nets, one part each.

    A cascade brings its earlier stage with it, as a part before it.

    A checkpoint is opened once with ``weights_only=True``; anything but tensors and numpy
    scalars in it is refused, without a second try. The model folder appears whole or not at
    all, and only after its weights, read back, gave bit-equal logits on a fixed patch.

    Parameters
    ----------
    sources : sequence of Source
        In the order of the parts: where two claim a voxel, the later one wins. The label indices
        of the model count their structures in this order.
    out : Path
        The model folder to make; it must not exist.
    model_id, licence, title, origin, citation, accuracy, notes, volume_interval, training
        For the card. `origin` is its ``source``.
    orientation, stored_axes, spacing_mm
        How the model wants its scans; see `Card`. If not given, the first is what ``dataset.json``
        or the reader that the plans name says, the second what label maps of validation tell.
    profiles : sequence of str
        Inference profiles the model offers, the default first; with a `volume_interval` the
        default keeps what intervals are made of. If not given, those of nnU-Net and `FAST`.
    checkpoint : str
        Name of the checkpoint in every fold.
    ensemble : bool
        Average the probabilities of all sources, as ``nnUNetv2_ensemble`` does.

    Returns
    -------
    Card
        Of the folder made.

    Raises
    ------
    ModelError
        If anything is missing, unsafe, not as expected, or not reproduced.
    """
    out = Path(out)
    check_id(model_id)
    if not CHECKPOINT.fullmatch(checkpoint):
        raise ModelError(f"checkpoint {shown(checkpoint)!r}: a name such as checkpoint_final.pth")
    said = {"title": title, "licence": licence, "source": origin, "citation": citation}
    if wrong := problems(said, {**schema("card"), "required": []}):
        raise ModelError(f"model {model_id}: {wrong[0]}")
    if out.exists():
        raise ModelError(f"{out} exists already; choose another name or delete it")
    temporary, alone = temporary_beside(out), not out.parent.exists()
    try:
        parts, axes_known = import_parts(sources, temporary, checkpoint, ensemble)
        orientation = orientation or axes_wanted(temporary, parts)
        if orientation == AS_STORED and stored_axes is None:
            stored_axes = only_one(axes_known)
        if profiles is None:
            unmirrored = [UNMIRRORED] if any(part.mirror_axes for part in parts) else []
            profiles = ["nnunet", *unmirrored, FAST]
        channels = {channels_of(read_object(temporary / plans_files(part)[1])) for part in parts}
        if len(channels) > 1:
            raise ModelError(f"the networks see other channels: {sorted(channels)}")
        structures = dict.fromkeys(name for part in parts for name in part.labels.values())
        card = Card(
            folder=temporary,
            id=model_id,
            title=title or model_id,
            licence=licence,
            source=origin,
            citation=citation,
            orientation=orientation,
            default_profile=profiles[0] + (SOFTMAX if volume_interval else ""),
            profiles=tuple(profiles),
            parts=parts,
            labels=dict(enumerate(structures, start=1)),
            spacing_mm=spacing_mm,
            accuracy=dict(accuracy or {}),
            notes=tuple(notes),
            volume_interval=dict(volume_interval or {}),
            training=dict(training or {}),
            stored_axes=stored_axes,
            channels=channels.pop(),
        )
        commit_json(temporary / CARD, card_json(card))
        written = load_card(temporary)
        for part in parts:
            read_plans(written, part)
        os.rename(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if alone:
            with suppress(OSError):  # it holds the model
                out.parent.rmdir()
    return load_card(out)


def import_known(model: KnownModel, places: Sequence[Path], out: Path) -> Card:
    """`import_nnunet` for a known model from the folder or zip of each of its parts.

    Raises
    ------
    ModelError
        As `import_nnunet`; also if the weights are not those of this model, by their labels.
    """
    sources = [
        Source(
            place,
            part=weights.name,
            folds=weights.folds,
            sha256=weights.sha256 if Path(place).is_file() else None,
            expected_labels=weights.labels,
            by_index=weights.labels_by_index,
            weights_version=weights.weights_version,
            rename=weights.structures,
            drop=set(weights.labels.values()) - set(weights.structures),
            tile_step=weights.tile_step,
            layer=layer,
            mirrors=weights.mirrors,
            crop=weights.crop,
            margin_mm=weights.margin_mm,
            spacing_mm=weights.spacing_mm,
        )
        for place, (layer, weights) in zip(places, _layered(model), strict=True)
    ]
    return import_nnunet(
        sources,
        out,
        model_id=Path(out).name,
        licence=model.licence,
        title=model.title,
        origin=model.source,
        citation=model.citation,
        notes=model.notes,
        orientation=model.orientation,
        spacing_mm=model.spacing_mm,
        profiles=model.profiles,
    )


def _layered(model: KnownModel) -> list[tuple[int, KnownWeights]]:
    return [(layer, weights) for layer, parts in enumerate(model.layers) for weights in parts]
