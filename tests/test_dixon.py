"""Fat and water swapped: told from the grey values of organs beside those of bright tissue."""

import nibabel as nib
import numpy as np
import pytest

from cohortvol.stages.ingest.dicom import dixon_named
from cohortvol.stages.measure import measure_scan, read_scan
from cohortvol.stages.measure.dixon import is_swapped, organ_ratios
from cohortvol.tools.simulate import anatomy, image

NAMES = {1: "liver", 2: "kidney_right", 3: "kidney_left", 4: "spleen"}


@pytest.fixture(scope="module")
def dixon():
    """Water image, fat image and label map of one simulated abdomen."""
    rng = np.random.default_rng(3)
    volumes_ml = {"liver": 1400.0, "spleen": 200.0, "kidney_left": 160.0, "kidney_right": 150.0}
    body = anatomy.build(volumes_ml, height_cm=170, bmi=26, rng=rng)
    scan = image.Acquisition("LAS", (4.0, 4.0, 6.0), (0, 0, 0), (400, 320, 300))
    table = image.contrasts()
    images = []
    for part in ("water", "fat"):
        means = table[f"DIXON-{part}"].to_numpy()
        signal = image.signal_of(body.tissues, means, 0.05 * means, rng)
        grey, affine = image.acquire(signal, body.affine, scan, rng)
        images.append(np.rint(900 * grey).astype(np.int16))
    labels = image.label_map_of(image.organ_masks(body), body.affine, scan)
    return {"water": images[0], "fat": images[1], "labels": labels, "affine": affine}


@pytest.mark.slow
@pytest.mark.parametrize("called", ["water", "fat"])
@pytest.mark.parametrize("shown", ["water", "fat"])
def test_an_image_is_swapped_when_it_shows_the_other_part(dixon, called, shown):
    assert is_swapped(dixon[shown], [(dixon["labels"], NAMES)], called) == (called != shown)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("3D_GRE_TRA_in", "in_phase"),
        ("3D_GRE_TRA_opp", "opposed_phase"),
        ("3D_GRE_TRA_F", "fat"),
        ("3D_GRE_TRA_W", "water"),
        ("3D_GRE_TRA_W_BH", None),
        ("t1_gre_w", None),
    ],
)
def test_the_parts_of_nako_are_known_by_their_names(name, part):
    assert dixon_named(name) == part


def test_the_ratio_is_that_of_organ_to_bright_tissue_outside_the_organs():
    grey = np.array([0, 0, 0, 0, 50, 50, 50, 50, 90, 110], np.int16).reshape(10, 1, 1)
    labels = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1], np.uint8).reshape(10, 1, 1)
    assert organ_ratios(grey, [(labels, NAMES)]) == {"liver": 2.0}  # 100 over 50, not over 67


def test_the_unit_of_grey_values_does_not_matter(dixon):
    layers = [(dixon["labels"], NAMES)]
    ratios = organ_ratios(dixon["water"], layers)
    assert organ_ratios(dixon["water"] * 7.5, layers) == pytest.approx(ratios)


def test_one_dark_organ_does_not_make_a_water_image_fat_nor_a_bright_one_a_fat_image_water(dixon):
    layers = [(dixon["labels"], NAMES)]
    iron = np.where(dixon["labels"] == 1, 0, dixon["water"])
    assert not is_swapped(iron, layers, "water")
    fatty = np.where(dixon["labels"] == 1, 900, dixon["fat"])
    assert not is_swapped(fatty, layers, "fat")


def test_without_an_organ_nothing_is_said(dixon):
    nothing = np.zeros_like(dixon["labels"])
    assert not is_swapped(dixon["fat"], [(nothing, NAMES)], "water")
    assert not is_swapped(dixon["fat"], [(dixon["labels"], {1: "stomach"})], "water")


@pytest.mark.parametrize(
    ("called", "excluded"), [("water", True), ("fat", False), ("in_phase", False), (None, False)]
)
def test_every_structure_of_a_swapped_scan_is_excluded(tmp_path, dixon, called, excluded):
    paths = tmp_path / "labels.nii", tmp_path / "image.nii"
    for path, data in zip(paths, (dixon["labels"], dixon["fat"]), strict=True):
        nib.save(nib.Nifti1Image(data, dixon["affine"]), path)
    rows = measure_scan(read_scan(*paths, n_layers=1), [NAMES], dixon=called)
    assert rows["qc_flags"].str.contains("QC_FW_SWAP").tolist() == [excluded] * 5
    assert (rows["qc"] == "exclude").all() == excluded


def test_the_ratio_is_a_setting(tmp_path, dixon):
    assert not is_swapped(dixon["fat"], [(dixon["labels"], NAMES)], "water", swap_ratio=0.01)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("DIXON-water", "water"),
        ("t1_vibe_dixon_tra_bh_W", "water"),
        ("mDIXON_F", "fat"),
        ("dixon fat", "fat"),
        ("LAVA-Flex in phase", "in_phase"),
        ("Dixon_opp", "opposed_phase"),
        ("T1 Dixon", None),
        ("T2 fat sat", None),
        ("fat", None),
        ("water excitation", None),
        ("", None),
    ],
)
def test_a_text_names_a_part_only_where_it_names_the_method(text, part):
    assert dixon_named(text) == part
