"""Import a trained nnU-Net v2 folder or zip as a model folder: once, offline, checked."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save

from cohortvol.errors import ModelError
from cohortvol.models.card import (
    AS_STORED,
    CARD,
    PARTS,
    Card,
    card_json,
    load_card,
    plans_files,
    weights_file,
)
from cohortvol.models.catalogue import KnownModel, KnownWeights
from cohortvol.models.channels import channels_of
from cohortvol.models.files import (
    check_dataset,
    check_id,
    check_plans,
    inside,
    local_labels,
    problems,
    read_object,
    regions_of,
    schema,
    shown,
)
from cohortvol.models.inference import FAST, SOFTMAX, UNMIRRORED
from cohortvol.models.networks.axes import (
    axes_of_training_images,
    axes_wanted,
    only_one,
)
from cohortvol.models.networks.build import (
    Network,
    Weights,
    build,
    canary_of,
    canary_patch,
    own_weights,
    read_weights,
)
from cohortvol.models.networks.checkpoints import (
    CHECKPOINT,
    mirror_axes_of,
    one_training,
    read_checkpoint,
)
from cohortvol.models.networks.published import check_labels, check_version
from cohortvol.models.networks.unpacking import check_sha256, trained_folder
from cohortvol.models.part import Part
from cohortvol.store.files import commit, commit_json
from cohortvol.store.storage import temporary_beside

BEST = "checkpoint_best.pth"
"""What nnU-Net keeps of a training that has not ended."""
_FOLD = re.compile(r"all|[0-9]{1,3}")


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
    tile_step, layer, crop, margin_mm, spacing_mm
        See `cohortvol.models.part.Part`.
    mirrors : bool
        Whether whoever published it mirrors patches where the training allows it, as
        ``nnUNetv2_predict`` does.
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
) -> Card:
    """Make a model folder out of trained nnU-Nets, one part each.

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
        imported = [_import_part(source, temporary, checkpoint) for source in sources]
        parts = tuple(part for part, _ in imported)
        orientation = orientation or axes_wanted(temporary, parts)
        if orientation == AS_STORED and stored_axes is None:
            stored_axes = only_one({axes for _, axes in imported})
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
        load_card(temporary)
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


def _import_part(source: Source, folder: Path, checkpoint: str) -> tuple[Part, str | None]:
    """The part, and the axes of its training images."""
    place = Path(source.place)
    with trained_folder(place, source.sha256, source.training) as trained:
        check_version(trained, source.weights_version)
        folds = _choose_folds(trained, source.folds, checkpoint)
        if source.sha256 is not None and place.is_dir():
            if len(folds) != 1:
                raise ModelError(f"--sha256 of a folder pins one checkpoint; {len(folds)} folds")
            check_sha256(trained / f"fold_{folds[0]}" / checkpoint, source.sha256)
        part = _write_part(source, trained, folder, folds, checkpoint)
        return part, axes_of_training_images(trained)


def _write_part(
    source: Source, trained: Path, folder: Path, folds: Sequence[str], checkpoint: str
) -> Part:
    plans, dataset = (read_object(inside(trained, name)) for name in ("plans.json", "dataset.json"))
    check_plans(plans)
    check_dataset(dataset)
    checkpoints = {
        fold: read_checkpoint(inside(trained, f"fold_{fold}/{checkpoint}")) for fold in folds
    }
    configuration, trainer = one_training(checkpoints)
    found = local_labels(dataset)
    if source.expected_labels is not None:
        check_labels(found, source.expected_labels, source.rename if source.by_index else None)
        found = dict(source.expected_labels)
    labels = {
        index: source.rename.get(name, name)
        for index, name in found.items()
        if name not in source.drop
    }
    _check_names(labels)
    part = Part(
        source.part,
        configuration,
        trainer,
        tuple(folds),
        labels,
        files={},
        tile_step=source.tile_step,
        layer=source.layer,
        regions=tuple(regions_of(dataset).values()),
        crop=source.crop,
        margin_mm=source.margin_mm,
        spacing_mm=source.spacing_mm,
    )
    network = build(plans, configuration, dataset)
    n_axes = len(network.configuration_manager.patch_size)
    part = replace(part, mirror_axes=mirror_axes_of(checkpoints, n_axes) if source.mirrors else ())
    files = {
        f"{PARTS}/{part.name}/{name}": commit_json(folder / PARTS / part.name / name, content)
        for name, content in (("plans.json", plans), ("dataset.json", dataset))
    }
    canary = {}
    for fold, content in checkpoints.items():
        name = weights_file(part, fold)
        weights = own_weights(network.module, content["network_weights"])
        files[name] = commit(folder / name, partial(_write_weights, weights))
        again = read_weights(folder / name, network.module)
        canary[fold] = canary_of(_equal_logits(network, content["network_weights"], again))
    return replace(part, files=files, canary=canary)


def _check_names(labels: Mapping[int, str]) -> None:
    structure = schema("card")["$defs"]["structure"]
    for index, name in labels.items():
        if problems(name, structure):
            raise ModelError(
                f"label {index} is called {shown(name)!r}; it must be {structure['description']}\n"
                "  Give it another name with --rename THEIRS=OURS."
            )


def _write_weights(weights: Weights, stream: BinaryIO) -> None:
    stream.write(save(weights))


def _equal_logits(network: Network, original: Weights, again: Weights) -> torch.Tensor:
    """Logits of the canary patch, for which both state dicts must give the same bits."""
    patch = canary_patch(network)
    logits: list[torch.Tensor] = []
    for state in (original, again):
        network.module.load_state_dict(state, strict=True, assign=True)
        try:
            with torch.inference_mode():
                logits.append(network.module(patch))
        except RuntimeError as error:
            raise ModelError(
                f"the network of plans.json cannot be run ({shown(str(error), 200)})"
            ) from error
    if not torch.equal(*logits):
        raise ModelError("the imported weights do not give the logits of the original")
    return logits[0]


def _choose_folds(trained: Path, folds: Sequence[str], checkpoint: str) -> list[str]:
    named = (
        path.parent.name.removeprefix("fold_") for path in trained.glob(f"fold_*/{checkpoint}")
    )
    found = sorted(fold for fold in named if _FOLD.fullmatch(fold))
    chosen = [str(fold) for fold in folds] if folds else [fold for fold in found if fold != "all"]
    chosen = chosen or found
    missing = [fold for fold in chosen if fold not in found]
    if missing or not chosen:
        hint = f"\n  Its training has not ended. --checkpoint {BEST} takes what there is."
        begun = checkpoint != BEST and any(trained.glob(f"fold_*/{BEST}"))
        raise ModelError(
            f"{trained}: no {checkpoint} of fold {', '.join(missing) or 'any'}"
            f"; folds there: {', '.join(found) or 'none'}" + (hint if begun else "")
        )
    return chosen
