"""Models of label maps that were made elsewhere: a table of labels, one profile, no network.

Their card has in `elsewhere` every label of these label maps with the name that others gave it,
that of its file where each structure has one. Its parts are the layers, and have no fold. A label
that no part has is known and left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from cohortvol.errors import ModelError
from cohortvol.models.inference import ELSEWHERE


class _Part(Protocol):
    """What is asked of a part of a model here."""

    @property
    def name(self) -> str: ...
    @property
    def folds(self) -> tuple[str, ...]: ...
    @property
    def layer(self) -> int: ...
    @property
    def labels(self) -> Mapping[int, str]: ...


def wrong_elsewhere(
    names: Mapping[int, str], parts: Sequence[_Part], profiles: Sequence[str]
) -> list[str]:
    """What is wrong with a card: networks where label maps were made elsewhere, or none without.

    Parameters
    ----------
    names : mapping of int to str
        Names of labels as others gave them; empty for a model of networks.
    parts : sequence of Part
        Of the model.
    profiles : sequence of str
        Of the model.
    """
    wrong = []
    if (ELSEWHERE in profiles) != bool(names) or (names and [*profiles] != [ELSEWHERE]):
        wrong.append(f"profile {ELSEWHERE} is the one of label maps made elsewhere, of no other")
    if len(set(names.values())) != len(names):
        wrong.append("elsewhere: two labels have one name")
    if names and [part.layer for part in parts] != [*range(len(parts))]:
        wrong.append("parts of label maps made elsewhere are layers 0, 1, ..., one each")
    for part in parts:
        if bool(part.folds) == bool(names):
            wrong.append(f"part {part.name} has {'a network' if part.folds else 'no fold'}")
        strangers = sorted(set(part.labels) - set(names)) if names else []
        if strangers:
            wrong.append(f"part {part.name} has labels that elsewhere lacks: {strangers[:5]}")
    return wrong


def check_words(profile: str) -> None:
    """Raise ModelError where a profile asks a network that label maps made elsewhere lack."""
    if profile.partition("+")[0] == ELSEWHERE != profile:
        raise ModelError(
            f"profile {profile!r}: label maps made elsewhere hold no softmax, and no network sees "
            f"the scan\n  Set segment.profile to {ELSEWHERE}, or to null."
        )


def refuse_elsewhere(model: str, names: Mapping[int, str], what: str) -> None:
    """Raise ModelError where a network is asked for and the label maps were made elsewhere."""
    if names:
        raise ModelError(
            f"model {model}: its label maps were made elsewhere, so there is no network {what}\n"
            "  Choose a model with weights; `cohortvol models list` shows them."
        )
