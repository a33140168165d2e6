"""docs/tables.md is complete: it is what the schemas in the code say."""

from pathlib import Path

from cohortvol.stages import analyse
from cohortvol.store import schemas
from cohortvol.tools import evaluate

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_every_column_of_every_table_is_on_the_page():
    page = (DOCS / "tables.md").read_text(encoding="utf-8")
    for name, columns in (schemas.SCHEMAS | analyse.SCHEMAS | evaluate.SCHEMAS).items():
        assert f"## `{name}`" in page
        assert [column for column in columns if f"| `{column}` |" not in page] == [], name


def test_a_length_a_volume_and_a_time_say_their_unit():
    units = {"_mm": "mm", "_ml": "mL", "_mm2": "mm2", "_cm": "cm", "_kg": "kg", "_years": "years"}
    for name, columns in (schemas.SCHEMAS | analyse.SCHEMAS | evaluate.SCHEMAS).items():
        for column, about in columns.items():
            for ending, unit in units.items():
                if column.endswith(ending):
                    assert unit in about.meaning, f"{name}: {column} does not say {unit}"
