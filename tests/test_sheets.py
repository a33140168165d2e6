"""Contact sheets: which scans are shown, in which order, with what words, and with no name."""

import re

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from cohortvol import reasons
from cohortvol.drawing import pages
from cohortvol.errors import TableError
from cohortvol.stages import analyse, report
from cohortvol.stages.measure.png import encode
from cohortvol.stages.report import SheetSettings
from cohortvol.stages.report.figures import sheets
from cohortvol.stages.report.tables import inputs
from cohortvol.store.schemas import PREVIEWS, SCANS, VOLUMES
from cohortvol.store.tables import append_rows, read_table, write_table
from report_fixture import STRUCTURES, write_cohort

pytestmark = pytest.mark.slow

CHOSEN = {name: STRUCTURES[name] for name in ("liver", "kidney_left", "kidney_right")}
FLAGS = {  # scan: structure to (qc, codes)
    "scan-00001": {"liver": ("flag", "QC_TRUNCATED_FOV")},
    "scan-00002": {"liver": ("exclude", "QC_ABSENT"), "kidney_left": ("flag", "QC_FRAGMENTED")},
    "scan-00003": dict.fromkeys(CHOSEN, ("exclude", "QC_SIDE")),
    "scan-00004": {"liver": ("exclude", "QC_ABSENT")},
    "scan-00005": dict.fromkeys(("liver", "kidney_left"), ("flag", "QC_TRUNCATED_FOV")),
}
TWICE = "scan-00006"  # excluded as a whole, while every structure passed
WORST_FIRST = ["scan-00003", TWICE, "scan-00002", "scan-00004", "scan-00005", "scan-00001"]
OUTLINES = '{"liver": "#CC79A7", "kidney_left": "#E69F00", "kidney_right": "#56B4E9"}'
NOT_DRAWN = "scan-00004"


def picture(number):
    """A PNG that no other number has."""
    pixels = np.full((20, 30), number % 251, np.uint8)
    return encode(pixels, np.arange(256 * 3).reshape(256, 3) % 256)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """64 scans, of which six are flagged or excluded, and the pictures of all that are done."""
    folder = write_cohort(tmp_path_factory.mktemp("cohort"), 64, CHOSEN)
    scans = read_table(folder / "scans.parquet", SCANS)
    volumes = read_table(folder / "volumes.parquet", VOLUMES)
    volumes["qc_flags"] = ""
    for scan_id, verdicts in FLAGS.items():
        whole = "exclude" if len(verdicts) == len(CHOSEN) else "flag"
        codes = sorted({code for _, code in verdicts.values()})
        scans.loc[scans["scan_id"] == scan_id, ["qc", "qc_flags"]] = [whole, ";".join(codes)]
        for structure, verdict in verdicts.items():
            here = (volumes["scan_id"] == scan_id) & (volumes["structure"] == structure)
            volumes.loc[here, ["qc", "qc_flags"]] = list(verdict)
    scans.loc[scans["scan_id"] == "scan-00001", "qc_flags"] = "QC_INTENSITY;QC_TRUNCATED_FOV"
    scans.loc[scans["scan_id"] == TWICE, ["qc", "qc_flags"]] = ["exclude", "ID_SAME_CONTENT"]
    write_table(folder / "scans.parquet", scans, SCANS)
    write_table(folder / "volumes.parquet", volumes, VOLUMES)
    analyse.run(folder / "volumes.parquet", folder / "scans.parquet", folder / "analyse")
    done = scans.loc[scans["state"] == "done", "scan_id"]
    rows = [
        {"scan_id": name, "png": picture(number), "outlines": OUTLINES}
        | ({"structure": "liver", "structure_colour": "#F0E442"} if name in FLAGS else {})
        if name != NOT_DRAWN
        else {"scan_id": name, "reason": "BUG_UNEXPECTED"}
        for number, name in enumerate(done)
    ]
    write_table(folder / "previews" / "0000.parquet", append_rows(rows, PREVIEWS), PREVIEWS)
    return folder


def write_report(cohort, out, **settings):
    return report.run(
        analyse=cohort / "analyse",
        volumes=cohort / "volumes.parquet",
        scans=cohort / "scans.parquet",
        out=out,
        **settings,
    ).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(cohort, tmp_path_factory):
    """Page and private table."""
    return with_sheets(cohort, tmp_path_factory.mktemp("made"))


def with_sheets(cohort, out):
    key = out / "private.csv"
    settings = SheetSettings(flagged=5, random=10)
    html = write_report(
        cohort, out / "report", previews=cohort / "previews", contact_sheet=key, sheet=settings
    )
    return html, pd.read_csv(key)


@pytest.fixture(scope="module")
def named(cohort, tmp_path_factory):
    """Page with the names of the scans."""
    out = tmp_path_factory.mktemp("named")
    return write_report(cohort, out, previews=cohort / "previews", show_scan_ids=True)


def section(cohort, scans):
    """The section of the page alone, for these scans."""
    verdicts = inputs.read_verdicts(cohort / "volumes.parquet")
    chosen = sheets.choose(scans, verdicts, SheetSettings())
    pictures = inputs.read_previews(cohort / "previews", chosen)
    context = sheets.make_sheets(
        chosen, scans, verdicts, pictures, reasons.load(), show_scan_ids=False
    )
    template = pages.environment(pages.templates_folder()).get_template("sheets.html")
    return template.render(sheets={**context, "seed": 1, "key": ""})


def choose(cohort, scans=None, **settings):
    scans = inputs.read_scans(cohort / "scans.parquet") if scans is None else scans
    verdicts = inputs.read_verdicts(cohort / "volumes.parquet")
    return sheets.choose(scans, verdicts, SheetSettings(**settings))


def shown(chosen, sheet):
    return chosen.loc[chosen["sheet"] == sheet, "scan_id"].tolist()


# --- which scans -----------------------------------------------------------------------------


def test_excluded_scans_come_first_then_those_with_more_structures_in_doubt(cohort):
    assert shown(choose(cohort), "flagged") == WORST_FIRST
    assert shown(choose(cohort, flagged=2), "flagged") == WORST_FIRST[:2]


def test_the_random_sample_is_of_scans_that_passed(cohort):
    scans = inputs.read_scans(cohort / "scans.parquet").set_index("scan_id")
    sample = shown(choose(cohort, random=30), "random")
    assert len(set(sample)) == 30
    assert set(scans.loc[sample, "qc"]) == {"pass"}
    assert set(scans.loc[sample, "state"]) == {"done"}
    assert sample != sorted(sample)


def test_the_sample_depends_on_the_seed_and_not_on_the_order_of_the_table(cohort):
    scans = inputs.read_scans(cohort / "scans.parquet")
    sample = shown(choose(cohort, random=10), "random")
    assert shown(choose(cohort, scans[::-1], random=10), "random") == sample
    assert shown(choose(cohort, random=10, seed=2), "random") != sample


def test_scans_that_are_added_push_others_out_of_the_sample_but_do_not_draw_it_anew(cohort):
    scans = inputs.read_scans(cohort / "scans.parquet")
    before = shown(choose(cohort, scans[:48], random=10), "random")
    after = shown(choose(cohort, scans, random=10), "random")
    kept = [name for name in after if name in set(scans["scan_id"][:48])]
    assert kept == before[: len(kept)]
    assert len(kept) >= 4


def test_a_sum_of_two_sides_is_not_counted_as_a_structure(cohort, tmp_path):
    volumes = read_table(cohort / "volumes.parquet", VOLUMES)
    sums = volumes[volumes["structure"] == "liver"].assign(structure="kidneys", label=pd.NA)
    write_table(tmp_path / "v.parquet", pd.concat([volumes, sums]), VOLUMES)
    assert set(inputs.read_verdicts(tmp_path / "v.parquet")["structure"]) == set(CHOSEN)


# --- the page --------------------------------------------------------------------------------


def test_the_page_says_how_many_of_how_many_are_shown_and_by_which_rule(made):
    html, _ = made
    assert "5 of 6, worst first: excluded scans before flagged ones" in html
    assert "10 of 54, drawn at random (seed 1)" in html


def tiles(html):
    """What stands in each tile, by its number."""
    sheet = html[html.index('<ul class="sheet">') :]
    parts = re.split(r"<p><b>([FR]\d+)</b>", sheet)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_each_tile_says_in_words_what_is_in_doubt(made):
    html, _ = made
    found = tiles(html)
    assert list(found) == [f"F{n}" for n in range(1, 6)] + [f"R{n}" for n in range(1, 11)]
    assert " Excluded" in found["F1"]
    assert "<b>All structures:</b> Liver and spleen lie on the wrong sides." in found["F1"]
    assert "<b>Liver:</b> The structure was not found." in found["F3"]
    assert "<b>Left kidney:</b> A structure that is one piece in every body fell" in found["F3"]
    assert found["F3"].index("not found") < found["F3"].index("one piece")  # excluded first
    assert "Second row: Liver" in found["F3"]
    assert "<li>The same image stands under two scan ids.</li>" in found["F2"]
    assert " Passed" in found["R1"]
    assert "<li>" not in found["R1"].split("</li>")[0]


def test_what_is_said_of_the_scan_as_a_whole_is_said_too(named):
    assert "Many voxels sit at the largest value" in tiles(named)["F6"]


def test_the_pictures_are_in_the_page_with_words_for_those_who_cannot_see_them(made):
    html, key = made
    sheets = html[html.index('<section id="sheets">') :]
    images = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]*)" width', sheets)
    assert len(images) == 14  # one of the 15 could not be drawn
    assert len({source for source, _ in images}) == 14
    for tile in key["tile"][key["scan_id"] != NOT_DRAWN]:
        assert any(alt.startswith(f"Tile {tile}: axial, coronal") for _, alt in images)
    assert "Liver, Left kidney, Right kidney" in images[0][1]


def test_a_scan_that_could_not_be_drawn_says_so(made):
    html, key = made
    tile = key.loc[key["scan_id"] == NOT_DRAWN, "tile"].item()
    before = html[: html.index(f"<b>{tile}</b>")]
    assert before.rindex("could not be drawn") > before.rindex("<img")


def test_the_legend_names_the_colours_that_are_in_the_pictures(made):
    html, _ = made
    legend = html[html.index('<ul class="legend"') : html.index('<ul class="sheet">')]
    for colour, name in (("#CC79A7", "Liver"), ("#56B4E9", "Right kidney"), ("#F0E442", "The st")):
        assert re.search(rf'stroke="{colour}"[^>]*/></svg> {name}', legend), name


def test_the_page_says_which_side_is_which(made):
    assert "the right of the person is on the left" in made[0]


# --- no name on the page ---------------------------------------------------------------------


def test_no_scan_is_named_on_the_page_and_the_private_table_names_each(made):
    html, key = made
    assert "scan-0" not in html
    assert key["tile"].tolist() == list(tiles(html))
    assert key["scan_id"].tolist()[:5] == WORST_FIRST[:5]
    assert key.loc[key["tile"] == "F1", ["qc", "qc_flags", "structure"]].iloc[0].tolist() == [
        "exclude",
        "QC_SIDE",
        "liver",
    ]


def test_scans_are_named_where_that_is_asked_for(named):
    assert "<code>scan-00003</code>" in tiles(named)["F1"]


# --- edges -----------------------------------------------------------------------------------


def test_the_same_tables_give_the_same_page_and_the_same_private_table(cohort, made, tmp_path):
    html, key = with_sheets(cohort, tmp_path)
    assert html == made[0]
    assert_frame_equal(key, made[1])


def test_a_cohort_without_a_measured_scan_says_so(cohort):
    scans = inputs.read_scans(cohort / "scans.parquet").assign(state="quarantined", qc=None)
    html = section(cohort, scans)
    assert html.strip() == "<p>No scan was measured, so there is nothing to show.</p>"


def test_a_cohort_of_which_every_scan_passed_says_so(cohort):
    scans = inputs.read_scans(cohort / "scans.parquet")
    html = section(cohort, scans.assign(qc=scans["qc"].mask(scans["state"] == "done", "pass")))
    assert "None: every measured scan passed." in html
    assert "24 of 60, drawn at random" in html


def test_pictures_that_are_missing_are_named(cohort, tmp_path):
    with pytest.raises(TableError, match=r"0000\.parquet: no such table"):
        inputs.read_previews(tmp_path, choose(cohort))


def test_many_structures_are_counted_and_not_listed():
    names = [f"Muscle {number}" for number in range(20)]
    assert sheets._names(names) == ", ".join(names[:6]) + " and 14 more"


def test_a_public_page_shows_no_picture_of_a_scan(cohort, tmp_path):
    key = tmp_path / "private.csv"
    html = write_report(
        cohort, tmp_path / "report", previews=cohort / "previews", contact_sheet=key, public=True
    )
    assert "Contact sheets" not in html
    assert '<ul class="sheet">' not in html
    assert not key.exists()
