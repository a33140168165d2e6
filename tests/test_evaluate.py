"""Evaluation: the rules of a comparison, the vocabularies, and averages over people."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from cohortvol.errors import ConfigError, ScanError
from cohortvol.tools.evaluate import SCHEMAS
from cohortvol.tools.evaluate.groups import read_scans
from cohortvol.tools.evaluate.labels import LabelMap, structure_named, vocabulary
from cohortvol.tools.evaluate.measures import measure_pair
from cohortvol.tools.evaluate.statistics import Bootstrap, compare, summarise
from labelled_bodies import AFFINE, NAMES, body, renamed

pytestmark = pytest.mark.slow


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
