"""One nnU-Net of a model, as its card has it: folds, labels, files, and where its structures lie.

Light on purpose, like `cohortvol.models.card`: nothing here imports torch or numpy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

CROP = ("crop", "margin_mm", "spacing_mm")
"""Fields of a part that stand on the card only where it sees a box."""
TOGETHER = ("previous", "averaged_with", "keep_largest")
"""Fields of a part that stand on the card only where they say something."""

Canary = Sequence[Sequence[float]]
"""Mean and standard deviation of every label's logits over one fixed patch."""


@dataclass(frozen=True)
class Part:
    """One nnU-Net of a model: its folds are averaged, its labels mapped to the model's.

    `canary` holds for each fold what its network said about a fixed patch when it was imported.
    `tile_step` is the greatest one that its publisher uses, where that is less than a profile's.
    Parts of one `layer` share a label map, where the later part wins; layers may overlap.
    `mirror_axes` are the axes of the network's input along which a patch may be mirrored, as
    `nnUNetv2_predict` does; empty where the training did not allow it, or does not say.
    `regions` are, where the network was trained by regions, the labels of nnU-Net's map of which
    each of them is made; the keys of `labels` then count the regions from 1.
    `crop` names structures of earlier parts: this part sees the box around them, `margin_mm` wider
    on every side, brought to `spacing_mm` where that is not the model's. Empty where it sees all.
    `previous` names the part before that is the earlier stage of this one, of a cascade: its label
    map is seen beside the image. `averaged_with` names parts before with whose probabilities its
    own are averaged, as ``nnUNetv2_ensemble`` does. Parts that are there for others only have no
    `labels`. `keep_largest` is nnU-Net's postprocessing, in its order: of all voxels of nnU-Net's
    map with one of these labels the largest connected piece stays.
    """

    name: str
    configuration: str
    trainer: str
    folds: tuple[str, ...]
    labels: Mapping[int, str]
    files: Mapping[str, str]
    canary: Mapping[str, Canary] = field(default_factory=dict)
    tile_step: float | None = None
    layer: int = 0
    mirror_axes: tuple[int, ...] = ()
    regions: tuple[tuple[int, ...], ...] = ()
    crop: tuple[str, ...] = ()
    margin_mm: float | None = None
    spacing_mm: tuple[float, float, float] | None = None
    previous: str | None = None
    averaged_with: tuple[str, ...] = ()
    keep_largest: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def from_card(cls, raw: Mapping[str, Any]) -> Part:
        """From an object of ``card.json``."""
        return cls(
            name=raw["name"],
            configuration=raw["configuration"],
            trainer=raw["trainer"],
            folds=tuple(str(fold) for fold in raw["folds"]),
            labels={int(index): str(name) for index, name in raw["labels"].items()},
            files=dict(raw["files"]),
            canary=raw.get("canary", {}),
            tile_step=raw.get("tile_step"),
            layer=int(raw.get("layer", 0)),
            mirror_axes=tuple(raw.get("mirror_axes", ())),
            regions=tuple(tuple(region) for region in raw.get("regions", ())),
            crop=tuple(raw.get("crop", ())),
            margin_mm=raw.get("margin_mm"),
            spacing_mm=xyz_mm(raw.get("spacing_mm")),
            previous=raw.get("previous"),
            averaged_with=tuple(raw.get("averaged_with", ())),
            keep_largest=tuple(tuple(labels) for labels in raw.get("keep_largest", ())),
        )

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the parts before without which this one says nothing."""
        return (*([self.previous] if self.previous else []), *self.averaged_with)

    def as_card(self) -> dict[str, Any]:
        """As an object of ``card.json``."""
        value = asdict(self)
        unused = [*(name for name in TOGETHER if not value[name]), *(() if self.crop else CROP)]
        for name in unused:
            del value[name]
        return value

    def in_map(self, label: int) -> tuple[int, ...]:
        """Labels of nnU-Net's own map that make up a label of this part."""
        return self.regions[label - 1] if self.regions else (label,)

    @property
    def layer_of(self) -> dict[int, int]:
        """Label to layer. Regions that have a label in common are in different ones."""
        held: list[set[int]] = []
        found = {}
        for label in sorted(self.labels):
            own = set(self.in_map(label))
            free = next((n for n, taken in enumerate(held) if not taken & own), len(held))
            if free == len(held):
                held.append(set())
            held[free] |= own
            found[label] = self.layer + free
        return {label: found[label] for label in self.labels}


def xyz_mm(raw: Sequence[float] | None) -> tuple[float, float, float] | None:
    """A spacing as a card has it."""
    if raw is None:
        return None
    x, y, z = (float(edge) for edge in raw)
    return x, y, z


def wrong_crops(parts: Sequence[Part], spacing_mm: object) -> list[str]:
    """What is wrong with the boxes that parts of a card want to see.

    Parameters
    ----------
    parts : sequence of Part
        Of the card, in their order.
    spacing_mm
        Of the card; None where nnU-Net resamples by itself.
    """
    wrong = []
    found: set[str] = set()  # by the parts before that see all of a scan
    for part in parts:
        if not part.crop:
            found |= set(part.labels.values())
            if part.margin_mm is not None or part.spacing_mm is not None:
                wrong.append(f"part {part.name} has margin_mm or spacing_mm, and no crop")
            continue
        if unknown := [name for name in part.crop if name not in found]:
            wrong.append(
                f"part {part.name} sees a box around {', '.join(unknown)}, which no part before "
                "it finds in the whole scan"
            )
        if part.margin_mm is None:
            wrong.append(f"part {part.name} has a crop and no margin_mm")
        if not part.folds:
            wrong.append(f"part {part.name} has a crop and no network")
        if part.spacing_mm is not None and spacing_mm is None:
            wrong.append(
                f"part {part.name} has spacing_mm, to which no scan of this model is brought"
            )
    return wrong


def wrong_together(parts: Sequence[Part]) -> list[str]:
    """What is wrong with parts of a card that another needs, given in their order."""
    wrong = []
    before: dict[str, Part] = {}
    for part in parts:
        if unknown := [name for name in part.needs if name not in before]:
            wrong.append(f"part {part.name} needs {', '.join(unknown)}, which is no part before it")
        if len(set(part.averaged_with)) < len(part.averaged_with):
            wrong.append(f"part {part.name} is averaged with a part twice")
        on_boxes = [before[name] for name in part.needs if name in before and before[name].crop]
        if part.needs and (part.crop or on_boxes):
            wrong.append(f"part {part.name} needs other parts, and one of them sees a box")
        before[part.name] = part
    needed = {name for part in parts for name in part.needs}
    for part in parts:
        if not part.labels and part.name not in needed:
            wrong.append(f"part {part.name} has no labels, and no part needs it")
    return wrong


def with_needed(parts: Sequence[Part], wanted: Collection[str]) -> tuple[Part, ...]:
    """The parts of these names and those that they need, in the order given."""
    names = set(wanted)
    for part in reversed(parts):
        if part.name in names:
            names |= set(part.needs)
    return tuple(part for part in parts if part.name in names)
