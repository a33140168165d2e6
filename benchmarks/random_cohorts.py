"""Random cohorts through analyse and report: no exception, no empty figure, no untrue sentence.

    python benchmarks/random_cohorts.py --cohorts 200 --quick

Most cohorts are small and of one structure or two: these are quick, and hold what is awkward.
Sizes, sexes, sites, people scanned again, columns that are lacking, ages in bands, times of day,
volumes that do not differ, effects and bends are drawn, and settings with them. What the finished
page says is worked out anew from the tables (`page_truth.py`); of each figure every panel must hold
something and its data a row; a floating-point warning is wrong too. Prints each cohort that was not
right and ends with 1 if there is any.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from PIL import Image

import page_figures
import page_truth
from cohortvol.drawing import pages, style
from cohortvol.errors import CohortvolError
from cohortvol.models.card import segmentation_key
from cohortvol.stages import analyse, report
from page_card import drawn_card, write_card

SIZES = {1: 3, 2: 4, 3: 5, 5: 10, 9: 13, 12: 14, 20: 12, 25: 12, 40: 10, 80: 7, 150: 4, 300: 3,
         450: 2, 1500: 1}  # fmt: skip
"""Scans of a cohort, and of 100 cohorts how many have so many."""
N_ORGANS = {1: 55, 2: 25, 3: 10, 4: 4, 5: 3, 6: 3}
"""Structures, likewise."""
ORGANS = ("liver", "spleen", "kidney_left", "kidney_right", "stomach", "gallbladder")
STATES = ("quarantined", "skipped", "failed")
PRINTED: list[tuple[str, Figure]] = []
"""Figures of the page that is being made, by name."""
TEMPLATES = cache(pages.environment)


def drawn(rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, object]]:
    """Volumes and scans, and settings of analyse."""
    n = _chosen(rng, SIZES)
    people = max(1, int(n * rng.choice([1.0, 1.0, 0.9, 0.5])))
    who = np.sort(rng.integers(0, people, n)) if people < n else np.arange(n)
    age = rng.uniform(*rng.choice([(20, 85), (40, 70), (50, 52)]), n)
    if rng.random() < 0.25:
        width = int(rng.choice([5, 10]))
        age = np.floor(age / width) * width + width / 2
    kind = rng.choice(["both", "F", "unknown", "few"], p=[0.7, 0.1, 0.1, 0.1])
    male = rng.random(people)[who] < {"both": 0.5, "F": 0, "unknown": 0.5, "few": 0.02}[kind]
    scans = pd.DataFrame({"scan_id": [f"s{i:05d}" for i in range(n)], "age_years": age})
    if kind != "unknown":
        scans["sex"] = np.where(male, "M", "F")
    if people < n:
        scans["subject_id"] = [f"p{i}" for i in who]
    if rng.random() < 0.5:
        height = 165 + 12 * male + rng.normal(0, 7, n)
        scans["height_cm"], scans["weight_kg"] = height, 25 * (height / 100) ** 2
        scans["weight_kg"] *= np.exp(rng.normal(0, 0.15, n))
        lacking = rng.choice(["", "height_cm", "weight_kg"], p=[0.8, 0.1, 0.1])
        scans = scans.drop(columns=lacking, errors="ignore")
        if rng.random() < 0.3:
            scans.loc[rng.random(n) < rng.choice([0.1, 0.9]), "height_cm"] = np.nan
    if rng.random() < 0.5:
        scans["site"] = [f"h{i}" for i in rng.integers(0, rng.choice([1, 3, 3, 30]), n)]
    if rng.random() < 0.3:
        scans["sequence"] = rng.choice(["T1w", "T2w"], n) if rng.random() < 0.6 else "T2w"
    if rng.random() < 0.15:
        scans["state"] = np.where(rng.random(n) < 0.8, "done", rng.choice(STATES, n))
    if rng.random() < 0.2:
        scans["sampling_weight"] = np.exp(rng.uniform(0, 3, n))
    if rng.random() < 0.2:
        scans.loc[rng.random(n) < 0.1, "age_years"] = rng.choice([999.0, -1.0, np.nan])
    pieces = []
    for organ in rng.permutation(ORGANS)[: _chosen(rng, N_ORGANS)]:
        slope, bend = rng.choice([0.0, -0.05, 0.05]), rng.choice([0.0, 0.0, -0.08])
        decades = (age - 55) / 10
        log_ml = 5 + slope * decades + bend * decades**2 + 0.2 * rng.standard_normal(n)
        if rng.random() < 0.1:
            log_ml = np.full(n, 5.0)
        if rng.random() < 0.3:
            log_ml[rng.random(n) < 0.03] -= 2
        kept = rng.random(n) < rng.choice([1.0, 0.8, 0.05])
        table = pd.DataFrame(
            {"scan_id": scans["scan_id"], "structure": organ, "volume_ml": np.exp(log_ml)}
        )
        if rng.random() < 0.6:
            table["status"] = np.where(rng.random(n) < 0.1, "cut", "ok")
        pieces.append(table[kept])
    volumes = pd.concat(pieces, ignore_index=True)
    if "status" in volumes:
        volumes["status"] = volumes["status"].fillna("ok")
    if rng.random() < 0.1:
        volumes.loc[rng.random(len(volumes)) < 0.02, "volume_ml"] *= -1
    if rng.random() < 0.05 and len(volumes):
        volumes = pd.concat([volumes, volumes.iloc[[0]]])  # refused
    if rng.random() < 0.4:  # of day, also of one minute, of two, at other hours by site, or absent
        start, span = rng.uniform(0, 12), rng.choice([0.0, 0.01, 1, 4, 11])
        hour = start + span * (np.arange(n) % 2 if rng.random() < 0.2 else rng.random(n))
        scans["time_of_day_h"] = np.where(rng.random(n) < rng.choice([1, 0.97, 0.5]), hour, np.nan)
    settings = {
        "bootstrap_draws": 100,
        "min_n_rescanned": int(rng.choice([20, 200])),
        "min_n_centiles": int(rng.choice([50, 300])),
        "min_n_per_sex": int(rng.choice([1, 20, 100])),
        "suppress_below": int(rng.choice([0, 2, 5, 10])),
        "exclude_cut": bool(rng.random() < 0.9),
        "quantile_check": bool(rng.random() < 0.2),
        "fdr": float(rng.choice([0.05, 0.05, 0.2])),
    }
    return volumes, scans, settings


def _chosen(rng: np.random.Generator, of_100: Mapping[int, int]) -> int:
    return int(rng.choice(list(of_100), p=np.array(list(of_100.values())) / 100))


@contextmanager
def quickly() -> Iterator[None]:
    """Figures are drawn with their data and captions, and none is made a picture; nothing waits
    for the disk, and templates are read once."""

    def save(figure: Figure, stem: Path, data: pd.DataFrame, caption: str) -> list[Path]:
        stem.parent.mkdir(parents=True, exist_ok=True)
        PRINTED.append((stem.name, figure))
        Image.new("RGB", (8, 8)).save(stem.with_suffix(".png"))
        data.to_csv(stem.with_suffix(".csv"), index=False)
        return [stem.with_suffix(".png"), stem.with_suffix(".csv")]

    with (
        mock.patch.object(style, "save_figure", save),
        mock.patch.object(pages, "for_screen", lambda png: png),
        mock.patch.object(pages, "environment", TEMPLATES),
        mock.patch.object(os, "fsync"),
    ):
        yield


@contextmanager
def watched() -> Iterator[None]:
    """Figures are saved as ever, and kept to be looked at."""
    real = style.save_figure

    def save(figure: Figure, stem: Path, data: pd.DataFrame, caption: str) -> list[Path]:
        PRINTED.append((stem.name, figure))
        return real(figure, stem, data, caption)

    with mock.patch.object(style, "save_figure", save):
        yield


def empty(folder: Path) -> list[str]:
    """Figures without data, and panels in which nothing stands."""
    wrong = []
    for name, figure in PRINTED:
        if pd.read_csv(folder / f"{name}.csv").empty:
            wrong.append(f"{name} has no data")
        for axes in figure.axes:
            inside = [text for text in axes.texts if not isinstance(text, Annotation)]  # no heading
            drawn = [*axes.lines, *axes.collections, *axes.patches, *axes.images, *inside]
            if axes.get_visible() and not drawn:
                wrong.append(f"{name}: a panel is empty")
    return wrong


def keys() -> dict[str, list[str]]:
    """Labels of the keys of the figures, by the name of their files."""
    return {
        name: [text.get_text() for key in figure.legends for text in key.get_texts()]
        for name, figure in PRINTED
    }


def tried(seed: int, folder: Path, *, quick: bool) -> list[str]:
    """What is wrong with the page of one cohort."""
    volumes, scans, settings = drawn(np.random.default_rng(seed))
    card = drawn_card(seed, folder / "model")
    written = write_card(card)
    profile = card.profiles[seed % len(card.profiles)]
    scans = scans.assign(
        model=card.id, profile=profile, segmentation_key=segmentation_key(card, profile)
    )
    volumes.to_csv(folder / "v.csv", index=False)
    scans.to_csv(folder / "s.csv", index=False)
    PRINTED.clear()
    try:
        with warnings.catch_warnings(), quickly() if quick else watched():
            warnings.simplefilter("error", RuntimeWarning)
            analyse.run(folder / "v.csv", folder / "s.csv", folder / "a", **settings)
            tables = folder / "a", folder / "v.csv", folder / "s.csv"
            page = report.run(*tables, folder / "r", model=card.folder)
        figures = folder / "r" / "figures"
        tables = folder / "a", folder / "s.csv", folder / "v.csv"
        cohort = page_truth.Cohort.read(*tables, figures, written)
        html = page.read_text(encoding="utf-8")
        sexes = max(len(cohort.sexes), 1)
        of_figures = page_figures.untrue(page_figures.shown(html, figures, keys(), sexes))
        return page_truth.untrue(html, cohort) + of_figures + empty(figures)
    except CohortvolError as error:
        twice = volumes.duplicated(["scan_id", "structure"]).any()
        right = volumes.empty or (twice and "stand twice" in str(error))
        return [] if right else [f"refused: {error}"]
    except Exception:
        return [traceback.format_exc(limit=-4)]


def main() -> int:
    """Try them, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cohorts", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--quick", action="store_true", help="make no picture of any figure")
    options = parser.parse_args()
    logging.disable()
    bad = 0
    for seed in range(options.first, options.first + options.cohorts):
        with tempfile.TemporaryDirectory() as folder:
            wrong = tried(seed, Path(folder), quick=options.quick)
        bad += bool(wrong)
        for line in wrong:
            print(f"seed {seed}: {line}", flush=True)
        if (done := seed - options.first + 1) % 100 == 0:
            print(f"{done} cohorts, {bad} not right", file=sys.stderr, flush=True)
    print(f"{options.cohorts} cohorts, {bad} not right")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
