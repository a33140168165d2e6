"""Subcommands of `cohortvol models`: list, fetch, import and check models."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from cohortvol.cli.options import Device, InferenceProfile, ModelsDir, Threads
from cohortvol.cli.output import as_table, width
from cohortvol.errors import ConfigError, ModelError, TemporaryError

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="List, fetch, import and check models."
)


@app.command("list")
def list_models(models_dir: ModelsDir = Path("models")) -> None:
    """The models there are, and those that could be fetched or imported.

    Example:
    [dim]cohortvol models list[/]
    """
    from cohortvol.models import card as cards
    from cohortvol.models import catalogue, folders
    from cohortvol.models.files import shown

    names = folders.list_models(models_dir)
    typer.echo(f"In {models_dir}:" if names else f"{models_dir} holds no model.")
    for name in names:
        try:
            card = cards.load_card(models_dir / name)
        except ModelError as error:
            typer.echo(f"{shown(name)}\n  cannot be used: {error}")
            continue
        files = [card.folder / file for part in card.parts for file in part.files]
        complete = all(file.is_file() for file in files)
        n_bytes = sum(file.stat().st_size for file in files if file.is_file())
        typer.echo(f"{name}\n  {card.title}")
        typer.echo(f"  {n_bytes / 1e6:.0f} MB, {'complete' if complete else 'files missing'}")
        typer.echo(f"  licence: {card.licence}\n  source: {card.source}")
        typer.echo(f"  profiles: {', '.join(card.profiles)}")
        typer.echo(f"  {len(card.labels)} structures: {', '.join(card.labels.values())}")
    typer.echo("\nKnown, not here:")
    for known in catalogue.load().values():
        if known.id not in names:
            verb = "fetch" if all(part.url for part in known.parts) else "import --known"
            typer.echo(f"{known.id}\n  {known.title}\n  licence: {known.licence}")
            typer.echo(f"  cohortvol models {verb} {known.id}")


@app.command("fetch")
def fetch_model(
    model_id: Annotated[str, typer.Argument(help="Known model; `models list` shows them.")],
    downloads: Annotated[Path, typer.Option(help="Folder the zips are kept in.")] = Path(
        "models/downloads"
    ),
    sha256: Annotated[
        list[str] | None,
        typer.Option(help="Checksum a zip must have; one per zip, in their order."),
    ] = None,
    models_dir: ModelsDir = Path("models"),
) -> None:
    """Download the published weights of a known model and import them.

    A download that was cut goes on where it stopped. The checksum of every zip is recorded, and
    a zip that changes later is refused.

    Example:
    [dim]cohortvol models fetch total_mr[/]
    """
    from cohortvol.models import catalogue, weights
    from cohortvol.models.networks import import_known

    known = catalogue.find(model_id)
    if (models_dir / known.id).exists():
        raise ConfigError(f"{models_dir / known.id} is there already; delete it to fetch it again")
    urls = [part.url for part in known.parts if part.url is not None]
    if len(urls) < len(known.parts):
        licensed = ", ".join(part.name for part in known.parts if part.url is None)
        raise ConfigError(
            f"{model_id}: its weights {licensed} ask for a licence ({known.source})\n"
            f"  With your own copy: cohortvol models import FOLDER --known {model_id}"
        )
    if sha256 and len(sha256) != len(urls):
        raise ConfigError(f"--sha256 is given {len(sha256)} times; {model_id} has {len(urls)} zips")
    checksums: list[str | None] = [*sha256] if sha256 else [None] * len(urls)
    zips = []
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    ) as progress:
        for url, checksum in zip(urls, checksums, strict=True):
            bar = progress.add_task(url.rsplit("/", 1)[-1], total=None)
            tell = partial(_tell, progress, bar)
            try:
                zips.append(weights.fetch(url, downloads, checksum, tell))
            except TemporaryError as error:
                error.add_note(f"There: cohortvol models fetch {known.id}")
                error.add_note(f"Then copy its folder models/{known.id} to {models_dir / known.id}")
                raise
    _echo(import_known(known, zips, models_dir / known.id))


def _tell(progress: Progress, bar: TaskID, done: int, total: int | None) -> None:
    progress.update(bar, completed=done, total=total)


@app.command("verify")
def verify_models(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models to check; all if none is named.")
    ] = None,
    models_dir: ModelsDir = Path("models"),
) -> None:
    """Compare the files of models with the checksums on their cards, and arrays with plans.

    Example:
    [dim]cohortvol models verify embedded-v2[/]
    """
    from cohortvol.compute.installation import loading
    from cohortvol.models import card as cards
    from cohortvol.models import folders

    with loading("torch and nnU-Net"):
        from cohortvol.models.networks import check

    for name in names or folders.list_models(models_dir):
        card = cards.load_card(folders.find_model(name, models_dir))
        folders.verify(card)
        with redirect_stdout(io.StringIO()):  # nnU-Net prints
            check(card)
        n_files = sum(len(part.files) for part in card.parts)
        typer.echo(f"{card.id}: {n_files} files are what its card says")


@app.command("calibrate")
def calibrate_model(
    name: Annotated[str, typer.Argument(help="Model id, or its folder.")],
    labelled: Annotated[
        Path,
        typer.Option(
            help="Folder with images/ and labels/ of scans the model was not trained on; "
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


@app.command("consistency")
def consistency_of_model(
    name: Annotated[str, typer.Argument(help="Model id, or its folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    scans: Annotated[Path, typer.Option(help="Folder of *.nii.gz, or with images/ in it.")],
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


@app.command("import")
def import_model(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            help="nnU-Net v2 results folder or a zip of one; for a known model, also a folder "
            "that holds its parts."
        ),
    ] = None,
    known: Annotated[
        str | None,
        typer.Option(help="Known model to make of them: id, licence, labels come with it."),
    ] = None,
    model_id: Annotated[str | None, typer.Option("--id", help="Id of the model.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights.")] = None,
    title: Annotated[str, typer.Option(help="One line for lists and reports.")] = "",
    origin: Annotated[str, typer.Option(help="Where the weights come from.")] = "",
    citation: Annotated[str, typer.Option(help="What to cite.")] = "",
    fold: Annotated[
        list[str] | None, typer.Option(help="Fold to import; repeat for several, all if none.")
    ] = None,
    checkpoint: Annotated[
        str, typer.Option(help="Name of the checkpoint.")
    ] = "checkpoint_final.pth",
    sha256: Annotated[str | None, typer.Option(help="Checksum the source must have.")] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(help="THEIRS=OURS, a label name to a structure name; repeat for several."),
    ] = None,
    models_dir: ModelsDir = Path("models"),
) -> None:
    r"""Make a model folder out of trained nnU-Nets: safe weights, a card, equal logits.

    Without SOURCES a known model is looked for where its publisher's program keeps weights:
    $COHORTVOL_WEIGHTS, $TOTALSEG_WEIGHTS_PATH, ~/.totalsegmentator, $MRSEG_WEIGHTS_PATH.

    Example:
    [dim]cohortvol models import nnUNet_results/Dataset850_Mine \
    --id my-model --licence CC-BY-4.0
    cohortvol models import --known total_mr[/]
    """
    from cohortvol.models.files import check_id

    if known is not None:
        from cohortvol.models import catalogue, weights
        from cohortvol.models.networks import import_known

        fixed = {
            "--licence": licence,
            "--title": title,
            "--origin": origin,
            "--citation": citation,
            "--fold": fold,
            "--sha256": sha256,
            "--rename": rename,
        }
        given = [name for name, value in fixed.items() if value]
        if given:
            raise ConfigError(
                f"a known model comes with its own {', '.join(given)}; leave them out"
            )
        model = catalogue.find(known)
        check_id(model_id or model.id)
        found = weights.locate(model, sources or weights.places())
        _echo(import_known(model, found, models_dir / (model_id or model.id)))
        return
    if not sources or len(sources) != 1 or model_id is None or licence is None:
        raise ConfigError(
            "models import needs one folder or zip, --id and --licence; or --known with the id of "
            "a known model"
        )
    check_id(model_id)  # before it becomes a path
    names = _pairs(rename or [])
    from cohortvol.models.networks import Source, import_nnunet

    card = import_nnunet(
        [Source(sources[0], folds=fold or (), sha256=sha256, rename=names)],
        models_dir / model_id,
        model_id=model_id,
        licence=licence,
        title=title,
        origin=origin,
        citation=citation,
        checkpoint=checkpoint,
    )
    _echo(card)


def _pairs(words: list[str]) -> dict[str, str]:
    """``["left kidney=kidney_left"]`` as a mapping."""
    wrong = [word for word in words if not all(word.partition("="))]
    if wrong:
        raise ConfigError(f"--rename needs THEIRS=OURS, not {', '.join(map(repr, wrong))}")
    return dict(word.split("=", 1) for word in words)


def _echo(card: Any) -> None:
    typer.echo(f"{card.folder}: {len(card.labels)} structures: {', '.join(card.labels.values())}")
