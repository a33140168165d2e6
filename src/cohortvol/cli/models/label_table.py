"""`cohortvol models label-table`: a model of label maps that were made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortvol.cli.options import ModelsDir
from cohortvol.cli.output import echo_model


def label_table(
    source: Annotated[
        str,
        typer.Argument(
            help="CSV, TSV or Parquet with the columns label, name, structure and layer; or the "
            "name of a vocabulary: total_mr, vibesegmentator, mrsegmentator, amos22."
        ),
    ],
    model_id: Annotated[str, typer.Option("--id", help="Id of the model.")],
    title: Annotated[str, typer.Option(help="One line for lists and reports.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the label maps.")] = "",
    origin: Annotated[
        str, typer.Option(help="What made the label maps: program, version, weights.")
    ] = "",
    citation: Annotated[str, typer.Option(help="What to cite.")] = "",
    models_dir: ModelsDir = Path("models"),
) -> None:
    r"""Make a model of label maps that were made elsewhere, out of a table of their labels.

    It has no weights. The column dseg of the manifest says where the label map of each scan lies:
    one file; a folder with one file per structure, called after the column name of the table; or
    such files by a path with * for the name. Everything after segment is as of any model, and no
    GPU is needed.

    A label with an empty structure is known and left out. Labels of one structure are put together.
    Structures that overlap need different numbers in the column layer.

    Example:
    [dim]cohortvol models label-table total_mr --id ukb-ts218 --origin "TotalSegmentator 2.18"
    cohortvol models label-table labels.tsv --id nako-vibe[/]
    """
    from cohortvol.anatomy import structures
    from cohortvol.models.files import check_id
    from cohortvol.models.label_table import read_labels, write_model

    check_id(model_id)  # before it becomes a path
    labels = read_labels(source)
    card = write_model(
        labels,
        models_dir / model_id,
        model_id=model_id,
        title=title,
        licence=licence,
        origin=origin,
        citation=citation,
    )
    echo_model(card)
    own = [name for name in card.labels.values() if name not in structures.load()]
    if own:
        typer.echo(f"  Measured without a code, a side and a plausible range: {', '.join(own)}.")
    left_out = [one.name for one in labels if not one.structure]
    if left_out:
        typer.echo(f"  Known and left out: {', '.join(left_out)}.")
