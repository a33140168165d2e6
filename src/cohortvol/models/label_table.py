"""A table of labels as a model: what the labels mean of label maps that were made elsewhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cohortvol.errors import ConfigError, did_you_mean
from cohortvol.models import catalogue
from cohortvol.models.card import AS_STORED, CARD, Card, card_json, load_card
from cohortvol.models.inference import ELSEWHERE
from cohortvol.models.part import Part
from cohortvol.store.files import commit_json, make_folder
from cohortvol.store.text_table import read_text_table

TOTAL_MR = "total_mr"
ALIASES = {TOTAL_MR: "852"}
"""Vocabularies by the name of a model whose parts each have a label map of their own."""
MOST_LABEL = 2**16 - 1
MOST_LAYERS = 64


@dataclass(frozen=True)
class Label:
    """One label of a table.

    Attributes
    ----------
    label : int
        Label index.
    name : str
        What others call it: the name of its file, where each structure has one.
    structure : str
        The structure that it is part of; empty where it is no result.
    layer : int
        Layer; structures of one layer do not overlap.
    """

    label: int
    name: str
    structure: str
    layer: int


def vocabularies() -> list[str]:
    """Tables of labels that `read_labels` knows by name."""
    return [*ALIASES, *(name for name in catalogue.vocabularies() if not name.isdecimal())]


def read_labels(source: str) -> list[Label]:
    """A table of labels, from a file or by the name of a vocabulary.

    Parameters
    ----------
    source : str
        One of `vocabularies`; or a CSV, TSV or Parquet table with the columns ``label`` (or
        ``index``, as in ``dseg.tsv``), ``name``, ``structure`` and ``layer``, of which either of
        ``name`` and ``structure`` stands for the other where that is absent. Without labels its
        rows are counted from 1, which does for one file per structure. An empty structure is a
        label that is known and left out; several labels of one structure are put together.

    Raises
    ------
    ConfigError
        If there is no such table, or rows of it cannot be used: all of them are named.
    TableError
        If the table cannot be read with certainty.
    """
    if not Path(source).is_file():
        found = catalogue.label_map(ALIASES.get(source, source), results_only=False)
        if not found:
            raise ConfigError(
                f"{source}: no such table of labels, nor a vocabulary"
                f"{did_you_mean(source, vocabularies())}\n"
                "  Give a table with the columns label and structure, or one of: "
                f"{', '.join(vocabularies())}"
            )
        return [Label(label, *names, layer=0) for label, names in found.items()]
    table = read_text_table(Path(source), "It says what the labels of label maps mean.")
    named = [one for one in ("name", "structure") if one in table.columns]
    numbered = next((one for one in ("label", "index") if one in table.columns), None)
    if not named or not table.rows:
        what = "no rows" if not table.rows else "neither a column name nor a column structure"
        raise ConfigError(f"{source}: {what}\n  A table of labels has label, name and structure.")
    labels, wrong = [], []
    for count, (line, row) in enumerate(zip(table.lines, table.rows, strict=True), start=1):
        try:
            label = _whole(row[numbered], 0, MOST_LABEL) if numbered else count
            layer = _whole(row.get("layer", ""), 0, MOST_LAYERS - 1, empty=0)
            name = row.get("name", "").strip() or row.get("structure", "").strip()
            structure = row.get("structure", name).strip()
            if not name:
                raise ValueError("it has no name")
            if label == 0 and structure.lower() not in ("background", ""):
                raise ValueError(f"label 0 is background, not {structure}")
            if label:
                labels.append(Label(label, name, structure, layer))
        except ValueError as error:
            wrong.append(f"  line {line}: {error}")
    for what, values in (
        ("label", [str(one.label) for one in labels]),
        ("name", [one.name for one in labels]),
    ):
        twice = sorted({value for value in values if values.count(value) > 1})
        wrong += [f"  {what} {value} stands there twice" for value in twice]
    if wrong:
        raise ConfigError("\n".join([f"{source}: rows that cannot be used", *wrong]))
    return labels


def _whole(text: str, low: int, high: int, empty: int | None = None) -> int:
    if not text.strip() and empty is not None:
        return empty
    if not text.strip().isdecimal() or not low <= int(text) <= high:
        raise ValueError(f"{text!r} is no whole number from {low} to {high}")
    return int(text)


def write_model(
    labels: Sequence[Label],
    out: Path,
    *,
    model_id: str,
    title: str = "",
    licence: str = "",
    origin: str = "",
    citation: str = "",
) -> Card:
    """Write the model folder of a table of labels, which holds a card alone.

    Raises
    ------
    ConfigError
        If the folder is there, no label is a result, or layers are missing.
    ModelError
        If the card cannot be used, as where a structure is in two layers.
    """
    if os.path.lexists(out):
        raise ConfigError(f"{out} is there already; delete it, or choose another id")
    results = [one for one in labels if one.structure]
    if not results:
        raise ConfigError(f"model {model_id}: no label of the table has a structure")
    first: dict[str, int] = {}
    for one in results:
        first.setdefault(one.structure, one.label)
    layers = sorted({one.layer for one in results})
    if layers != [*range(len(layers))]:
        given = ", ".join(map(str, layers))
        raise ConfigError(f"model {model_id}: its structures are in layers {given}, not 0, 1, ...")
    parts = tuple(
        Part(
            name=f"layer{layer}",
            configuration="none",
            trainer="none",
            folds=(),
            labels={one.label: one.structure for one in results if one.layer == layer},
            files={},
            layer=layer,
        )
        for layer in layers
    )
    card = Card(
        folder=out,
        id=model_id,
        title=title or f"Label maps made elsewhere, {len(first)} structures",
        licence=licence or "not stated",
        source=origin,
        citation=citation,
        orientation=AS_STORED,
        default_profile=ELSEWHERE,
        profiles=(ELSEWHERE,),
        parts=parts,
        labels={label: structure for structure, label in first.items()},
        elsewhere={one.label: one.name for one in labels},
    )
    temporary = make_folder(out.parent) / f".{out.name}.{os.getpid()}.tmp"
    try:
        temporary.mkdir()
        commit_json(temporary / CARD, card_json(card))
        load_card(temporary)
        os.rename(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return load_card(out)
