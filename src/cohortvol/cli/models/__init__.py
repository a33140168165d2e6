"""`cohortvol models`: list, fetch, import and check models, a file for each."""

import typer

from cohortvol.cli.models.calibrate import calibrate_model
from cohortvol.cli.models.consistency import consistency_of_model
from cohortvol.cli.models.fetch import fetch_model
from cohortvol.cli.models.import_model import import_model
from cohortvol.cli.models.label_table import label_table
from cohortvol.cli.models.list import list_models
from cohortvol.cli.models.verify import verify_models

app = typer.Typer(
    name="models",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="List, fetch, import and check models.",
)
for _name, _command in (
    ("list", list_models),
    ("fetch", fetch_model),
    ("verify", verify_models),
    ("calibrate", calibrate_model),
    ("consistency", consistency_of_model),
    ("import", import_model),
    ("label-table", label_table),
):
    app.command(_name)(_command)
