"""The first screen of the page, and the checklists that say where its parts stand."""

from __future__ import annotations

import csv

import pandas as pd
import pytest

from cohortvol.drawing import pages
from cohortvol.stages.report.figures import gallery as drawing
from cohortvol.stages.report.page import answer, checklists
from cohortvol.stages.report.tables import inputs
from cohortvol.stages.report.tables.inputs import BESIDE_COLUMNS

pytestmark = pytest.mark.slow
SLOPE = "slope_pct_per_decade"


def estimates(name: str, value: float) -> dict[str, float]:
    return {name: value, f"{name}_ci_low": value - 1, f"{name}_ci_high": value + 1}


def test_the_first_screen_says_how_many_change_how_fast_and_how_sure():
    def slopes(structure, value, q):
        return [{"structure": structure, "sex": "all", "model": model, "q_value": q, "note": None,
                 "n_used": 100, **estimates(SLOPE, value)} for model in ("M1", "M2")]  # fmt: skip

    made = pd.DataFrame(
        [*slopes("liver", -3.0, 1e-9), *slopes("spleen", -5.0, 1e-9), *slopes("aorta", 9.0, 1e-9),
         *slopes("pancreas", -0.1, 0.6), *slopes("stomach", 0.2, 0.5)]
    )  # fmt: skip
    others = pd.DataFrame(
        [{"structure": "liver", "sex": "all", "analysis": way, "model": "M2",
          **estimates(SLOPE, value)}
         for way, value in (("complete", -3.0), ("ipw", -2.5), ("huber", -0.5), ("tobit", -8.0))]
    ).reindex(columns=BESIDE_COLUMNS["sensitivity"])  # fmt: skip
    tests = pd.DataFrame(
        [("liver", 0.4), ("spleen", 0.4), ("aorta", None), ("pancreas", 1e-6), ("stomach", 0.3)],
        columns=["structure", "q_value"],
    )
    none = pd.DataFrame()
    beside = {"sensitivity": others, "nonlinearity": tests}
    analysis = inputs.Analysis(made, none, none, none, none, none, none, none, {}, beside)
    found = answer.answer(analysis, level=0.05)
    assert found is not None
    assert found.sentences[0] == (
        "Of 4 structures, 2 are smaller and 1 is larger at higher age; "
        "1 bends without a clear slope."
    )
    assert "spleen −5.0 (−6.0 to −4.0) % and aorta 9.0 (8.0 to 10.0) %" in found.sentences[1]
    assert "(stomach) has no clear slope" in found.sentences[2]
    assert [row.name for row in found.rows] == ["Spleen", "Liver", "Pancreas", "Aorta", "Stomach"]
    liver = found.rows[1]
    assert liver.sure == "q < 0.001; 1 of 3 other analyses agree"
    assert found.rows[2].sure == "q = 0.60; bends"
    assert found.rows[3].sure == "q < 0.001; bend not tested"
    assert 0 <= liver.low < liver.at < liver.high < found.zero < found.rows[3].at <= 100


def test_every_place_that_a_checklist_names_can_be_there():
    template = (pages.templates_folder() / "page.html").read_text(encoding="utf-8")
    tables = {"table1", "slopes", "interactions", "correlations", "summary", "dropped",
              "age_bands", "slopes_at_age", "literature", "tipping"}  # fmt: skip
    numbers = {}
    for name in checklists.CHECKLISTS:
        with (pages.templates_folder() / "checklists" / f"{name}.tsv").open() as stream:
            items = list(csv.DictReader(stream, delimiter="\t"))
        numbers[name] = [item["item"] for item in items]
        for place in [p for item in items for p in item["where"].split("; ") if p]:
            kind, one = place.split(" ", 1)
            known = {"section": f'<section id="{one}"' in template,
                     "figure": one in drawing.NAMES, "table": one in tables}  # fmt: skip
            assert known[kind], place
    assert numbers["claim"] == [str(n) for n in range(1, 43)]
    assert [int(n.rstrip("abcde")) for n in numbers["strobe"]] == sorted(
        [*range(1, 23), 12, 12, 12, 12]
    )


def test_an_item_of_which_the_tables_know_nothing_is_for_the_authors():
    items = checklists.read(pages.templates_folder(), "strobe", {"figure flow"})
    table = checklists.as_table(items).set_index("item")["where"]
    assert table["13"] == "index.html#flow (figures/flow.pdf)"
    assert table["22"] == table["12e"] == "for the authors"
