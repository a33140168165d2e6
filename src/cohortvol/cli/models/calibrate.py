"""`cohortvol models calibrate`: intervals around the volumes of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cohortvol.cli.options import Device, InferenceProfile, ModelsDir, Threads
from cohortvol.cli.output import as_table, width


def calibrate_model(
    name: Annotated[str, typer.Argument(help="Model id, or its folder.")],
    labelled: Annotated[
        Path,
        typer.Option(
            help="Folder with images/ and labels/ of scans the model was not trained on; "
            "further channels are in images_2/ and so on, under the same names. "
            "dseg.tsv (index, name) in it names the labels, the model's own indices if not there."
        ),
    ],
    profile: InferenceProfile = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Write nothing: count how many of these scans the intervals cover."
        ),
    ] = False,
    note: Annotated[str, typer.Option(help="For the card: which scans, labelled by whom.")] = "",
    device: Device = "auto",
    threads: Threads = 0,
    models_dir: ModelsDir = Path("models"),
) -> None:
    r"""Measure on labelled scans how far volumes are off, so that intervals hold what they say.

    Volumes get an interval where the profile ends in +softmax. Its width is the network's own
    doubt times a factor per structure, which this command reads from the scans and writes on the
    model's card; labels and checksums stay. About 20 scans are needed for 95 %; of fewer the card
    says what they can tell. Check it on other scans with --check.

    Example:
    [dim]cohortvol models calibrate total_mr --labelled data/labelled --note "20 T1 scans"
    cohortvol models calibrate total_mr --labelled data/others --check[/]
    """
    from cohortvol.models import card as cards
    from cohortvol.models import folders
    from cohortvol.models.inference import recipe_of
    from cohortvol.tools.judge import calibrate
    from cohortvol.tools.judge.labelled import write_on_card

    folder = folders.find_model(name, models_dir)
    card = cards.load_card(folder)
    chosen = cards.choose_profile(card, profile).name
    found = calibrate.measured(folder, labelled, chosen, device=device, threads=threads)
    if check:
        calibration = card.calibration(chosen)
    else:
        calibration = calibrate.calibration_of(found, labelled, chosen, note)
        write_on_card(folder, "volume_interval", calibration.to_card())
    worth = "not calibrated" if calibration is None else f"calibrated on {calibration.source}"
    title = f"{card.id}, {recipe_of(chosen)}: {worth}"
    Console(width=width()).print(as_table(calibrate.coverage(found, calibration), title))
