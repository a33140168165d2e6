"""`cohortvol models consistency`: the error of a model without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cohortvol.cli.options import Device, InferenceProfile, ModelsDir, Threads
from cohortvol.cli.output import as_table, width
from cohortvol.errors import ConfigError


def consistency_of_model(
    name: Annotated[str, typer.Argument(help="Model id, or its folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    scans: Annotated[
        Path, typer.Option(help="Folder of *.nii.gz, or with images/, images_2/, ... in it.")
    ],
    labelled: Annotated[
        bool,
        typer.Option(
            "--labelled",
            help="Its labels/ are right, and the model was not trained on them; as for "
            "`cohortvol models calibrate`. Or it is held_out/ in the --work of `cohortvol train`.",
        ),
    ] = False,
    write: Annotated[
        bool,
        typer.Option("--write", help="With --labelled: put what agreement tells on the card."),
    ] = False,
    profile: InferenceProfile = None,
    note: Annotated[str, typer.Option(help="For the card: which scans, labelled by whom.")] = "",
    device: Device = "auto",
    threads: Threads = 0,
    models_dir: ModelsDir = Path("models"),
) -> None:
    r"""Estimate how far labels can be trusted on scans that nobody has labelled.

    Every scan is segmented five times: as it is, darker, brighter, with uneven light and with
    noise. Where the copies disagree, the labels are weak. What an agreement says of the true Dice
    is read from labelled scans (--labelled); with --write it goes on the model's card, and later
    runs on scans without labels give the Dice to expect. `cohortvol train` leaves held_out/, where
    each fold lies beside the scans it has not seen.

    Example:
    [dim]cohortvol models consistency mine --scans data/labelled --labelled --out checked --write
    cohortvol models consistency mine --scans work/held_out --labelled --out checked --write
    cohortvol models consistency mine --scans data/new --out new[/]
    """
    from cohortvol.models import card as cards
    from cohortvol.models import folders
    from cohortvol.tools.judge import consistency

    if write and not labelled:
        raise ConfigError("--write needs --labelled: only labels say what agreement tells")
    folder = folders.find_model(name, models_dir)
    found, expected = consistency.run(
        folder,
        scans,
        out,
        labelled=labelled,
        write=write,
        profile=profile,
        note=note,
        device=device,
        threads=threads,
    )
    told = "nobody has measured what agreement tells of this model: see --labelled"
    if expected is not None:
        told = (
            f"expected Dice off by {expected.error:.3f} in the mean of {expected.n_scans} "
            f"labelled scans, correlation {expected.correlation_text}"
        )
    table = as_table(consistency.by_structure(found), f"{cards.load_card(folder).id}: {told}")
    Console(width=width()).print(table)
    typer.echo(f"every scan: {out / 'consistency.csv'}")
