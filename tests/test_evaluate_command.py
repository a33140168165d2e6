"""Evaluation: the command, from folders of label maps to tables and a page."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from cohortvol import cli
from cohortvol.store.tables import read_table
from cohortvol.tools.evaluate import SCHEMAS
from cohortvol.tools.evaluate.contours import Picture, contour_figure
from cohortvol.tools.evaluate.labels import LabelMap
from labelled_bodies import body, save

pytestmark = pytest.mark.slow


@pytest.fixture
def dataset(tmp_path):
    """Six people; the second model is worse, has no map of one and another grid for another."""
    for number in range(1, 7):
        name = f"{number}.nii.gz"
        without = ["spleen"] if number == 2 else []
        save(tmp_path / "data" / "labels" / f"label_{name}", body(without=without))
        save(tmp_path / "data" / "images" / f"image_{name}", body() * 10)
        save(tmp_path / "good" / name, body(shift=number % 2))
        if number == 5:
            save(tmp_path / "poor" / name, body(), np.diag([1.0, 1.5, 3.0, 1.0]))
        elif number != 6:
            without = ["kidney_left"] if number == 1 else []
            save(tmp_path / "poor" / name, body(shift=2, without=without))
    table = pd.DataFrame(
        {
            "scan_id": [str(number) for number in range(1, 7)],
            "sequence": ["T1"] + ["T2"] * 5,
            "age_years": [30, 40, 50, 60, 70, 80],
        }
    )
    table.to_csv(tmp_path / "scans.csv", index=False)
    return tmp_path


def evaluate(dataset, out, *more):
    return cli.run(
        ["evaluate", "--expert", str(dataset / "data"), "--expert-labels", "chaos_mr",
         "--model", f"good={dataset / 'good'}", "--model-labels", "good=same",
         "--model", f"poor={dataset / 'poor'}", "--model-labels", "poor=chaos_mr",
         "--scans", str(dataset / "scans.csv"), "--bootstrap", "200", "--out", str(out), *more]
    )  # fmt: skip


def test_the_command_writes_every_table_and_a_page_that_holds_all_it_shows(dataset):
    out = dataset / "out"
    assert evaluate(dataset, out) == 0
    tables = {
        name: read_table(out / f"{name.split('/')[1]}.parquet", columns)
        for name, columns in SCHEMAS.items()
    }
    pairs = tables["evaluate/pairs"]
    assert pairs.groupby("model").size().to_dict() == {"good": 24, "poor": 18}
    reasons = pairs[pairs["model"] == "poor"].set_index("scan_id")["reason"].dropna()
    assert reasons["5"] == "EVAL_OTHER_GRID"
    assert reasons["6"] == "EVAL_NO_LABEL_MAP"
    assert reasons["1"] == "EVAL_MISSED"
    assert reasons["2"] == "EVAL_EXPERT_ABSENT"
    record = json.loads((out / "evaluate.json").read_text())
    assert record["settings"]["tolerance_mm"] == 3
    assert [model["n_label_maps"] for model in record["models"]] == [6, 5]
    html = (out / "index.html").read_text()
    assert not re.search(r"(src|href)=\"(https?:)?//", html)
    assert html.count('<img src="data:image/png') == 3
    for name in ("boxes", "bland_altman", "contours"):
        assert (out / "figures" / f"{name}.pdf").stat().st_size > 1000
    shown = pd.read_csv(out / "figures" / "contours.csv")
    assert shown["case"].tolist() == ["lowest", "lowest", "highest", "highest"]


def test_a_slice_without_its_image_says_so():
    voxels = body()
    expert = LabelMap(voxels, np.eye(4), {"liver": 1})
    for grey, said in (
        (None, ["no image"]),
        (np.ones((2, 3, 4)), ["image of another grid"]),
        (np.ones(voxels.shape), []),
    ):
        picture = Picture("1", grey, np.eye(4), expert, {"m": expert}, {"m": 1.0})
        (axis,) = contour_figure([picture], ["m"]).figure.axes
        assert [text.get_text() for text in axis.texts] == said


def test_a_group_of_fewer_than_five_people_is_not_printed(dataset):
    out = dataset / "out"
    evaluate(dataset, out)
    summary = pd.read_csv(out / "summary.csv")
    few = summary[summary["group"] == "T1"]
    assert set(few["reason"]) == {"EVAL_FEW_SUBJECTS"}
    assert few[["n_subjects", "n_pairs", "mean"]].isna().all().all()
    enough = summary[(summary["group"] == "T2") & (summary["model"] == "good")]
    assert enough.loc[enough["structure"] == "liver", "mean"].notna().all()
    html = (out / "index.html").read_text()
    assert "&lt;5" in html


def test_two_processes_write_the_bytes_of_one(dataset):
    for processes in ("1", "2"):
        assert evaluate(dataset, dataset / processes, "--processes", processes) == 0
    for name in ("pairs.parquet", "summary.parquet", "comparisons.parquet", "index.html"):
        assert (dataset / "1" / name).read_bytes() == (dataset / "2" / name).read_bytes(), name


def test_two_label_maps_of_one_scan_are_refused(dataset, capsys):
    save(dataset / "good" / "copy" / "3_dseg.nii.gz", body())
    assert evaluate(dataset, dataset / "out") == 64
    assert "two files each, 3" in capsys.readouterr().err
