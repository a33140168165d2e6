"""Structures: the table of names, codes and sides, and the ranges of plausible volumes."""

import csv

import pytest

from cohortvol.anatomy import structures


def test_a_kidney_has_the_code_of_kidney_and_its_side():
    left, right = structures.load()["kidney_left"], structures.load()["kidney_right"]
    assert (left.snomed_code, left.laterality) == ("64033007", "left")
    assert (right.snomed_code, right.laterality) == ("64033007", "right")


def test_code_and_side_together_name_one_structure():
    keys = [
        (structure.snomed_code, structure.laterality)
        for structure in structures.load().values()
        if structure.snomed_code
    ]
    assert len(keys) == len(set(keys))


def test_every_structure_stands_once_in_the_table():
    names = structures.STRUCTURES.read_text(encoding="utf-8").split("\n")
    names = [line.split("\t")[0] for line in names[1:] if line]
    assert len(names) == len(set(names)) == len(structures.load()) == 153


def test_every_sided_structure_belongs_to_a_pair_of_its_own_name():
    pairs = structures.pairs()
    assert pairs["kidneys"] == ("kidney_left", "kidney_right")
    assert pairs["adrenal_glands"] == ("adrenal_gland_left", "adrenal_gland_right")
    in_pairs = {side for pair in pairs.values() for side in pair}
    sided = {
        structure.name
        for structure in structures.load().values()
        if structure.laterality in ("left", "right")
    }
    assert in_pairs == sided - {"atrial_appendage_left"}  # no model has the right one
    for left, right in pairs.values():
        assert left.removesuffix("_left") == right.removesuffix("_right")


def test_a_sum_is_never_called_like_a_structure():
    assert not set(structures.pairs()) & set(structures.load())


@pytest.mark.parametrize(
    ("structure", "volume_ml"),
    [("liver", 1500), ("spleen", 742.3), ("kidney_left", 117), ("adrenal_gland_right", 3)],
)
def test_an_ordinary_volume_is_plausible(structure, volume_ml):
    low, high = structures.plausible_ml()[structure]
    assert low < volume_ml < high


def test_plausible_ranges_are_ordered_and_of_known_structures():
    assert set(structures.plausible_ml()) <= set(structures.load())
    for name, (low, high) in structures.plausible_ml().items():
        assert 0 < low < high, name


def test_both_sides_of_a_pair_have_the_same_range():
    ranges = structures.plausible_ml()
    for left, right in structures.pairs().values():
        assert ranges.get(left) == ranges.get(right)


def test_every_range_says_where_it_comes_from():
    with open(structures.PLAUSIBLE, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert all(row["basis"].startswith("cohortvol's own") and row["source"] for row in rows)


def test_the_table_agrees_with_the_reference_list(shared_data):
    reference = shared_data.parent / "reference" / "structures.tsv"
    if not reference.exists():
        pytest.skip("no reference list of structures here")
    with open(reference, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    for row in rows:
        ours = structures.load()[row["structure"]]
        expected = (row["snomed_code"], row["laterality"], row["group"])
        assert (ours.snomed_code, ours.laterality, ours.group) == expected
