"""The whole of an evaluation: find, compare, average, test, draw, write."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import Progress

from cohortvol import __version__
from cohortvol.errors import ConfigError, ScanError, log_unforeseen
from cohortvol.ranges import AGE_RANGE_YEARS
from cohortvol.store.files import commit_json, make_folder, sha256_of
from cohortvol.store.tables import append_rows
from cohortvol.tools.evaluate import page
from cohortvol.tools.evaluate.contours import Picture, extremes
from cohortvol.tools.evaluate.datasets import (
    Case,
    find_cases,
    find_label_maps,
    n_for_training,
    read_expert,
    read_image,
    read_model,
)
from cohortvol.tools.evaluate.groups import Scans, read_scans
from cohortvol.tools.evaluate.labels import LabelMap, vocabulary
from cohortvol.tools.evaluate.measures import PAPER, measure_pair
from cohortvol.tools.evaluate.outputs import PAIRS, READER_PAIRS, write
from cohortvol.tools.evaluate.published import beside, published_model
from cohortvol.tools.evaluate.readers import EXPERT, SECOND, compare_readers
from cohortvol.tools.evaluate.statistics import compare, summarise

log = logging.getLogger(__name__)

SAME = "same"
"""Vocabulary of a model that is that of the expert."""

Compared = tuple[list[dict[str, Any]], list[dict[str, Any]]]
"""Rows of PAIRS and of READER_PAIRS."""

Refusal = dict[str, Any]
"""Reason and detail of what cannot be read."""


@dataclass(frozen=True)
class Settings:
    """How to evaluate.

    Attributes
    ----------
    tolerance_mm : float
        Of the normalised surface Dice.
    rule : str
        One of `measures.RULES`.
    n_bootstrap, seed : int
        Draws of the bootstrap over people, and where they come from.
    correction : str
        Of the tests between models: ``holm`` or ``bh``.
    """

    tolerance_mm: float = 3.0
    rule: str = PAPER
    n_bootstrap: int = 10_000
    seed: int = 1
    correction: str = "holm"


@dataclass(frozen=True)
class Model:
    """A model's label maps: its name, where they lie, what their labels are called, and the known
    model whose published Dice stands beside (see `published.published_model`).
    """

    name: str
    folder: Path
    labels: str | None = None
    published: str | None = None


@dataclass(frozen=True)
class _Maps:
    """A model's label maps by scan, and how to read them.

    Attributes
    ----------
    places : mapping of str to Path
        Label maps by scan.
    labels : mapping of str to int, or None
        Structure to label index; None where the files say it, or it is the expert's.
    same : bool
        Whether it is the expert's.
    """

    places: Mapping[str, Path]
    labels: Mapping[str, int] | None
    same: bool

    def of(self, case: Case, expert: LabelMap) -> LabelMap:
        """The label map of a scan; ScanError where there is none, or it cannot be used."""
        if case.scan_id not in self.places:
            raise ScanError("EVAL_NO_LABEL_MAP", f"nothing is called {case.scan_id}")
        labels = expert.labels if self.same else self.labels
        return read_model(self.places[case.scan_id], labels, expert)


def run(
    expert: Path,
    models: Sequence[Model],
    out: Path,
    *,
    layout: str = "auto",
    expert_labels: str | None = None,
    split: str | None = None,
    second_reader: Model | None = None,
    scans: Path | None = None,
    settings: Settings | None = None,
    age_range_years: Sequence[float] = AGE_RANGE_YEARS,
    processes: int = 1,
) -> pd.DataFrame:
    """Compare models' label maps with the experts'; write tables, ``evaluate.json`` and a page.

    Parameters
    ----------
    expert : Path
        Dataset; see `datasets.find_cases`.
    models : sequence of Model
        In the order in which they are shown.
    out : Path
        Folder to write to.
    layout, expert_labels, split : str
        See `datasets.find_cases`.
    second_reader : Model, optional
        Label maps of a second reader: models are compared with both readers, and these with each
        other.
    scans : Path, optional
        Table with scan_id, and subject_id, sequence, scanner, age_years where known.
    settings : Settings, optional
        The defaults without it.
    age_range_years : (low, high)
        Scans of an age outside are in no third of the ages.
    processes : int
        Scans compared at a time.

    Returns
    -------
    pandas.DataFrame
        Rows of `outputs.PAIRS`.

    Raises
    ------
    ConfigError
        If there is nothing to compare, or a name cannot be used.
    """
    settings = settings or Settings()
    names = [model.name for model in models]
    if not models or len({*names, SECOND}) <= len(names):
        raise ConfigError(
            f"models need different names, and none may be {SECOND!r}; given: "
            f"{', '.join(names) or 'none'}"
        )
    known = {model.name: published_model(model.labels, model.published) for model in models}
    cases = find_cases(expert, layout, expert_labels, split)
    if split is None and (n := n_for_training(expert, cases)):
        log.warning(
            "%s: %d of %d scans are for training by its meta.csv; --split test takes the others",
            expert, n, len(cases),
        )  # fmt: skip
    maps = {model.name: _maps_of(model, cases) for model in models}
    second = None if second_reader is None else _maps_of(second_reader, cases)
    ids = [case.scan_id for case in cases]
    of_scans = Scans() if scans is None else read_scans(scans, ids, age_range_years)
    make_folder(out)
    one = partial(compare_case, maps=maps, settings=settings, second=second)
    rows: list[dict[str, Any]] = []
    of_readers: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("comparing", total=len(cases))
        for found, of_second in _each(one, cases, processes):
            rows += found
            of_readers += of_second
            progress.advance(task)
    for row in (*rows, *of_readers):
        row["subject_id"] = of_scans.subject_of.get(row["scan_id"], row["subject_id"])
    pairs = append_rows(rows, PAIRS)
    order = {name: place for place, name in enumerate(names)}
    pairs = pairs.sort_values("model", key=lambda column: column.map(order), kind="stable")
    pairs = pairs.reset_index(drop=True)
    draws = {"n_draws": settings.n_bootstrap, "seed": settings.seed}
    summary = summarise(pairs, of_scans.groups, **draws)
    tables = {
        "pairs": pairs,
        "summary": summary,
        "comparisons": compare(pairs, correction=settings.correction, **draws),
        "published": beside(summary, known),
        "reader_pairs": append_rows(of_readers, READER_PAIRS),
    }
    tables["readers"] = compare_readers(pairs, tables["reader_pairs"], **draws)
    for name, table in tables.items():
        write(out, name, table)
    record = _record(expert, cases, models, maps, settings) | {
        "split": split,
        "published": known,
        "second_reader": second and second_reader and _of_model(second_reader, second),
    }
    page.write(out, tables, record, _pictures(cases, maps, pairs))
    commit_json(out / "evaluate.json", record)
    compared = pairs[pairs["dice"].notna()]
    log.info(
        "%d of %d scans compared for %s: %d pairs with a Dice, %d rows with a reason",
        compared["scan_id"].nunique(), len(cases), ", ".join(names), len(compared),
        int(pairs["reason"].notna().sum()),
    )  # fmt: skip
    for name, of_model in maps.items():
        if unasked := sorted(set(of_model.places) - {case.scan_id for case in cases}):
            log.warning("%s: %d label maps have no expert's: %s", name, len(unasked), unasked[0])
    return pairs


def _maps_of(model: Model, cases: Sequence[Case]) -> _Maps:
    places = find_label_maps(model.folder)
    if len(cases) == 1 and list(places) == [""]:  # what stands in the folder itself is of the case
        places = {cases[0].scan_id: places[""]}
    labels = None if model.labels in (None, SAME) else vocabulary(str(model.labels))
    return _Maps(places, labels, model.labels == SAME)


def _each(one: partial[Compared], cases: Sequence[Case], processes: int) -> Iterator[Compared]:
    if processes == 1:
        yield from map(one, cases)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(one, cases)


def compare_case(
    case: Case, *, maps: Mapping[str, _Maps], settings: Settings, second: _Maps | None = None
) -> Compared:
    """Rows of PAIRS of one scan for every model, and of READER_PAIRS with a second reader.

    What cannot be read is a row with a reason.

    Parameters
    ----------
    case : Case
        The scan.
    maps : mapping of str to _Maps
        Of each model.
    settings : Settings
        How to compare.
    second : _Maps, optional
        Of a second reader.
    """
    known = {"scan_id": case.scan_id, "subject_id": case.subject_id}
    expert = _read(known, "expert", lambda: read_expert(case))
    read: dict[str, LabelMap | Refusal] = {}
    for name, found in {**maps, **({} if second is None else {SECOND: second})}.items():
        read[name] = (
            expert
            if isinstance(expert, dict)
            else _read(known, "", partial(found.of, case, expert))
        )
    rows = [
        {"model": name} | known | row
        for name in maps
        for row in _compared(known, expert, read[name], settings)
    ]
    if second is None:
        return rows, []
    against = [(EXPERT, SECOND), *((SECOND, name) for name in maps)]
    of_readers = [
        {"reference": reference, "model": name} | known | row
        for reference, name in against
        for row in _compared(
            known, expert if reference == EXPERT else read[SECOND], read[name], settings
        )
    ]
    return rows, of_readers


def _read(known: Mapping[str, str], whose: str, read: Callable[[], LabelMap]) -> LabelMap | Refusal:
    """A label map, or reason and detail where it cannot be read."""
    try:
        return read()
    except ScanError as error:
        detail = f"{whose}: {error.detail}" if whose else error.detail
        return {"reason": error.reason, "detail": detail}
    except Exception as error:
        detail = log_unforeseen(log, known["scan_id"], error)
        return {"reason": "BUG_UNEXPECTED", "detail": detail}


def _compared(
    known: Mapping[str, str],
    reference: LabelMap | Refusal,
    model: LabelMap | Refusal,
    settings: Settings,
) -> list[dict[str, Any]]:
    """One row per structure, or one with a reason where either cannot be read or compared."""
    if isinstance(reference, dict):
        return [reference]
    if isinstance(model, dict):
        return [model]
    try:
        rows = measure_pair(
            reference, model, tolerance_mm=settings.tolerance_mm, rule=settings.rule
        )
    except ScanError as error:
        return [{"reason": error.reason, "detail": error.detail}]
    except Exception as error:
        detail = log_unforeseen(log, known["scan_id"], error)
        return [{"reason": "BUG_UNEXPECTED", "detail": detail}]
    unnamed = {"reason": "EVAL_NO_NAMES", "detail": "the two vocabularies share no structure"}
    return rows or [unnamed]


def _pictures(
    cases: Sequence[Case], maps: Mapping[str, _Maps], pairs: pd.DataFrame
) -> list[Picture]:
    """The scans of the lowest and the highest Dice with their label maps, read again."""
    by_id = {case.scan_id: case for case in cases}
    pictures = []
    for scan_id, dice in extremes(pairs):
        case = by_id[scan_id]
        expert = read_expert(case)
        models = {name: maps[name].of(case, expert) for name in dice}
        grey, affine = read_image(case) or (None, None)
        pictures.append(Picture(scan_id, grey, affine, expert, models, dice))
    return pictures


def _record(
    expert: Path,
    cases: Sequence[Case],
    models: Sequence[Model],
    maps: Mapping[str, _Maps],
    settings: Settings,
) -> dict[str, Any]:
    """Settings, versions, and what went in, as ``evaluate.json`` holds it."""
    packages = ("numpy", "scipy", "nibabel", "pandas", "statsmodels", "matplotlib")
    return {
        "settings": asdict(settings),
        "versions": {"cohortvol": __version__} | {name: version(name) for name in packages},
        "expert": {
            "folder": expert.name,
            "layout": cases[0].layout,
            "n_scans": len(cases),
            "sha256": _digest({case.scan_id: case.expert for case in cases}),
        },
        "models": [_of_model(model, maps[model.name]) for model in models],
    }


def _of_model(model: Model, maps: _Maps) -> dict[str, Any]:
    return {
        "name": model.name,
        "folder": model.folder.name,
        "labels": model.labels,
        "n_label_maps": len(maps.places),
        "sha256": _digest(maps.places),
    }


def _digest(places: Mapping[str, Path]) -> str:
    """One sha256 of the names and bytes of many label maps."""
    digest = hashlib.sha256()
    for name, place in sorted(places.items()):
        files = sorted(path for path in place.rglob("*") if path.is_file())
        for path in files if place.is_dir() else [place]:
            digest.update(f"{name} {path.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()
