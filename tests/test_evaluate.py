"""Evaluation: the rules, the vocabularies, the layouts people have, and what is written."""

import json
import re

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import wilcoxon

from cohortvol import cli
from cohortvol.anatomy.nifti import nifti_gz
from cohortvol.errors import ConfigError, ScanError
from cohortvol.store.tables import read_table
from cohortvol.tools.evaluate import SCHEMAS, Model, Settings, run
from cohortvol.tools.evaluate.contours import Picture, contour_figure
from cohortvol.tools.evaluate.datasets import find_cases, find_label_maps, id_of, read_expert
from cohortvol.tools.evaluate.groups import read_scans
from cohortvol.tools.evaluate.labels import LabelMap, read_nifti, structure_named, vocabulary
from cohortvol.tools.evaluate.measures import measure_pair
from cohortvol.tools.evaluate.statistics import Bootstrap, compare, summarise

pytestmark = pytest.mark.slow

AFFINE = np.diag([1.25, 1.5, 3.0, 1.0])  # RAS+, mm
NAMES = {"liver": 1, "kidney_right": 2, "kidney_left": 3, "spleen": 4}


def body(shift=0, without=()):
    """Liver and right kidney at high x, which is right; spleen and left kidney at low x."""
    labels = np.zeros((24, 20, 12), dtype=np.uint8)
    labels[14 + shift : 22, 8:16, 4:10] = 1
    labels[14 : 18 - shift, 2:6, 2:6] = 2
    labels[4 + shift : 8, 2:6, 2:6] = 3
    labels[2:6, 10 + shift : 16, 5:9] = 4
    for name in without:
        labels[labels == NAMES[name]] = 0
    return labels


def renamed(names):
    """The same body under the label indices of `names`."""
    labels = np.zeros_like(body())
    for name, label in NAMES.items():
        labels[body() == label] = names[name]
    return labels


def save(path, labels, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(nifti_gz(labels, affine))


def by_structure(expert, model, **options):
    rows = measure_pair(
        LabelMap(expert, AFFINE, NAMES), LabelMap(model, AFFINE, NAMES), tolerance_mm=3, **options
    )
    return {row["structure"]: row for row in rows}


def test_the_same_label_map_is_right_in_every_respect():
    for row in by_structure(body(), body()).values():
        assert (row["dice"], row["nsd"], row["hd95_mm"], row["assd_mm"]) == (1, 1, 0, 0)
        assert row["volume_error_pct"] == 0
        assert "reason" not in row


def test_a_structure_that_the_model_missed_has_overlap_0_and_no_distance():
    row = by_structure(body(), body(without=["spleen"]))["spleen"]
    assert (row["dice"], row["nsd"], row["reason"]) == (0, 0, "EVAL_MISSED")
    assert row["volume_error_pct"] == -100
    assert (row["model_ml"], row["model_n_voxels"]) == (None, None)
    assert "hd95_mm" not in row


def test_a_structure_that_the_expert_did_not_draw_is_not_compared():
    row = by_structure(body(without=["spleen"]), body())["spleen"]
    assert row["reason"] == "EVAL_EXPERT_ABSENT"
    assert "dice" not in row
    assert "nsd" not in row
    assert row["model_n_voxels"] == (body() == 4).sum()


def test_by_the_strict_rule_it_counts_as_0_where_the_model_found_it_and_not_where_neither_did():
    without = body(without=["spleen"])
    assert by_structure(without, body(), rule="strict")["spleen"]["dice"] == 0
    assert "dice" not in by_structure(without, without, rule="strict")["spleen"]


def test_volumes_are_voxels_times_their_volume_and_errors_have_a_sign():
    row = by_structure(body(), body(shift=1))["liver"]
    assert row["expert_ml"] == pytest.approx(8 * 8 * 6 * 1.25 * 1.5 * 3 / 1000)
    assert row["volume_error_pct"] == pytest.approx(-100 / 8)
    assert row["absolute_volume_error_pct"] == pytest.approx(100 / 8)
    assert row["mssd_mm"] == pytest.approx(1.25)


def test_the_order_in_which_voxels_are_stored_changes_nothing():
    expert = LabelMap(body(), AFFINE, NAMES)
    model = body(shift=1)
    turned = LabelMap(
        model.transpose(2, 0, 1)[::-1],
        AFFINE @ np.array([[0, 1, 0, 0], [0, 0, 1, 0], [-1, 0, 0, 11], [0, 0, 0, 1]]),
        NAMES,
    )
    assert measure_pair(expert, turned, tolerance_mm=3) == measure_pair(
        expert, LabelMap(model, AFFINE, NAMES), tolerance_mm=3
    )


def test_another_grid_is_refused_and_not_compared():
    moved = AFFINE.copy()
    moved[0, 3] = 2.0
    with pytest.raises(ScanError, match="EVAL_OTHER_GRID"):
        measure_pair(
            LabelMap(body(), AFFINE, NAMES), LabelMap(body(), moved, NAMES), tolerance_mm=3
        )


def test_kidneys_that_the_model_took_for_each_other_are_counted_and_flagged():
    model = body()
    model[body() == 2], model[body() == 3] = 3, 2
    rows = by_structure(body(), model)
    assert rows["kidney_left"]["dice"] == 0
    assert rows["kidney_left"]["warning"] == "EVAL_MODEL_SIDES"
    assert rows["liver"]["warning"] is None


def test_kidneys_on_the_wrong_sides_in_the_experts_map_are_not_compared():
    expert = body()
    expert[body() == 2], expert[body() == 3] = 3, 2
    rows = by_structure(expert, body())
    assert {rows[name]["reason"] for name in ("kidney_left", "kidney_right")} == {
        "EVAL_EXPERT_SIDES"
    }
    assert "dice" not in rows["kidney_left"]
    assert rows["liver"]["dice"] == 1


def test_vocabularies_are_joined_by_the_name_of_the_structure():
    theirs = vocabulary("amos22")
    model = LabelMap(renamed(theirs), AFFINE, theirs)
    rows = measure_pair(LabelMap(body(), AFFINE, NAMES), model, tolerance_mm=3)
    assert {row["structure"]: row["dice"] for row in rows} == dict.fromkeys(NAMES, 1.0)


def test_every_vocabulary_says_where_the_four_organs_are():
    expected = {
        "chaos_mr": (1, 2, 3, 4),
        "chaos_mr_grey": (63, 126, 189, 252),
        "amos22": (6, 2, 3, 1),
        "mrsegmentator": (5, 2, 3, 1),
        "total_mr": (5, 2, 3, 1),
    }
    for name, labels in expected.items():
        known = vocabulary(name)
        assert tuple(known[organ] for organ in NAMES) == labels, name


@pytest.mark.parametrize(
    ("upstream", "structure"),
    [("right kidney", "kidney_right"), ("arota", "aorta"), ("postcava", "inferior_vena_cava"),
     ("left_adrenal_gland", "adrenal_gland_left"), ("gall bladder", "gallbladder"),
     ("liver", "liver"), ("lesion", "lesion")],
)  # fmt: skip
def test_a_publishers_name_is_the_structure_it_means(upstream, structure):
    assert structure_named(upstream) == structure


def test_an_unknown_vocabulary_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'amos22'"):
        vocabulary("amos2")


@pytest.mark.parametrize(
    "name", ["label_12.nii.gz", "image_12.nii.gz", "12_dseg.nii", "12_0000.nii.gz", "12.nii.gz"]
)
def test_the_names_of_files_lead_to_one_scan(tmp_path, name):
    assert id_of(tmp_path / name) == "12"


def dicom_slices(folder, places_mm, first=1):
    pydicom = pytest.importorskip("pydicom")
    folder.mkdir(parents=True)
    for number, z_mm in enumerate(places_mm, start=first):
        header = pydicom.Dataset()
        header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        header.SOPInstanceUID = f"1.2.3.{number}"
        header.InstanceNumber = number
        header.ImagePositionPatient = [-30.0, -20.0, float(z_mm)]
        header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        header.PixelSpacing = [1.5, 1.25]
        header.SliceThickness = 9.0
        header.file_meta = pydicom.dataset.FileMetaDataset()
        header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        # Names in an order of their own, as in the challenge's data.
        header.save_as(folder / f"i{99 - number:04d}.dcm", enforce_file_format=True)


def png_slices(folder, grey):
    folder.mkdir(parents=True)
    for number in range(grey.shape[2]):
        plane = np.ascontiguousarray(grey[:, :, number].T)
        Image.fromarray(plane).save(folder / f"IMG-{number + 1}.png")


@pytest.mark.parametrize("step_mm", [3.0, -3.0])
def test_a_case_of_chaos_mr_is_read_as_it_is_given_out(tmp_path, step_mm):
    """Columns run to the left and rows to the back, so the array is flipped against RAS+."""
    stored = body()[::-1, ::-1] if step_mm > 0 else body()[::-1, ::-1, ::-1]
    case = tmp_path / "MR" / "7" / "T2SPIR"
    dicom_slices(case / "DICOM_anon", 100 + step_mm * np.arange(12))
    png_slices(case / "Ground", stored * 63)
    (found,) = find_cases(tmp_path, "auto", None)
    assert (found.scan_id, found.subject_id, found.layout) == ("MR_7_T2SPIR", "MR_7", "chaos")
    expert = read_expert(found)
    affine = AFFINE.copy()
    affine[:3, 3] = [30 - 1.25 * 23, 20 - 1.5 * 19, 100 + min(0, 11 * step_mm)]
    rows = measure_pair(expert, LabelMap(body(), affine, NAMES), tolerance_mm=3)
    assert {row["structure"]: row["dice"] for row in rows} == dict.fromkeys(NAMES, 1.0)


def test_a_case_of_chaos_that_lacks_an_organ_keeps_the_names_of_the_others(tmp_path):
    dicom_slices(tmp_path / "7" / "DICOM_anon", 3.0 * np.arange(12))
    png_slices(tmp_path / "7" / "Ground", body(without=["kidney_right"]) * 63)
    expert = read_expert(find_cases(tmp_path, "chaos", None)[0])
    assert (expert.voxels == expert.labels["spleen"]).sum() == (body() == 4).sum()
    assert not (expert.voxels == expert.labels["kidney_right"]).any()


def test_a_slice_that_is_missing_is_noticed(tmp_path):
    dicom_slices(tmp_path / "7" / "DICOM_anon", [0, 3, 9, 12])
    png_slices(tmp_path / "7" / "Ground", body()[..., :4] * 63)
    with pytest.raises(ScanError, match="uneven"):
        read_expert(find_cases(tmp_path, "chaos", None)[0])


def test_amos_is_read_with_the_names_of_its_own_table(tmp_path):
    amos = renamed(vocabulary("amos22"))
    save(tmp_path / "labelsTr" / "amos_0507.nii.gz", amos)
    save(tmp_path / "imagesTr" / "amos_0507.nii.gz", amos)
    names = {"0": "background", "1": "spleen", "2": "right kidney", "3": "left kidney",
             "6": "liver", "8": "arota"}  # fmt: skip
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": names}))
    (case,) = find_cases(tmp_path, "auto", None)
    assert (case.layout, case.scan_id, case.image.name) == ("amos", "amos_0507", "amos_0507.nii.gz")
    expert = read_expert(case)
    assert expert.labels["aorta"] == 8
    assert (expert.voxels == expert.labels["kidney_left"]).sum() == (body() == 3).sum()


def test_masks_of_the_totalsegmentator_dataset_make_one_label_map_even_where_they_overlap(tmp_path):
    masks = tmp_path / "s0001" / "segmentations"
    for name, label in NAMES.items():
        save(masks / f"{name}.nii.gz", (body() == label).astype(np.uint8))
    save(masks / "pancreas.nii.gz", (body() == 1).astype(np.uint8))
    save(masks / "gallbladder.nii.gz", np.zeros_like(body()))
    save(tmp_path / "s0001" / "mri.nii.gz", body())
    (case,) = find_cases(tmp_path, "auto", None)
    assert (case.layout, case.scan_id, case.image.name) == (
        "totalsegmentator", "s0001", "mri.nii.gz",
    )  # fmt: skip
    rows = measure_pair(read_expert(case), read_expert(case), tolerance_mm=3)
    found = {row["structure"]: row.get("dice") for row in rows}
    assert found == dict.fromkeys([*NAMES, "pancreas"], 1.0) | {"gallbladder": None}


def test_names_in_the_header_of_totalsegmentators_output_are_read(shared_data):
    folder = shared_data / "totalsegmentator_refs"
    found = find_label_maps(folder)["example_seg_mr"]
    named = read_nifti(found, None)
    assert {name: named.labels[name] for name in NAMES} == {
        "liver": 5, "kidney_right": 2, "kidney_left": 3, "spleen": 1,
    }  # fmt: skip


def test_a_label_map_without_names_is_a_row_with_a_reason(tmp_path):
    save(tmp_path / "expert" / "1.nii.gz", body())
    save(tmp_path / "model" / "1.nii.gz", body())
    pairs = run(
        tmp_path / "expert", [Model("one", tmp_path / "model")], tmp_path / "out",
        expert_labels="chaos_mr",
    )  # fmt: skip
    assert pairs["reason"].tolist() == ["EVAL_NO_NAMES"]


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


def rows_of(values, subjects=None):
    """Rows of pairs from Dice by structure; NaN is a structure that was not compared."""
    return pd.DataFrame(
        [
            {"model": model, "scan_id": f"s{at}", "structure": structure, "dice": dice,
             "subject_id": f"p{at}" if subjects is None else subjects[at]}
            for (model, structure), column in values.items()
            for at, dice in enumerate(column)
        ]
    ).reindex(columns=list(SCHEMAS["evaluate/pairs"]))  # fmt: skip


def test_the_two_averages_differ_where_a_structure_is_rarer():
    nan = float("nan")
    pairs = rows_of({("m", "liver"): [0.9, 0.9, 0.9], ("m", "spleen"): [0.3, nan, nan]})
    summary = summarise(pairs, pd.DataFrame(), n_draws=100, seed=1)
    of_dice = summary[summary["metric"] == "dice"].set_index("average")["mean"]
    assert of_dice["class_mean"] == pytest.approx((0.9 + 0.3) / 2)
    assert of_dice["pair_mean"] == pytest.approx((3 * 0.9 + 0.3) / 4)


def test_the_bootstrap_interval_has_the_width_that_theory_gives():
    values = np.random.default_rng(7).normal(0.8, 0.1, 400)
    draws = Bootstrap(400, 10_000, 1).means(values[:, None], np.ones((400, 1)))[0]
    low, high = np.percentile(draws, [2.5, 97.5])
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.03)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=5e-4)


def test_two_scans_of_one_person_are_drawn_together():
    """Twenty scans of ten people whose two scans are alike know less than twenty people."""
    values = np.repeat(np.linspace(0.5, 0.9, 10), 2)
    widths = {}
    for n_subjects, subjects in ((20, None), (10, np.repeat(list("abcdefghij"), 2))):
        pairs = rows_of({("m", "liver"): values}, subjects)
        summary = summarise(pairs, pd.DataFrame(), n_draws=4000, seed=1)
        row = summary[(summary["metric"] == "dice") & (summary["structure"] == "liver")].iloc[0]
        assert (row["n_subjects"], row["n_pairs"]) == (n_subjects, 20)
        widths[n_subjects] = row["ci_high"] - row["ci_low"]
    assert widths[10] / widths[20] == pytest.approx(2**0.5, rel=0.05)


def test_models_are_compared_on_the_people_that_both_have_and_p_is_corrected():
    nan = float("nan")
    rng = np.random.default_rng(3)
    worse = rng.uniform(0.7, 0.9, 12)
    better = worse + rng.uniform(0.01, 0.05, 12)
    better[4] = nan
    same = rng.uniform(0.7, 0.9, 12)
    pairs = rows_of(
        {("a", "liver"): worse, ("a", "spleen"): same,
         ("b", "liver"): better, ("b", "spleen"): same}
    )  # fmt: skip
    found = compare(pairs, correction="holm", n_draws=500, seed=1)
    of_dice = found[found["metric"] == "dice"].set_index("structure")
    liver, spleen = of_dice.loc["liver"], of_dice.loc["spleen"]
    known = ~np.isnan(better)
    assert liver["n_subjects"] == 11
    assert liver["mean_difference"] == pytest.approx((better - worse)[known].mean())
    assert liver["p_value"] == pytest.approx(wilcoxon(better[known], worse[known]).pvalue)
    assert liver["p_corrected"] == pytest.approx(2 * liver["p_value"])  # two structures
    assert spleen["p_value"] == 1
    assert 0 < liver["ci_low"] < liver["mean_difference"] < liver["ci_high"]


def test_four_people_are_too_few_for_a_test():
    pairs = rows_of({("a", "liver"): [0.1, 0.2, 0.3, 0.4], ("b", "liver"): [0.5, 0.6, 0.7, 0.8]})
    found = compare(pairs, correction="bh", n_draws=100, seed=1)
    of_dice = found[found["metric"] == "dice"]
    assert set(of_dice["reason"]) == {"EVAL_FEW_SUBJECTS"}
    assert of_dice["p_value"].isna().all()


def test_thirds_of_the_ages_are_of_people_and_not_of_scans(tmp_path):
    table = pd.DataFrame(
        {"scan_id": list("abcdefgh"), "age_years": [20, 20, 20, 40, 50, 60, 70, "n/a"],
         "subject_id": ["p", "p", "p", "q", "r", "s", "t", "u"]}
    )  # fmt: skip
    table.to_csv(tmp_path / "scans.csv", index=False)
    thirds = read_scans(tmp_path / "scans.csv", list("abcdefgh")).groups["age_tertile"]
    assert thirds["a"] == thirds["c"] == thirds["d"] == "up to 43 years"
    assert (thirds["e"], thirds["g"]) == ("43 to 57 years", "over 57 years")
    assert pd.isna(thirds["h"])


def test_the_sample_submission_of_chaos_has_its_published_figures(shared_data, tmp_path):
    """Published: Dice 0.978, RAVD 0.665 %, ASSD 0.734, MSSD 14."""
    folder = shared_data / "chaos_ct_eval" / "Data_3D"
    pairs = run(
        folder, [Model("sample", folder / "Segmentation")], tmp_path,
        settings=Settings(n_bootstrap=100),
    )  # fmt: skip
    (row,) = pairs.to_dict("records")
    assert round(row["dice"], 5) == 0.97843
    assert round(row["absolute_volume_error_pct"], 5) == 0.66453
    assert round(row["assd_mm"], 3) == 0.734
    assert row["mssd_mm"] == 14
    assert round(row["expert_ml"]) == 1417


def test_outlines_of_other_people_read_as_label_maps_have_their_left_kidney_left(shared_data):
    for outline in sorted((shared_data / "ukat_renal_mr").glob("*/*_roi-L.nii.gz")):
        right = outline.with_name(outline.name.replace("roi-L", "roi-R"))
        labels = np.zeros(nib.load(outline).shape, dtype=np.uint8)
        labels[np.asarray(nib.load(right).dataobj) > 0] = 2
        labels[np.asarray(nib.load(outline).dataobj) > 0] = 3
        expert = LabelMap(labels, nib.load(outline).affine, NAMES)
        rows = {row["structure"]: row for row in measure_pair(expert, expert, tolerance_mm=3)}
        assert rows["kidney_left"]["dice"] == rows["kidney_right"]["dice"] == 1, outline.name
        assert rows["kidney_left"]["warning"] is None


def test_what_is_no_label_map_is_refused_with_a_reason(tmp_path):
    halves = np.full((4, 4, 4), 0.5, dtype=np.float32)
    for name, content in (
        ("halves.nii.gz", nifti_gz(halves, np.eye(4))),
        ("text.nii.gz", b"no image"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ScanError, match="EVAL_UNREADABLE"):
            read_nifti(tmp_path / name, {"liver": 1})
