"""Previews: the right planes the right way round, outlines where structures end, small files."""

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from cohortvol.stages import measure
from cohortvol.stages.measure import preview
from cohortvol.stages.measure.png import encode
from phantoms import ANISOTROPIC, STRUCTURES, abdomen, ramp, stored_in_every_order, tilted

LARGE = np.diag([10.0, 10.0, 10.0, 1.0]) @ ANISOTROPIC  # 150 x 150 x 270 mm
TWO_MM = np.diag([2.0, 2.0, 2.0, 1.0])
LIVER = [{1: "liver"}]


def judged(label_map, affine, layers, **qc):
    """Rows of a scan of which every structure passed, but for those named."""
    parts = [
        measure.structure_volumes(label_map[..., layer], affine, structures)
        for layer, structures in enumerate(layers)
    ]
    rows = pd.concat(parts, ignore_index=True)
    verdicts = rows["structure"].map(lambda name: qc.get(name, "pass"))
    flags = verdicts.map({"pass": "", "flag": "QC_OUTLIER", "exclude": "QC_SIDE"})
    return rows.assign(qc=verdicts, qc_flags=flags)


def draw(label_map, affine, layers=(STRUCTURES,), image=None, **qc):
    label_map = label_map[..., None] if label_map.ndim == 3 else label_map
    image = np.zeros(label_map.shape[:3], np.int16) if image is None else image
    rows = judged(label_map, affine, layers, **qc)
    return preview.draw_preview(label_map, image, affine, list(layers), rows)


def pixels(drawn):
    return np.array(Image.open(io.BytesIO(drawn.png)).convert("RGB"))


def in_colour(drawn, colour, columns=slice(None)):
    """(row, column) of every pixel of a colour, in these columns."""
    rgb = np.array(list(bytes.fromhex(colour[1:])))
    return np.argwhere((pixels(drawn)[:, columns] == rgb).all(axis=2))


def centre(drawn, structure, columns=slice(None)):
    return in_colour(drawn, drawn.outlines[structure], columns).mean(axis=0)


def columns_of(widths):
    """Where the three planes of a row of these widths lie."""
    starts = np.cumsum([0, *[width + preview._GAP for width in widths[:2]]])
    return [slice(start, start + width) for start, width in zip(starts, widths, strict=True)]


# --- the right way round ---------------------------------------------------------------------


def test_right_is_left_front_and_head_are_up():
    """Liver to the right, in front of and above the right kidney; spleen to the left."""
    drawn = draw(abdomen(), LARGE)
    pixel_mm = max(1.0, 450 / (preview.ROW_WIDTH - 2 * preview._GAP - 3), 270 / preview.ROW_HEIGHT)
    axial, coronal, sagittal = columns_of([round(150 / pixel_mm)] * 3)
    assert centre(drawn, "liver", axial)[1] < centre(drawn, "spleen", axial)[1]
    assert centre(drawn, "liver", coronal)[1] < centre(drawn, "spleen", coronal)[1]
    assert centre(drawn, "liver", axial)[0] < centre(drawn, "spleen", axial)[0]
    assert centre(drawn, "liver", sagittal)[0] < centre(drawn, "kidney_right", sagittal)[0]
    assert centre(drawn, "liver", sagittal)[1] < centre(drawn, "kidney_right", sagittal)[1]


@pytest.mark.parametrize("affine", [LARGE, tilted(LARGE)], ids=["straight", "oblique"])
def test_the_picture_does_not_depend_on_the_order_the_voxels_are_stored_in(affine):
    qc = {"kidney_right": "flag"}
    expected = draw(abdomen(), affine, image=ramp(), **qc)
    assert expected.structure == "kidney_right"
    label_maps = stored_in_every_order(abdomen(), affine)
    images = stored_in_every_order(ramp(), affine)
    for (label_map, moved), (image, _) in zip(label_maps, images, strict=True):
        assert draw(label_map, moved, image=image, **qc) == expected


def test_the_letters_stand_at_the_ends_they_name():
    drawn = draw(cube(), TWO_MM, LIVER)
    for column, letter in zip(columns_of([120] * 3), ("RL", "RL", "AP"), strict=True):
        head = pixels(drawn)[2:9, column, 0] > 0
        for side, name in ((head[:, :4], letter[0]), (head[:, -4:], letter[1])):
            strokes = ["".join("#" if dot else " " for dot in line) for line in side]
            assert tuple(strokes) == preview._LETTERS[name]


# --- planes ----------------------------------------------------------------------------------


def cube(n=60, low=20, high=40):
    """Label map of a cube in n voxels each way."""
    label_map = np.zeros((n, n, n), dtype=np.uint8)
    label_map[low:high, low:high, low:high] = 1
    return label_map


def cone(n=60):
    """Label map of squares that are largest in plane 41 of the third axis."""
    label_map = np.zeros((n, n, n), dtype=np.uint8)
    for k in range(20, 50):
        half = 12 - abs(k - 41) // 2 - (k != 41)
        label_map[30 - half : 30 + half, 30 - half : 30 + half, k] = 1
    return label_map


@pytest.mark.parametrize(("k", "seen"), [(40, False), (41, True), (42, False)])
def test_the_plane_is_the_one_that_cuts_the_structures_at_their_fullest(k, seen):
    image = np.zeros((60, 60, 60), np.int16)
    image[:16, :16, k] = 1000
    drawn = pixels(draw(cone(), TWO_MM, LIVER, image=image))[preview._HEAD :, :120]
    n_light = (drawn == preview.LIGHTEST).all(axis=2).sum()
    assert n_light == (31 * 31 if seen else 0)  # 16 x 16 voxels, but for the half-tones around


def test_two_small_structures_are_not_outweighed_by_a_large_one():
    """The plane of both kidneys is shown, where the liver is cut at two thirds of its fullest."""
    label_map = np.zeros((60, 60, 60), dtype=np.uint8)
    label_map[30:60, :, 30:50] = 1
    label_map[30:50, :, 20:30] = 1
    label_map[2:10, 2:10, 24:28] = 3
    label_map[12:20, 2:10, 24:28] = 4
    drawn = draw(label_map, TWO_MM, image=np.zeros((60, 60, 60)))
    axial = slice(0, 120)
    for structure in ("liver", "kidney_left", "kidney_right"):
        assert len(in_colour(drawn, drawn.outlines[structure], axial)), structure


def test_without_a_structure_the_middle_of_the_image_is_shown():
    image = np.zeros((60, 60, 60), np.int16)
    image[:, :, 29:31] = 1000
    drawn = draw(np.zeros((60, 60, 60), np.uint8), TWO_MM, LIVER, image=image, liver="exclude")
    assert (drawn.outlines, drawn.structure) == ({}, None)
    assert (pixels(drawn)[preview._HEAD :, :120] == preview.LIGHTEST).all()


def test_what_lies_far_above_the_organs_is_not_shown():
    """A head, 250 mm above the middle of the liver; the same picture with and without it."""
    label_map = np.zeros((30, 30, 100), dtype=np.uint8)
    label_map[10:20, 10:20, 15:26] = 1
    affine = np.diag([10.0, 10.0, 10.0, 1.0])
    image = np.random.default_rng(1).integers(0, 200, label_map.shape)
    with_head = image.copy()
    with_head[:, :, 43:] = 1000
    assert draw(label_map, affine, LIVER, image=image) == draw(
        label_map, affine, LIVER, image=with_head
    )
    with_neck = image.copy()
    with_neck[:, :, 41:43] = 1000
    assert draw(label_map, affine, LIVER, image=image) != draw(
        label_map, affine, LIVER, image=with_neck
    )


def test_no_plane_is_laid_through_a_face():
    """A large face, in doubt, above a small liver."""
    label_map = np.zeros((30, 30, 30), dtype=np.uint8)
    label_map[5:25, 5:25, 20:30] = 1
    label_map[10:14, 10:14, 4:8] = 2
    layers = [{1: "face", 2: "liver"}]
    affine = np.diag([10.0, 10.0, 10.0, 1.0])
    drawn = draw(label_map, affine, layers, face="exclude")
    assert drawn.structure is None
    axial = slice(0, 30 * preview.ROW_HEIGHT // 30)
    assert len(in_colour(drawn, drawn.outlines["liver"], axial))
    other = draw(label_map, affine, layers, face="exclude", liver="flag")
    assert other.structure == "liver"


# --- outlines --------------------------------------------------------------------------------


def ring(first, last):
    """Pixels on the border of a square."""
    inside = range(first, last + 1)
    return {(r, c) for r in inside for c in inside if {r, c} & {first, last}}


def test_an_outline_is_the_outermost_pixels_of_its_structure():
    drawn = draw(cube(), TWO_MM, LIVER)  # 1 mm pixels: voxels 20 to 39 are pixels 40 to 79
    for columns in columns_of([120] * 3):
        found = in_colour(drawn, drawn.outlines["liver"], columns)
        assert {(row - preview._HEAD, column) for row, column in found} == ring(40, 79)


def test_a_structure_at_the_edge_of_the_image_is_outlined_there_too():
    drawn = draw(cube(low=40, high=60), TWO_MM, LIVER)  # to the right, the front and the head
    found = in_colour(drawn, drawn.outlines["liver"], slice(0, 120))
    assert {(row - preview._HEAD, column) for row, column in found} == ring(0, 39)


@pytest.mark.parametrize("edges_mm", [(2, 2, 2), (1, 2, 5), (4, 2.5, 1), (2, 5, 4)])
def test_proportions_are_true_whatever_the_voxels(edges_mm):
    """A cube of 40 mm in an image of 160 mm."""
    n = [round(160 / edge) for edge in edges_mm]
    label_map = np.zeros(n, dtype=np.uint8)
    label_map[tuple(slice(round(60 / edge), round(100 / edge)) for edge in edges_mm)] = 1
    drawn = draw(label_map, np.diag([*edges_mm, 1.0]), LIVER)
    for columns in columns_of([160] * 3):
        found = in_colour(drawn, drawn.outlines["liver"], columns)
        assert np.ptp(found, axis=0) + 1 == pytest.approx([40, 40], abs=1)


def test_structures_of_different_layers_are_all_drawn():
    layers = [{1: "liver"}, {2: "spleen"}]
    label_map = np.stack([cube(), 2 * cube(low=25, high=35)], axis=-1)
    drawn = draw(label_map, TWO_MM, layers, spleen="flag")
    assert set(drawn.outlines) == {"liver", "spleen"}
    for structure, expected in (("liver", ring(40, 79)), ("spleen", ring(50, 69))):
        found = in_colour(drawn, drawn.outlines[structure], slice(0, 120))
        assert {(row - preview._HEAD, column) for row, column in found} == expected
    assert drawn.structure == "spleen"
    assert len(in_colour(drawn, preview.SHOWN_COLOUR))


def test_more_structures_than_colours_share_the_last_one():
    structures = {label: f"muscle_{label}" for label in range(1, 9)}
    label_map = np.zeros((60, 60, 60), dtype=np.uint8)
    for label in structures:
        label_map[6 * label : 6 * label + 4] = label
    outlines = draw(label_map, TWO_MM, [structures]).outlines
    assert list(outlines.values()) == [*preview.COLOURS.values(), *[preview.OTHER_COLOUR] * 2]


def test_an_organ_keeps_its_colour_in_every_model():
    few = draw(abdomen(), LARGE).outlines
    many = {**{label: f"muscle_{label}" for label in range(10, 30)}, **STRUCTURES}
    assert draw(abdomen(), LARGE, [many]).outlines == few


# --- the second row --------------------------------------------------------------------------


def test_the_second_row_shows_the_structure_in_doubt_alone_and_in_its_middle():
    drawn = draw(abdomen(), LARGE, spleen="flag")
    assert drawn.structure == "spleen"
    one_row = pixels(draw(abdomen(), LARGE)).shape[0]
    second = pixels(drawn)[one_row:]
    colours = {tuple(colour) for colour in second.reshape(-1, 3) if len(set(colour)) > 1}
    assert colours == {tuple(bytes.fromhex(preview.SHOWN_COLOUR[1:]))}
    assert drawn.structure_colour == preview.SHOWN_COLOUR


def test_a_scan_that_passed_has_one_row():
    drawn = draw(abdomen(), LARGE)
    assert (drawn.structure, drawn.structure_colour) == (None, None)


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        ({"liver": "flag", "spleen": "exclude"}, "spleen"),
        ({"spleen": "flag", "kidney_left": "flag"}, "spleen"),
        ({"pancreas": "exclude", "kidney_left": "flag"}, "kidney_left"),  # no pancreas is there
        ({"pancreas": "exclude"}, None),
    ],
)
def test_the_worst_structure_is_one_that_is_there_and_excluded_before_flagged(verdicts, worst):
    rows = judged(abdomen()[..., None], LARGE, [STRUCTURES], **verdicts)
    assert measure.worst_structure(rows) == worst


def test_of_two_flagged_structures_the_one_with_more_codes_is_worse():
    rows = judged(abdomen()[..., None], LARGE, [STRUCTURES], liver="flag", spleen="flag")
    rows.loc[rows["structure"] == "spleen", "qc_flags"] = "QC_FRAGMENTED;QC_TRUNCATED_FOV"
    assert measure.worst_structure(rows) == "spleen"
    rows.loc[rows["structure"] == "liver", "qc"] = "exclude"
    assert measure.worst_structure(rows) == "liver"


# --- files -----------------------------------------------------------------------------------


def test_a_picture_is_small_however_noisy_the_scan():
    shape = (300, 300, 200)
    label_map = np.zeros(shape, dtype=np.uint8)
    label_map[50:250, 50:250, 20:180] = 1
    image = np.random.default_rng(1).integers(0, 4000, shape).astype(np.int16)
    drawn = draw(label_map, np.diag([1.3, 1.0, 2.0, 1.0]), LIVER, image=image, liver="flag")
    assert len(drawn.png) <= preview.MAX_BYTES
    assert len(np.unique(pixels(drawn)[preview._HEAD :, :100])) > 3  # greys are left


def test_a_picture_holds_no_text():
    """Signature, header, palette, pixels and end: no place for a name."""
    png = draw(abdomen(), LARGE, image=ramp()).png
    chunks, place = [], 8
    while place < len(png):
        chunks.append(png[place + 4 : place + 8])
        place += 12 + int.from_bytes(png[place : place + 4], "big")
    assert chunks == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]


@settings(deadline=None, derandomize=True, max_examples=50)
@given(
    st.one_of(
        arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))),
        st.integers(0, 9).map(lambda n: np.random.default_rng(n).integers(0, 20, (30, 40), "u1")),
    )
)
def test_another_reader_finds_the_pixels_that_were_encoded(image):
    palette = np.random.default_rng(1).permutation(256 * 3).reshape(256, 3).astype(np.uint8)
    read = np.array(Image.open(io.BytesIO(encode(image, palette))).convert("RGB"))
    assert (read == palette[image]).all()


def test_outlines_can_be_told_from_every_grey_and_from_each_other():
    colours = [*preview.COLOURS.values(), preview.OTHER_COLOUR, preview.SHOWN_COLOUR]
    assert len(set(colours)) == len(colours)
    assert preview.LIGHTEST < min(bytes.fromhex(preview.OTHER_COLOUR[1:]))
