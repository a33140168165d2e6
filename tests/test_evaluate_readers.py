"""Models against two readers, published Dice beside ours, and the official split."""

import json

import numpy as np
import pandas as pd
import pytest

from cohortvol import cli
from cohortvol.anatomy.nifti import nifti_gz
from cohortvol.errors import ConfigError
from cohortvol.models import published
from cohortvol.store.tables import append_rows, read_table
from cohortvol.tools.evaluate import SCHEMAS
from cohortvol.tools.evaluate.datasets import find_cases
from cohortvol.tools.evaluate.outputs import PAIRS, READER_PAIRS
from cohortvol.tools.evaluate.page_tables import published_table, readers_table
from cohortvol.tools.evaluate.published import beside, published_model
from cohortvol.tools.evaluate.readers import EXPERT, SECOND, compare_readers
from subject_folders import write_meta, write_subject

AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])
STRUCTURES = ("liver", "spleen", "kidney_left")
VALUES = ("dice", "nsd", "hd95_mm", "absolute_volume_error_pct")


def masks(shift=0, without=()):
    """Liver on the right, spleen and left kidney on the left; axes run to the left and back."""
    found = {name: np.zeros((24, 16, 12), bool) for name in STRUCTURES}
    found["liver"][2 + shift : 12, 3:12, 2:10] = True
    found["spleen"][16 : 21 + shift, 8:14, 3:9] = True
    found["kidney_left"][15:20, 2:6, 2 + shift : 7] = True
    return {name: mask & (name not in without) for name, mask in found.items()}


def label_map(found):
    return sum(place * mask.astype(np.uint8) for place, mask in enumerate(found.values(), 1))


@pytest.fixture
def dataset(tmp_path):
    """Seven subjects of TotalSegmentator's layout, five for testing; a second reader; a model."""
    image = np.zeros((24, 16, 12), np.int16)
    for number in range(7):
        write_subject(tmp_path / "mri" / f"s{number}", image, masks(), AFFINE)
        without = ["spleen"] if number == 3 else []
        write_subject(tmp_path / "second" / f"s{number}", image, masks(number % 2, without), AFFINE)
        (tmp_path / "model").mkdir(exist_ok=True)
        content = nifti_gz(label_map(masks(1 + number % 2)), AFFINE)
        (tmp_path / "model" / f"s{number}.nii.gz").write_bytes(content)
    write_meta(tmp_path / "mri", {f"s{n}": "test" if n > 1 else "train" for n in range(7)})
    labels = {str(place): name for place, name in enumerate(STRUCTURES, 1)}
    (tmp_path / "card.json").write_text(json.dumps({"id": "mine", "labels": labels}))
    return tmp_path


def evaluate(dataset, *more):
    return cli.run(
        ["evaluate", "--expert", str(dataset / "mri"), "--model", f"mine={dataset / 'model'}",
         "--model-labels", f"mine={dataset / 'card.json'}", "--bootstrap", "200",
         "--out", str(dataset / "out"), *more]
    )  # fmt: skip


def tables_of(folder):
    return {
        name.split("/")[1]: read_table(folder / f"{name.split('/')[1]}.parquet", columns)
        for name, columns in SCHEMAS.items()
    }


@pytest.mark.slow
def test_the_command_writes_readers_and_published_dice_into_tables_and_page(dataset):
    code = evaluate(
        dataset, "--split", "test", "--published", "mine=total_mr",
        "--second-reader", str(dataset / "second"),
    )  # fmt: skip
    assert code == 0
    tables = tables_of(dataset / "out")
    assert sorted(tables["pairs"]["scan_id"].unique()) == ["s2", "s3", "s4", "s5", "s6"]
    readers = tables["readers"].set_index(["structure", "metric"])
    liver, spleen = readers.loc[("liver", "dice")], readers.loc[("spleen", "dice")]
    assert (liver["n_pairs"], liver["n_one_reader"]) == (5, 0)
    assert (spleen["n_pairs"], spleen["n_one_reader"]) == (4, 1)
    # Of 720 voxels a shift takes 72: the reader is shifted by 1 in odd scans, the model by 1 or 2.
    rows = np.array([2 * 648 / 1368, 2 * 576 / 1296])[[0, 1, 0, 1, 0]]
    assert liver["expert"] == pytest.approx(rows.mean())
    assert liver["readers"] == pytest.approx(np.mean([1, 2 * 648 / 1368, 1, 2 * 648 / 1368, 1]))
    second = np.array([2 * 648 / 1368, 2 * 576 / 1224])[[0, 1, 0, 1, 0]]
    assert liver["second"] == pytest.approx(second.mean())
    assert liver["difference"] == pytest.approx((liver["expert"] + liver["second"]) / 2
                                                - liver["readers"])  # fmt: skip
    for name in ("expert", "second", "readers", "difference"):
        assert liver[f"{name}_ci_low"] <= liver[name] <= liver[f"{name}_ci_high"]
    theirs = tables["published"].set_index("structure")
    assert theirs.loc["liver", "published_dice"] == 0.960
    assert theirs.loc["liver", "dice"] == pytest.approx(rows.mean())
    assert theirs.loc["liver", "test_set"] == "TotalSegmentator MRI internal test"
    html = (dataset / "out" / "index.html").read_text()
    assert html.count('<img src="data:image/png') == 4
    assert "results_all_classes_mr.json@704282a" in html
    assert (dataset / "out" / "figures" / "readers.pdf").stat().st_size > 1000
    record = json.loads((dataset / "out" / "evaluate.json").read_text())
    assert (record["split"], record["published"]) == ("test", {"mine": "total_mr"})
    assert record["second_reader"]["n_label_maps"] == 7


@pytest.mark.slow
def test_without_either_the_tables_are_empty_and_the_page_says_nothing_of_them(dataset, capsys):
    assert evaluate(dataset) == 0
    tables = tables_of(dataset / "out")
    assert tables["published"].empty
    assert tables["readers"].empty
    html = (dataset / "out" / "index.html").read_text()
    assert "Two readers" not in html
    assert "Beside what is published" not in html
    said = " ".join(capsys.readouterr().err.split())
    assert "2 of 7 scans are for training by its meta.csv" in said


@pytest.mark.slow
def test_what_the_second_reader_lacks_is_a_row_with_a_reason(dataset):
    (dataset / "second" / "s4" / "segmentations" / "liver.nii.gz").write_bytes(b"no image")
    for file in (dataset / "second" / "s5" / "segmentations").iterdir():
        file.unlink()
    assert evaluate(dataset, "--split", "test", "--second-reader", str(dataset / "second")) == 0
    pairs = tables_of(dataset / "out")["reader_pairs"].set_index(["reference", "scan_id"])
    for reference in (EXPERT, SECOND):
        assert pairs.loc[(reference, "s4"), "reason"] == "EVAL_UNREADABLE"
        assert pairs.loc[(reference, "s5"), "reason"] == "EVAL_NO_LABEL_MAP"
    readers = tables_of(dataset / "out")["readers"].set_index(["structure", "metric"])
    assert readers.loc[("liver", "dice"), "n_pairs"] == 3


@pytest.mark.slow
def test_indices_of_a_second_reader_are_not_taken_for_those_of_the_experts_files(dataset):
    """The expert's masks have no indices that a label map could share."""
    words = ["--split", "test", "--second-reader", str(dataset / "model")]
    assert evaluate(dataset, *words) == 0
    pairs = tables_of(dataset / "out")["reader_pairs"]
    assert set(pairs["reason"]) == {"EVAL_NO_NAMES"}
    assert evaluate(dataset, *words, "--second-reader-labels", str(dataset / "card.json")) == 0
    of_models = tables_of(dataset / "out")["reader_pairs"].set_index("reference").loc[SECOND]
    assert (of_models["dice"] == 1).all()  # the model's own label maps as those of a reader


def test_a_split_goes_with_the_layout_that_has_one(dataset):
    ids = [case.scan_id for case in find_cases(dataset / "mri", "auto", None, "train")]
    assert ids == ["s0", "s1"]
    with pytest.raises(ConfigError, match="nobody is in the split val"):
        find_cases(dataset / "mri", "auto", None, "val")
    with pytest.raises(ConfigError, match=r"the layout pairs has no meta\.csv"):
        find_cases(dataset / "model", "auto", "chaos_mr", "test")
    for file in (dataset / "mri" / "s6" / "segmentations").iterdir():
        file.unlink()
    (dataset / "mri" / "s6" / "segmentations").rmdir()
    with pytest.raises(ConfigError, match="1 subjects of the split test have no segmentations: s6"):
        find_cases(dataset / "mri", "auto", None, "test")


def test_the_published_model_is_the_one_that_labels_or_the_user_name(tmp_path):
    for name in ("total_mr_organs", "total_mr_3mm", "mine"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"id": name, "labels": {}}))
    cards = {name: str(tmp_path / f"{name}.json") for name in ("total_mr_organs", "mine")}
    assert published_model("mrsegmentator", None) == "mrsegmentator"
    assert published_model("amos22", None) is None
    assert published_model(cards["total_mr_organs"], None) == "total_mr_organs"
    assert published_model(str(tmp_path / "total_mr_3mm.json"), None) is None
    assert published_model(cards["mine"], None) is None
    assert published_model(cards["mine"], "total_mr") == "total_mr"
    assert published_model("total_mr", "none") is None
    with pytest.raises(ConfigError, match=r"total-mr: no Dice is published of it; did you mean"):
        published_model(None, "total-mr")


def test_each_published_test_set_stands_beside_with_its_source():
    summary = append_rows(
        [{"model": "m", "group_by": "all", "average": "structure", "structure": structure,
          "metric": "dice", "n_subjects": 3, "n_pairs": 3, "mean": 0.9}
         for structure in ("liver", "spine", "nothing")],
        SCHEMAS["evaluate/summary"],
    )  # fmt: skip
    rows = beside(summary, {"m": "mrsegmentator", "other": None})
    table = published.published_dice("mrsegmentator")
    wanted = table[table["structure"].isin(["liver", "spine"])]
    assert sorted(rows["published_dice"]) == sorted(wanted["dice"])
    assert rows["source"].notna().all()
    assert set(rows["test_set"]) == {"AMOS MRI", "NAKO GRE", "NAKO T2", "TotalSegmentator MRI"}
    shown = published_table(rows)
    assert shown.rows[0][0] == "Mean of structures"
    assert "MRSegmentator 2.0 base" in shown.note
    assert published_table(rows.iloc[:0]) is None


def rows_of(n, expert, second, readers, one_reader=()):
    """Pairs and reader pairs of one structure from the three Dice of each scan."""
    base = [{"scan_id": f"s{at}", "subject_id": f"p{at}", "structure": "liver"} for at in range(n)]
    drawn = {"expert_n_voxels": 5, "model_n_voxels": 5}
    pairs = [
        row | {"model": "m"} | dict.fromkeys(VALUES, expert[at]) for at, row in enumerate(base)
    ]
    of_readers = [
        row | {"reference": EXPERT, "model": SECOND} | dict.fromkeys(VALUES, readers[at]) | drawn
        | ({"model_n_voxels": None} if at in one_reader else {})
        for at, row in enumerate(base)
    ] + [
        row | {"reference": SECOND, "model": "m"} | dict.fromkeys(VALUES, second[at])
        for at, row in enumerate(base)
    ]  # fmt: skip
    return append_rows(pairs, PAIRS), append_rows(of_readers, READER_PAIRS)


def test_only_what_both_readers_drew_and_all_three_know_is_averaged():
    nan = float("nan")
    pairs, of_readers = rows_of(
        5, [0.9, 0.8, 0.7, nan, 0.1], [0.9, 0.6, nan, 0.9, 0.1], [0.8, 0.8, 0.8, 0.8, 0.0], [4]
    )
    found = compare_readers(pairs, of_readers, n_draws=100, seed=1)
    row = found[(found["metric"] == "dice") & (found["structure"] == "liver")].iloc[0]
    assert (row["n_pairs"], row["n_one_reader"], row["n_subjects"]) == (2, 1, 2)
    assert (row["expert"], row["second"], row["readers"]) == pytest.approx((0.85, 0.75, 0.8))
    assert row["difference"] == pytest.approx(0.0)
    mean = found[(found["metric"] == "dice") & found["structure"].isna()].iloc[0]
    assert mean["expert"] == pytest.approx(0.85)


def test_the_interval_of_the_difference_is_of_pairs_and_not_of_two_means():
    """Readers and model that are good and bad on the same scans differ by nearly nothing."""
    hard = np.linspace(0.3, 0.9, 20)
    pairs, of_readers = rows_of(20, hard + 0.01, hard + 0.01, hard)
    found = compare_readers(pairs, of_readers, n_draws=400, seed=1)
    row = found[(found["metric"] == "dice") & (found["structure"] == "liver")].iloc[0]
    assert row["expert_ci_high"] - row["expert_ci_low"] > 0.1
    assert row["difference_ci_low"] == pytest.approx(0.01)
    assert row["difference_ci_high"] == pytest.approx(0.01)


def test_where_nothing_was_drawn_by_both_the_table_says_so_without_a_number():
    pairs, of_readers = rows_of(2, [0.9, 0.9], [0.9, 0.9], [0.0, 0.0], [0, 1])
    found = compare_readers(pairs, of_readers, n_draws=100, seed=1)
    row = found[(found["metric"] == "dice") & (found["structure"] == "liver")].iloc[0]
    assert row["n_one_reader"] == 2
    assert pd.isna(row["expert"])
    shown = readers_table(found)
    assert shown.rows[-1][:4] == ["Liver", "m", "–", "2"]
