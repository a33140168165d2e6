"""`cohortvol models import`: a trained nnU-Net as a model of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortvol.cli.options import ModelsDir
from cohortvol.cli.output import echo_model
from cohortvol.errors import ConfigError


def import_model(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            help="nnU-Net v2 results folder or a zip of one; several are averaged, as "
            "nnUNetv2_ensemble does. For a known model, also a folder that holds its parts."
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
    training: Annotated[
        list[str] | None,
        typer.Option(
            help="Which of several trainings in it, such as 3d_fullres, or its whole name; repeat "
            "for several, which are averaged."
        ),
    ] = None,
    previous: Annotated[
        Path | None,
        typer.Option(
            help="Results folder or zip of the stage before a cascade, where that is neither "
            "beside it nor in the same zip."
        ),
    ] = None,
    postprocessing: Annotated[
        Path | None,
        typer.Option(
            help="The postprocessing.pkl or .json that nnUNetv2_find_best_configuration names: of "
            "which labels the largest piece is kept."
        ),
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="Checksum the source must have.")] = None,
    orientation: Annotated[
        str | None,
        typer.Option(
            help="Axes on which the network wants a scan: RAS, LPS or as-stored; what the reader "
            "does that plans.json names if not given."
        ),
    ] = None,
    stored_axes: Annotated[
        str | None,
        typer.Option(
            help="Axes on which the training images are stored, such as LPS: scans stored "
            "otherwise are flagged where the network takes them as stored."
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(help="THEIRS=OURS, a label name to a structure name; repeat for several."),
    ] = None,
    models_dir: ModelsDir = Path("models"),
) -> None:
    r"""Make a model folder out of trained nnU-Nets: safe weights, a card, equal logits.

    A cascade takes the stage before it along. Several trainings become one model, an ensemble.

    Without SOURCES a known model is looked for in $COHORTVOL_WEIGHTS and where its publisher's
    program keeps weights: $TOTALSEG_WEIGHTS_PATH, ~/.totalsegmentator; $MRSEG_WEIGHTS_PATH,
    ~/.mrsegmentator; $VIBESEG_WEIGHTS_PATH; or in their packages, where these are installed.
    A zip must have the checksum that its publisher says.

    Example:
    [dim]cohortvol models import nnUNet_results/Dataset850_Mine \
    --id my-model --licence CC-BY-4.0
    cohortvol models import nnUNet_results/Dataset850_Mine --training 2d --training 3d_fullres \
    --postprocessing postprocessing.pkl --id mine --licence CC-BY-4.0
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
            "--training": training,
            "--previous": previous,
            "--postprocessing": postprocessing,
            "--sha256": sha256,
            "--rename": rename,
            "--orientation": orientation,
            "--stored-axes": stored_axes,
        }
        given = [name for name, value in fixed.items() if value]
        if given:
            raise ConfigError(
                f"a known model comes with its own {', '.join(given)}; leave them out"
            )
        model = catalogue.find(known)
        check_id(model_id or model.id)
        found = weights.locate(model, sources or [])
        echo_model(import_known(model, found, models_dir / (model_id or model.id)))
        return
    if not sources or model_id is None or licence is None:
        raise ConfigError(
            "models import needs a folder or zip, --id and --licence; or --known with the id of "
            "a known model"
        )
    check_id(model_id)  # before it becomes a path
    trainings: list[str | None] = [*training] if training else [None]
    wanted = [(place, name) for place in sources for name in trainings]
    if sha256 is not None and len(wanted) > 1:
        raise ConfigError("--sha256 is of one folder or zip; import several without it")
    names = _pairs(rename or [])
    from cohortvol.models.networks import Source, import_nnunet
    from cohortvol.models.postprocessing import read_postprocessing

    steps = () if postprocessing is None else read_postprocessing(postprocessing)
    card = import_nnunet(
        [
            Source(
                place,
                part="main" if len(wanted) == 1 else f"network_{number}",
                folds=fold or (),
                sha256=sha256,
                rename=names,
                training=name,
                previous=previous,
                keep_largest=steps,
            )
            for number, (place, name) in enumerate(wanted, start=1)
        ],
        models_dir / model_id,
        model_id=model_id,
        licence=licence,
        title=title,
        origin=origin,
        citation=citation,
        checkpoint=checkpoint,
        orientation=orientation,
        stored_axes=stored_axes,
        ensemble=len(wanted) > 1,
    )
    echo_model(card)


def _pairs(words: list[str]) -> dict[str, str]:
    """``["left kidney=kidney_left"]`` as a mapping."""
    wrong = [word for word in words if not all(word.partition("="))]
    if wrong:
        raise ConfigError(f"--rename needs THEIRS=OURS, not {', '.join(map(repr, wrong))}")
    return dict(word.split("=", 1) for word in words)
