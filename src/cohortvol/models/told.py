"""How the networks of a model come to a label map, in sentences.

Light on purpose, like `cohortvol.models.card`: nothing here imports torch or numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cohortvol.models.card import Card, choose_profile
from cohortvol.models.inference import Profile
from cohortvol.models.part import Part


def told_run(card: Card, profile: str) -> list[str]:
    """How a profile runs the networks of a card, a sentence each; none where it has no network.

    Raises
    ------
    ModelError
        If the model does not offer the profile.
    """
    if card.elsewhere:
        return []
    return [
        *_told_folds(card.parts),
        *_told_passes(card.parts, choose_profile(card, profile)),
        *told_boxes(card.parts),
        *told_together(card.parts),
    ]


def _told_folds(parts: Sequence[Part]) -> list[str]:
    n_networks = {part.name: len(part.folds) for part in parts}
    return [
        f"{n} networks, one of each fold, are averaged{where}."
        for n, where in _grouped(n_networks)
        if n > 1
    ]


def _told_passes(parts: Sequence[Part], profile: Profile) -> list[str]:
    n_axes = {part.name: len(part.mirror_axes) if profile.mirrors else 0 for part in parts}
    return [
        f"Of each patch {2**n} passes are averaged, one for each way to mirror it along {n} "
        f"{'axis' if n == 1 else 'axes'}{where}."
        if n
        else f"No mirrored passes are made{where}."
        for n, where in _grouped(n_axes)
    ]


def _grouped(numbers: Mapping[str, int]) -> Iterator[tuple[int, str]]:
    """Each number and of which parts it is, in words; without words where it is that of all."""
    found = sorted(set(numbers.values()))
    for number in found:
        names = [name for name, of_part in numbers.items() if of_part == number]
        yield number, f" in {', '.join(names)}" if len(found) > 1 else ""


def told_boxes(parts: Sequence[Part]) -> list[str]:
    """Which parts see a box around structures of earlier ones, a sentence each."""
    return [
        f"Part {part.name} sees a box around {', '.join(part.crop)}, {part.margin_mm:g} mm wider; "
        "where none of it is found, neither are the part's structures."
        for part in parts
        if part.crop
    ]


def told_together(parts: Sequence[Part]) -> list[str]:
    """How parts of a card go together, and what nnU-Net's postprocessing keeps, a sentence each."""
    configurations = {part.name: part.configuration for part in parts}
    told = []
    for part in parts:
        if part.previous is not None:
            told.append(
                f"{part.configuration} sees the label map of {configurations[part.previous]} "
                "beside the image: a cascade."
            )
        if part.averaged_with:
            *first, last = (configurations[name] for name in (*part.averaged_with, part.name))
            told.append(f"The probabilities of {', '.join(first)} and {last} are averaged.")
        for labels in part.keep_largest:
            names = [
                str(label) if part.regions else part.labels.get(label, str(label))
                for label in labels
            ]
            what = "label" if part.regions else "structure"
            told.append(
                f"Of the {what}{'s' if len(names) > 1 else ''} {', '.join(names)} the largest "
                "connected piece is kept."
            )
    return told
