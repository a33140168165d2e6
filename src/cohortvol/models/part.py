"""One nnU-Net of a model, as its card has it: folds, labels, files, and where its structures lie.

Light on purpose, like `cohortvol.models.card`: nothing here imports torch or numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
        )

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
