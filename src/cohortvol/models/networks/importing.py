"""Parts of a model folder out of trained nnU-Nets: checked, written, and equal in their logits."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors.torch import save

from cohortvol.errors import ModelError
from cohortvol.models.card import PARTS, weights_file
from cohortvol.models.files import (
    check_dataset,
    check_plans,
    inside,
    local_labels,
    problems,
    read_object,
    regions_of,
    schema,
    shown,
)
from cohortvol.models.networks.axes import axes_of_training_images
from cohortvol.models.networks.build import (
    Network,
    Weights,
    build,
    canary_of,
    canary_patch,
    own_weights,
    read_weights,
)
from cohortvol.models.networks.checkpoints import mirror_axes_of, one_training, read_checkpoint
from cohortvol.models.networks.published import check_labels, check_version
from cohortvol.models.networks.source import Source, stage_before
from cohortvol.models.networks.unpacking import check_sha256, trained_folder
from cohortvol.models.part import Part
from cohortvol.store.files import commit, commit_json

BEST = "checkpoint_best.pth"
"""What nnU-Net keeps of a training that has not ended."""
_FOLD = re.compile(r"all|[0-9]{1,3}")


def import_parts(
    sources: Sequence[Source], folder: Path, checkpoint: str, ensemble: bool
) -> tuple[tuple[Part, ...], set[str | None]]:
    """Files of all parts in a folder; the parts, and the axes of their training images.

    See `cohortvol.models.networks.import_nnunet`. Of an ensemble the last part has the labels, and
    an earlier stage that is averaged too is one part.
    """
    parts: dict[str, Part] = {}
    axes_known = set()
    members = []
    for source in sources:
        twin_of: dict[str | None, str] = {}
        for one in _with_stage_before(source, folder, checkpoint):
            part = one.part
            axes_known.add(one.axes)
            twin_of[part.name] = part.name
            twins = (other.name for other in parts.values() if _same_files(other, part))
            if ensemble and (twin := next(twins, None)):
                twin_of[part.name] = twin
                shutil.rmtree(folder / PARTS / part.name)
                continue
            parts[part.name] = replace(part, previous=twin_of.get(part.previous))
        members.append(twin_of[source.part])
    if ensemble:
        *others, last = (name for name in parts if name in members)
        if len(others) + 1 < len(sources) or not others:
            raise ModelError("an ensemble is of several trainings, each given once")
        for name in others:
            parts[name] = replace(parts[name], labels={}, keep_largest=())
        parts[last] = replace(parts[last], averaged_with=tuple(others))
    return tuple(parts.values()), axes_known


def _same_files(one: Part, other: Part) -> bool:
    return sorted(one.files.values()) == sorted(other.files.values())


@dataclass(frozen=True)
class _Imported:
    """A part whose files are written; the axes of its training images; the stage it comes after."""

    part: Part
    axes: str | None
    before: Source | None


def _with_stage_before(source: Source, folder: Path, checkpoint: str) -> list[_Imported]:
    """A part, after the earlier stage that it needs if it is the later one of a cascade."""
    one = _import_part(source, folder, checkpoint)
    if one.before is None:
        return [one]
    earlier = _import_part(one.before, folder, checkpoint)
    if earlier.before is not None:
        raise ModelError(f"{one.before.place}: a cascade of three stages, which nnU-Net has not")
    return [
        replace(earlier, part=replace(earlier.part, labels={})),
        replace(one, part=replace(one.part, previous=earlier.part.name)),
    ]


def _import_part(source: Source, folder: Path, checkpoint: str) -> _Imported:
    place = Path(source.place)
    with trained_folder(place, source.sha256, source.training) as trained:
        check_version(trained, source.weights_version)
        folds = _choose_folds(trained, source.folds, checkpoint)
        if source.sha256 is not None and place.is_dir():
            if len(folds) != 1:
                raise ModelError(f"--sha256 of a folder pins one checkpoint; {len(folds)} folds")
            check_sha256(trained / f"fold_{folds[0]}" / checkpoint, source.sha256)
        part, stage = _write_part(source, trained, folder, folds, checkpoint)
        before = None if stage is None else stage_before(source, trained, stage)
        return _Imported(part, axes_of_training_images(trained), before)


def _write_part(
    source: Source, trained: Path, folder: Path, folds: Sequence[str], checkpoint: str
) -> tuple[Part, str | None]:
    """The part, and the earlier stage that its plans name."""
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
        keep_largest=source.keep_largest,
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
    stage = network.configuration_manager.previous_stage_name
    return replace(part, files=files, canary=canary), stage


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
