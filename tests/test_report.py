"""The report: figures for a journal, and one page that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import struct
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from cohortvol.drawing import pages, style
from cohortvol.errors import OutputError, TableError
from cohortvol.stages import analyse, report
from cohortvol.stages.report.page import html as page
from cohortvol.stages.report.tables import flow, inputs
from cohortvol.store.schemas import SCANS
from cohortvol.store.tables import read_table, write_table
from report_fixture import STRUCTURES, write_cohort

pytestmark = pytest.mark.slow

SMALL, LARGE = 64, 1200
CHOSEN = {name: STRUCTURES[name] for name in ("liver", "adrenal_gland_left", "stomach")}


def write_report(cohort: Path, out: Path, **settings: object) -> Path:
    return report.run(
        analyse=cohort / "analyse",
        volumes=cohort / "volumes.parquet",
        scans=cohort / "scans.parquet",
        out=out,
        **settings,
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("small"), SMALL, CHOSEN)


@pytest.fixture(scope="module")
def small_page(small):
    path = write_report(small, small / "report", planted=small / "planted.csv")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("large"), LARGE, CHOSEN)


@pytest.fixture(scope="module")
def large_page(large):
    return write_report(large, large / "report").read_text(encoding="utf-8")


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.tags: set[str] = set()
        self.ids: set[str] = set()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.add(tag)
        self.ids.add(values.get("id") or "")
        if "href" in values:
            self.hrefs.append(values["href"])
        if tag == "img":
            self.images.append(values)


def links(html: str) -> Links:
    parser = Links()
    parser.feed(html)
    return parser


def test_the_page_loads_nothing_from_elsewhere_and_runs_its_own_script_alone(small_page):
    found = links(small_page)
    assert "default-src 'none'" in small_page
    assert not found.tags & {"link", "iframe", "object", "embed"}
    (script,) = re.findall(r"<script>(.*?)</script>", small_page, re.DOTALL)
    assert small_page.count("<script") == 1
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in small_page
    assert not re.search(r"\son[a-z]+=", re.sub(r'"data:image[^"]*"', "", small_page))
    assert all(image["src"].startswith("data:image/png;base64,") for image in found.images)
    assert not re.search(r"https?://", small_page)
    assert "url(" not in small_page


def test_every_link_of_the_page_leads_somewhere(small, small_page):
    found = links(small_page)
    for href in found.hrefs:
        if href.startswith("#"):
            assert href[1:] in found.ids, href
        else:
            assert (small / "report" / href).exists(), href


def test_every_image_has_words_for_those_who_cannot_see_it(small_page):
    texts = [image["alt"] for image in links(small_page).images]
    drawn = len(re.findall(r"<figure ", small_page))
    assert len(texts) == drawn > 5
    assert all(len(text) > 30 for text in texts)
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    "name",
    ["flow", "trends", "forest", "quartiles", "heatmap", "missing", "sensitivity", "planted"],
)
def test_a_figure_comes_as_pdf_svg_and_png_with_data_and_caption(small, small_page, name):
    folder = small / "report" / "figures"
    for suffix in ("pdf", "svg", "png", "csv", "txt"):
        assert (folder / f"{name}.{suffix}").stat().st_size > 100
    width, height = struct.unpack(">II", (folder / f"{name}.png").read_bytes()[16:24])
    assert width == pytest.approx(style.DOUBLE_COLUMN_MM / 25.4 * 300, abs=1)
    assert height <= style.MAX_HEIGHT_MM / 25.4 * 300 + 1
    pdf = (folder / f"{name}.pdf").read_bytes()
    assert b"/Type3" not in pdf
    assert b"/FontFile2" in pdf
    caption = (folder / f"{name}.txt").read_text(encoding="utf-8")
    assert caption.count("\n") == 1


def test_the_same_tables_give_the_same_bytes_and_no_earlier_figure_stays(
    small, small_page, tmp_path
):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "trends_7.png").touch()  # an earlier run had more structures
    write_report(small, tmp_path, planted=small / "planted.csv")
    first = {p.relative_to(small / "report"): p for p in (small / "report").rglob("*.*")}
    second = {p.relative_to(tmp_path): p for p in tmp_path.rglob("*.*")}
    assert first.keys() == second.keys()
    changed = [str(name) for name in first if first[name].read_bytes() != second[name].read_bytes()]
    assert changed == []


def test_every_manifest_row_is_accounted_for_at_the_top_of_the_page(small_page):
    sentence = "64 rows in the manifest = 60 measured + 3 quarantined + 0 skipped + 1 failed"
    assert f"{sentence}; all accounted for." in small_page


def test_counts_that_do_not_add_up_are_said_to():
    table = pd.DataFrame(
        [("manifest", None, 10), ("done", None, 8), ("usable for trends", None, 8)],
        columns=["step", "reason", "n"],
    )
    assert "sum 8: not balanced" in flow.count_flow(table).sentence()


def test_what_people_who_looked_changed_is_told_and_drawn():
    table = pd.DataFrame(
        [
            ("manifest", None, 20),
            ("done", None, 20),
            ("unusable", "scan failed QC", 2),
            ("unusable", "scan excluded by review", 3),
            ("kept", "accepted by review against automatic QC", 1),
            ("usable for trends", None, 15),
        ],
        columns=["step", "reason", "n"],
    )
    counted = flow.count_flow(table)
    assert counted.review() == "Human review: 3 scans excluded, 1 kept against automatic QC."
    with style.journal_style():
        figure, data = flow.flow_figure(counted, {})
    drawn = [text.get_text() for text in figure.axes[0].texts]
    assert "Scan excluded by review" in drawn
    assert "Accepted by review against automatic QC" in drawn
    assert data.set_index("reason")["n"]["scan excluded by review"] == 3
    assert flow.count_flow(table[table["step"].isin(["manifest", "done", "usable for trends"])]
                           ).review() == ""  # fmt: skip


def test_a_small_cohort_says_that_it_is_small_and_reads_off_no_trends(small_page):
    assert "Slopes rest on 59 usable scans at most, too few to show trends." in small_page
    assert "Smaller at higher age" not in small_page


def test_a_large_cohort_says_which_structures_differ_with_age(large_page):
    assert "too few to show trends" not in large_page
    table = large_page[large_page.index('id="answer"') : large_page.index('id="scans"')]
    headings = ("Smaller at higher age", "Larger at higher age", "Negative controls: hollow")
    places = [table.index(words) for words in headings]
    assert places == sorted(places)
    assert places[0] < table.index(">Liver<") < places[1]
    assert places[1] < table.index(">Left adrenal gland<") < places[2] < table.index(">Stomach<")
    assert "Of 2 structures, 1 is smaller and 1 is larger at higher age" in table


def test_the_methods_state_the_settings_that_were_used(small, tmp_path, small_page):
    assert "fewer than 100 usable subjects of a sex are descriptive only" in small_page
    assert "field of view cuts were left out" in small_page
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    for name in ("volumes.parquet", "scans.parquet"):
        shutil.copy(small / name, cohort / name)
    tables = (cohort / "volumes.parquet", cohort / "scans.parquet")
    analyse.run(*tables, cohort / "analyse", min_n_per_sex=20, exclude_cut=False)
    html = write_report(cohort, tmp_path / "report").read_text(encoding="utf-8")
    assert "fewer than 20 usable subjects of a sex are descriptive only" in html
    assert "used as measured, although they are lower bounds" in html
    assert "too few to show trends" not in html


def test_scan_ids_stay_off_the_page_unless_asked_for(small, small_page):
    assert "scan-000" not in small_page
    scans = inputs.read_scans(small / "scans.parquet")
    for show, listed in ((False, []), (True, ["scan-00000", "scan-00048"])):
        rows = page.left_out(scans, {}, show_scan_ids=show)
        truncated = [row["scan_ids"] for row in rows if row["code"] == "SRC_TRUNCATED"]
        assert truncated == [listed]


def test_without_previews_the_page_has_no_picture_of_a_person(small_page):
    assert "Contact sheets" not in small_page
    assert "the right of the person" not in small_page


def test_a_scan_that_was_left_out_is_listed_with_what_to_do(small_page):
    assert "SRC_TRUNCATED" in small_page
    assert "Copy the image again from its source" in small_page


def test_names_are_text_and_never_markup_or_mathematics(tmp_path):
    name = "liver_<b>$x^{ $</b>"  # as mathematics it could not be drawn
    cohort = write_cohort(tmp_path, SMALL, {name: (1400.0, 0.2, -3.0)})
    scans = read_table(cohort / "scans.parquet", SCANS)
    markup = "<img src=x onerror=alert(1)>"
    scans["sequence"] = scans["sequence"].replace("T2w", markup)
    scans.loc[scans["reason"] == "SRC_TRUNCATED", "scan_id"] = f"{markup}'\""
    write_table(cohort / "scans.parquet", scans, SCANS)
    analyse.run(cohort / "volumes.parquet", cohort / "scans.parquet", cohort / "analyse")
    title = "<script>alert(1)</script> $5 & more"
    html = write_report(cohort, tmp_path / "report", title=title, show_scan_ids=True).read_text(
        encoding="utf-8"
    )
    assert html.count("<script") == 1
    assert "<b>$x" not in html
    assert "<img src=x" not in html
    assert html.count("&lt;img src=x onerror=alert(1)&gt;") >= 2  # the id and the sequence
    assert "&lt;script&gt;alert(1)&lt;/script&gt; $5 &amp; more" in html


def test_without_planted_slopes_there_is_no_such_section(large_page, small_page):
    assert "Planted and recovered" in small_page
    assert "Planted and recovered" not in large_page


def test_planted_and_recovered_stand_side_by_side(small, small_page):
    data = pd.read_csv(small / "report" / "figures" / "planted.csv")
    assert len(data) == 2 * len(CHOSEN)
    liver = data[(data["structure"] == "liver") & (data["sex"] == "F")].iloc[0]
    assert liver["planted_pct_per_decade"] == -3.5
    low, high = liver["slope_pct_per_decade_ci_low"], liver["slope_pct_per_decade_ci_high"]
    assert low < liver["slope_pct_per_decade"] < high


def test_volumes_that_the_analysis_leaves_out_are_not_drawn(small):
    scans = inputs.read_scans(small / "scans.parquet")
    drawn = inputs.read_points(small / "volumes.parquet", scans, keep_cut=False)
    with_cut = inputs.read_points(small / "volumes.parquet", scans, keep_cut=True)
    used = pd.read_parquet(small / "analyse" / "slopes.parquet")
    used = used[(used["model"] == "M1") & (used["sex"] == "all")].set_index("structure")["n_used"]
    assert drawn["structure"].value_counts().to_dict() == used.to_dict()
    assert len(with_cut) > len(drawn)


def test_a_large_cohort_is_drawn_as_counts_and_not_as_single_scans(large, large_page):
    data = pd.read_csv(large / "report" / "figures" / "trends.csv")
    assert set(data["kind"]) == {"hexagon", "fit", "published"}
    liver = data[(data["structure"] == "liver") & (data["kind"] == "hexagon")]
    scans = inputs.read_scans(large / "scans.parquet")
    points = inputs.read_points(large / "volumes.parquet", scans, keep_cut=False)
    n = (points["structure"] == "liver").sum()
    assert n * 0.98 <= liver["n"].sum() <= n  # a few lie outside the axes


def test_a_missing_column_is_named(small, tmp_path):
    folder = tmp_path / "analyse"
    shutil.copytree(small / "analyse", folder)
    table = pd.read_parquet(folder / "slopes.parquet").drop(columns="q_value")
    table.to_parquet(folder / "slopes.parquet")
    with pytest.raises(TableError, match=r"slopes\.parquet: columns missing: q_value"):
        inputs.read_analysis(folder)


def test_a_missing_analysis_says_which_stage_to_run(small, tmp_path):
    with pytest.raises(TableError, match=r"no such table; has the stage before it run\?"):
        inputs.read_analysis(tmp_path)


def test_tables_of_another_cohort_than_the_analysis_are_refused(small, large, tmp_path):
    with pytest.raises(TableError, match="not the table of volumes that was analysed"):
        report.run(
            small / "analyse", large / "volumes.parquet", large / "scans.parquet", tmp_path / "r"
        )
    assert not (tmp_path / "r").exists()


def test_a_folder_without_templates_is_refused(small, tmp_path):
    with pytest.raises(OutputError, match=r"no page\.html here"):
        write_report(small, tmp_path / "report", templates=tmp_path)


def test_cohort_tables_may_be_csv(small, tmp_path):
    for name in ("volumes", "scans"):
        columns = [*inputs.VOLUME_COLUMNS, "status"]
        if name == "scans":
            columns = [*inputs.SCAN_COLUMNS, *inputs.STATE_COLUMNS]
        table = pd.read_parquet(small / f"{name}.parquet", columns=columns)
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    scans = inputs.read_scans(tmp_path / "scans.csv")
    points = inputs.read_points(tmp_path / "volumes.csv", scans, keep_cut=False)
    parquet = inputs.read_points(
        small / "volumes.parquet", inputs.read_scans(small / "scans.parquet"), keep_cut=False
    )
    assert len(points) == len(parquet)


@pytest.mark.parametrize(
    ("value", "log10", "text"),
    [
        (0.5, None, "0.50"),
        (0.0312, None, "0.031"),
        (0.00042, None, "4 × 10⁻⁴"),
        (3e-120, -119.5, "3 × 10⁻¹²⁰"),
        (0.0, -441.0, "< 10⁻³⁰⁰"),
        (float("nan"), None, "–"),
    ],
)
def test_probabilities_are_printed_as_a_reader_expects(value, log10, text):
    assert style.probability(value, log10) == text


@pytest.mark.parametrize(
    ("value", "text"), [(-0.04, "0.0"), (-3.14, "−3.1"), (1234.56, "1,234.6"), (None, "–")]
)
def test_numbers_have_a_true_minus_sign_and_no_minus_zero(value, text):
    assert style.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1502.3, "1,502"), (288.4, "288"), (52.44, "52.4"), (0.1284, "0.128")]
)
def test_volumes_have_three_significant_figures(value, text):
    assert style.significant(value) == text


@pytest.mark.parametrize(
    ("structure", "text"),
    [("kidney_left", "Left kidney"), ("kidneys", "Kidneys"), ("vertebra_L3", "Vertebra L3")],
)
def test_structures_are_printed_as_a_reader_says_them(structure, text):
    assert style.display_name(structure) == text


def test_a_word_that_a_caption_does_not_know_is_an_error(tmp_path):
    shutil.copytree(pages.templates_folder(), tmp_path / "reports")
    (tmp_path / "reports" / "captions" / "flow.txt").write_text("{{ no_such_word }}")
    with pytest.raises(Exception, match="no_such_word"):
        pages.caption(pages.environment(tmp_path / "reports"), "flow", {})
