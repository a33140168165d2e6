"""`cohortvol evaluate`: label maps of models against those of experts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortvol.cli.options import AgeRange
from cohortvol.errors import ConfigError


def evaluate(
    expert: Annotated[
        Path, typer.Option(help="Dataset with experts' label maps, and images where there are any.")
    ],
    model: Annotated[
        list[str],
        typer.Option(help="NAME=FOLDER: a model's label maps, named by scan; repeat for several."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the tables and the page.")],
    layout: Annotated[
        str,
        typer.Option(
            help="Of the dataset: auto, chaos (DICOM and PNG), amos (also nnU-Net's imagesTr and "
            "labelsTr), totalsegmentator (sNNNN/segmentations) or pairs (labels/ and images/)."
        ),
    ] = "auto",
    expert_labels: Annotated[
        str | None,
        typer.Option(
            help="What the expert's labels mean: chaos_mr, amos22, mrsegmentator, total_mr, or a "
            "card.json, dataset.json or table of label and structure. Not needed where the files "
            "say it."
        ),
    ] = None,
    model_labels: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=LABELS: what a model's labels mean, as for --expert-labels; `same` for the "
            "expert's. Repeat for several."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Part of the official split (meta.csv) of the layout totalsegmentator: test, val "
            "or train. A model trained on the data set is to be judged on test alone."
        ),
    ] = None,
    published: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=MODEL: set the published Dice of a known model (total_mr, mrsegmentator) "
            "beside those of --model NAME; none for nothing. Without it, what --model-labels "
            "says. Repeat for several."
        ),
    ] = None,
    second_reader: Annotated[
        Path | None,
        typer.Option(
            help="Label maps of a second reader, named by scan: models against each reader beside "
            "the readers against each other."
        ),
    ] = None,
    second_reader_labels: Annotated[
        str | None,
        typer.Option(
            help="What the second reader's labels mean, as for --model-labels. Without it, what "
            "--expert-labels says, or the files do."
        ),
    ] = None,
    scans: Annotated[
        Path | None,
        typer.Option(
            help="Table with scan_id, and subject_id, sequence, scanner, age_years where known, "
            "such as a manifest: averages by group besides."
        ),
    ] = None,
    tolerance_mm: Annotated[
        float, typer.Option(min=0, help="Tolerance of the normalised surface Dice, mm.")
    ] = 3.0,
    rule: Annotated[
        str,
        typer.Option(
            help="paper: what the expert did not draw is not compared; strict: it counts as 0 "
            "where the model found it."
        ),
    ] = "paper",
    bootstrap: Annotated[
        int, typer.Option(min=100, help="Bootstrap draws of people, for the intervals.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same intervals.")] = 1,
    correction: Annotated[
        str, typer.Option(help="Of the tests between models: holm or bh (Benjamini-Hochberg).")
    ] = "holm",
    processes: Annotated[int, typer.Option(min=1, help="Scans compared at a time.")] = 1,
    age_range_years: AgeRange = (0.0, 120.0),
) -> None:
    r"""Compare models' label maps with experts': Dice, surface distances, volumes, and a page.

    Structures are joined by their names, whatever their label indices are. Nothing is resampled:
    a label map on another grid is a row with a reason. A structure that the expert drew and the
    model missed has Dice 0; one that the expert did not draw is not compared. Writes pairs,
    summary, comparisons, published, reader_pairs and readers (.parquet and .csv), evaluate.json,
    figures/ and index.html.

    Where a model's Dice was published it stands beside the one found here, with its test set and
    source. With a second reader a model is as good as readers are where its agreement with both is
    that of the readers with each other, on the structures that both drew.

    Example:
    [dim]cohortvol evaluate --expert data/chaos --expert-labels chaos_mr \
    --model embedded=results/mine/segment/embedded-v2 \
    --model-labels embedded=models/embedded-v2/card.json --out results/evaluation
    cohortvol evaluate --expert data/amos22 --model total=seg/total --model mrseg=seg/mrseg \
    --model-labels total=total_mr --model-labels mrseg=mrsegmentator --scans scans.csv --out out
    cohortvol evaluate --expert Data_3D --model mine=Data_3D/Segmentation --out out
    cohortvol evaluate --expert training/totalsegmentator-mri --split test --model mine=seg/mine \
    --model-labels mine=models/mine/card.json --published mine=total_mr \
    --second-reader reader2 --out out[/]
    """
    from cohortvol.anatomy.subject_folders import SPLITS
    from cohortvol.tools.evaluate import Model, Settings, run
    from cohortvol.tools.evaluate.datasets import LAYOUTS
    from cohortvol.tools.evaluate.measures import RULES
    from cohortvol.tools.evaluate.readers import SECOND
    from cohortvol.tools.evaluate.statistics import CORRECTIONS

    for option, value, known in (
        ("--layout", layout, LAYOUTS),
        ("--rule", rule, RULES),
        ("--correction", correction, tuple(CORRECTIONS)),
        *([] if split is None else [("--split", split, SPLITS)]),
    ):
        if value not in known:
            raise ConfigError(f"{option} {value}: must be one of {', '.join(known)}")
    folders = _named("--model", model)
    labels = _named("--model-labels", model_labels or [])
    beside = _named("--published", published or [])
    for option, named in (("--model-labels", labels), ("--published", beside)):
        if strangers := sorted(set(named) - set(folders)):
            raise ConfigError(f"{option} {strangers[0]}: no --model has this name")
    run(
        expert,
        [
            Model(name, Path(folder), labels.get(name), beside.get(name))
            for name, folder in folders.items()
        ],
        out,
        layout=layout,
        expert_labels=expert_labels,
        split=split,
        second_reader=None
        if second_reader is None
        else Model(SECOND, second_reader, second_reader_labels or expert_labels),
        scans=scans,
        settings=Settings(tolerance_mm, rule, bootstrap, seed, correction),
        age_range_years=age_range_years,
        processes=processes,
    )


def _named(option: str, given: list[str]) -> dict[str, str]:
    """``NAME=VALUE`` texts as a mapping, each name once."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"{option} {text}: must be NAME=VALUE")
        if name in found:
            raise ConfigError(f"{option} {name}: this name stands twice")
        found[name] = value
    return found
