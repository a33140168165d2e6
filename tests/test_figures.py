"""The figures: they fit a journal, say what they show, and stay legible with 80 structures."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from cohortvol.drawing import pages, style
from cohortvol.stages import analyse, report
from cohortvol.stages.report.figures import forest, heatmap, trends
from cohortvol.stages.report.figures import gallery as drawing
from cohortvol.stages.report.page.sentences import notices
from cohortvol.stages.report.tables import disclosure, flow, inputs
from cohortvol.stages.report.tables.inputs import BESIDE_COLUMNS
from report_fixture import STRUCTURES, make_scans, make_volumes, write_cohort

pytestmark = pytest.mark.slow

CHOSEN = ("liver", "adrenal_gland_left", "adrenal_gland_right", "stomach")
SLOPE = "slope_pct_per_decade"


def estimates(name: str, value: float) -> dict[str, float]:
    return {name: value, f"{name}_ci_low": value - 1, f"{name}_ci_high": value + 1}


def repeats_table(structures: list[str]) -> pd.DataFrame:
    """What `analyse` writes where many people were scanned again; made up."""
    made = [
        {"structure": name, "sex": sex, "model": "M1", "n_used": 900, "n_subjects": 600,
         "n_rescanned": 300, "years_between_median": 4.0,
         **estimates("between_pct_per_decade", -3.0), **estimates("within_pct_per_decade", -2.0)}
        for name in structures for sex in ("all", "F", "M")
    ]  # fmt: skip
    return pd.DataFrame(made).reindex(columns=BESIDE_COLUMNS["within_between"])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """An analysed cohort of 900, large enough for every figure."""
    folder = tmp_path_factory.mktemp("figures")
    return write_cohort(folder, 900, {name: STRUCTURES[name] for name in CHOSEN})


@pytest.fixture(scope="module")
def subject(cohort):
    found = inputs.read_analysis(cohort / "analyse")
    beside = dict(found.beside) | {"within_between": repeats_table(list(CHOSEN))}
    scans = inputs.read_scans(cohort / "scans.parquet")
    points = inputs.read_points(cohort / "volumes.parquet", scans, keep_cut=False)
    return drawing.Subject(
        dataclasses.replace(found, beside=beside),
        points,
        flow.count_flow(found.flow),
        inputs.read_planted(cohort / "planted.csv"),
    )


@pytest.fixture(scope="module")
def figures(subject):
    with style.journal_style():
        return list(drawing.draw(subject))


@pytest.fixture(scope="module")
def captions(figures):
    jinja = pages.environment(pages.templates_folder())
    texts = {
        "flow": flow.Flow(1, 1, 1), "count": style.count, "adjusted_for": "height and BMI",
        "models": ["M1", "M2"], "fdr": "0.05", "family": "Benjamini-Hochberg over all",
        "correlation_family": "Bonferroni over all", "se_kind": "HC3", "small_sentence": "",
        "size_sentence": "", "fixed_sentence": "Cross-sectional.", "min_n_centiles": 300,
        "has_trends": True, "on_age": "age × sex", "per": "per sex and structure",
        "by_sex": " by sex",
    }  # fmt: skip
    return {one.stem: pages.caption(jinja, one.name, texts | one.context) for one in figures}


def test_every_figure_has_something_to_show_of_a_cohort_that_has_everything(figures):
    assert {one.name for one in figures} == set(drawing.NAMES) - {"volumes"}  # of those without


def visible_texts(figure):
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def sticks_out_mm(figure):
    """How far what is drawn reaches beyond the edges of a figure, mm; 0 if nowhere."""
    box = figure.get_tightbbox(figure.canvas.get_renderer())
    width, height = figure.get_size_inches()
    return 25.4 * max(0.0, -box.x0, -box.y0, box.x1 - width, box.y1 - height)


def check_fit(one):
    width, height = one.figure.get_size_inches() * 25.4
    assert min(abs(width - 89), abs(width - 183)) < 0.01, one.stem
    assert height <= 247, one.stem
    with style.journal_style():
        assert sticks_out_mm(one.figure) < 0.5, one.stem
        sizes = {text.get_fontsize() for text in visible_texts(one.figure)}
    assert 5 <= min(sizes) <= max(sizes) <= 7, (one.stem, sizes)


def test_every_figure_fits_a_journal_page_with_letters_of_5_to_7_points(figures):
    for one in figures:
        check_fit(one)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("trends", ("M1", "95 % CI", "95 % confidence band", "HC3", "volumes")),
        ("worms", ("van Buuren", "No test is made", "should leave them: here ")),
        ("centiles", ("LMS", "No test is made", "maximum likelihood")),
        ("forest", ("95 % confidence intervals", "HC3", "t test", "Benjamini-Hochberg", "M2")),
        ("quartiles", ("Spearman", "Bonferroni", "quartiles")),
        ("heatmap", ("Wald test", "Benjamini-Hochberg", "M2")),
        ("sides", ("Bland and Altman", "1.96 SD", "95 % CI")),
        ("missing", ("No test is made", "usable volume")),
        ("sensitivity", ("95 % confidence interval", "Tobit", "Huber", "IPW", "No test")),
        ("repeats", ("REML", "95 % confidence interval", "300 people")),
    ],
)
def test_a_caption_says_model_interval_test_and_family(captions, name, words):
    assert [word for word in words if word not in captions[name]] == []


def test_a_caption_gives_the_n_of_its_own_page(captions, figures, subject):
    n = len(subject.points[subject.points["structure"].isin(CHOSEN)])
    assert f"{n:,} volumes" in captions["trends"]
    slopes = subject.analysis.slopes
    of_sex = slopes[slopes["sex"].isin(["F", "M"])]["n_used"]
    assert f"{of_sex.min()} to {of_sex.max()} scans per sex" in captions["forest"]
    drawn = next(one for one in figures if one.name == "centiles").data["n_used"]
    assert f"{drawn.min()} to {drawn.max()} per sex" in captions["centiles"]


def test_no_text_calls_a_number_that_of_the_paper(captions):
    assert not any("paper" in text.lower() for text in captions.values())


def references(evidence: str, plotted: bool) -> pd.DataFrame:
    row = {
        "structure": "liver", "sex": "F", "model": "M1", "n_used": 400, **estimates(SLOPE, -3.0),
        "reference_age_ref_years": 50.0, "reference_age_low_years": 40.0,
        "reference_age_high_years": 60.0, "reference_mean_ml": 1400.0, "reference_sd_ml": 200.0,
        "reference_slope_pct_per_decade": -2.0, "reference_n": 123, "modality": "CT",
        "evidence": evidence, "source": "made up", "plotted": plotted, "verdict": "sign agrees",
    }  # fmt: skip
    return pd.DataFrame([row]).reindex(columns=BESIDE_COLUMNS["literature"])


def with_references(subject, table):
    beside = dict(subject.analysis.beside) | {"literature": table}
    return dataclasses.replace(subject.analysis, beside=beside)


@pytest.mark.parametrize("plotted", [True, False])
def test_an_unverified_value_is_never_drawn(subject, plotted):
    told = with_references(subject, references("UNVERIFIED", plotted))
    assert len(trends.references(told)) == len(forest.published_slopes(told)) == 0
    told = with_references(subject, references("DERIVED", plotted))
    assert len(trends.references(told)) == len(forest.published_slopes(told)) == int(plotted)


def test_verified_and_derived_values_look_different(subject):
    faces = {}
    for evidence in ("VERIFIED", "DERIVED"):
        analysis = with_references(subject, references(evidence, plotted=True))
        with style.journal_style():
            (drawn,) = trends.trend_pages(analysis, subject.points)
            (plot,) = forest.forest_pages(analysis, level=0.05)
        for name, figure in (("trends", drawn.figure), ("forest", plot.figure)):
            diamonds = [line for axes in figure.axes for line in axes.lines
                        if line.get_marker() == "D"]  # fmt: skip
            assert len(diamonds) == 1
            faces[name, evidence] = diamonds[0].get_markerfacecolor()
    assert faces["trends", "VERIFIED"] != faces["trends", "DERIVED"] == "white"
    assert faces["forest", "VERIFIED"] != faces["forest", "DERIVED"] == "white"


def test_a_slope_of_a_trend_that_bends_is_marked_as_an_average(subject):
    table = pd.DataFrame(
        {"structure": ["liver", "liver"], "sex": ["F", "M"], "q_value": [0.001, 0.4]}
    ).reindex(columns=BESIDE_COLUMNS["nonlinearity"])
    beside = dict(subject.analysis.beside) | {"nonlinearity": table}
    analysis = dataclasses.replace(subject.analysis, beside=beside)
    with style.journal_style():
        (plot,) = forest.forest_pages(analysis, level=0.05)
    marked = plot.data[plot.data["average"].fillna(False).astype(bool)]
    assert set(zip(marked["structure"], marked["sex"], strict=True)) == {("liver", "F")}
    words = [text.get_text() for text in visible_texts(plot.figure)]
    assert sum(text.rstrip().endswith("†") for text in words) == 2  # M1 and M2 of women


def test_cells_of_the_heat_map_hold_the_values_of_the_tables(subject):
    with style.journal_style():
        (drawn,) = heatmap.heat_pages(subject.analysis, level=0.05)
    found = drawn.data.set_index(["structure", "statistic", "of"])["value"]
    slopes = subject.analysis.slopes.set_index(["structure", "model", "sex"])[SLOPE]
    rho = subject.analysis.correlations.set_index(["structure", "sex"])["spearman_rho"]
    assert found["liver", "Slope M2, %/decade", "Men"] == slopes["liver", "M2", "M"]
    assert found["stomach", "Spearman ρ with age", "Women"] == rho["stomach", "F"]


def test_left_and_right_are_taken_for_left_and_right(figures):
    drawn = next(one for one in figures if one.name == "sides")
    agreement = drawn.data[drawn.data["panel"] == "agreement"]
    difference = np.average(agreement["difference_ml"], weights=agreement["n"])
    assert difference > 0.3  # the left gland is made 0.7 mL larger than the right one


def test_where_a_table_is_empty_the_figure_is_left_out_with_a_sentence(subject):
    bare = dataclasses.replace(subject.analysis, beside={})
    with style.journal_style():
        names = {one.name for one in drawing.draw(dataclasses.replace(subject, analysis=bare))}
    gone = {"centiles", "worms", "quartiles", "sides", "missing", "sensitivity", "repeats"}
    assert set(drawing.NAMES) - names == gone | {"volumes"}  # drawn where there are no trends
    said = notices.absent(bare, public=False)
    assert all(said[name].endswith(".") for name in gone)


def test_a_cohort_whose_sexes_are_unknown_is_drawn_as_one(tmp_path):
    scans = make_scans(200, seed=3)
    volumes = make_volumes(scans, {"liver": STRUCTURES["liver"]}, seed=3)
    scans[["scan_id", "age_years"]].to_csv(tmp_path / "scans.csv", index=False)
    volumes[["scan_id", "structure", "volume_ml"]].to_csv(tmp_path / "volumes.csv", index=False)
    analyse.run(
        tmp_path / "volumes.csv", tmp_path / "scans.csv", tmp_path / "a", bootstrap_draws=100
    )
    found = inputs.read_analysis(tmp_path / "a")
    points = inputs.read_points(
        tmp_path / "volumes.csv", inputs.read_scans(tmp_path / "scans.csv"), keep_cut=False
    )
    assert found.sexes == ["all"]
    assert len(points) == len(volumes)
    with style.journal_style():
        subject = drawing.Subject(found, points, flow.count_flow(found.flow))
        drawn = {one.name: one for one in drawing.draw(subject)}
    assert {"trends", "forest", "quartiles", "heatmap"} <= set(drawn)
    assert set(drawn["trends"].data["sex"].dropna()) == {"all"}


@pytest.mark.parametrize("kind", ["three scans", "one sex", "constant volume", "no height", "none"])
def test_odd_cohorts_are_drawn_as_far_as_they_go(tmp_path, kind):
    n = {"three scans": 3, "no height": 65, "none": 17}.get(kind, 60)
    scans = make_scans(n, seed=4).drop(columns=["manifest_line"])
    scans["state"] = "failed" if kind == "none" else "done"
    volumes = make_volumes(scans, {"liver": STRUCTURES["liver"]}, seed=4)
    if kind == "one sex":
        scans["sex"] = "F"
    if kind == "constant volume":
        volumes["volume_ml"] = 1400.0
    if kind == "no height":
        scans = scans.drop(columns=["height_cm", "weight_kg"])
    write_csv = {"scans": scans, "volumes": volumes}
    for name, table in write_csv.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    tables = (tmp_path / "volumes.csv", tmp_path / "scans.csv")
    analyse.run(*tables, tmp_path / "analyse", bootstrap_draws=100)
    for public in (False, True) if kind == "three scans" else (False,):
        report.run(tmp_path / "analyse", *tables, tmp_path / "of" / str(public), public=public)
        assert (tmp_path / "of" / str(public) / "figures" / "flow.pdf").exists()


def eighty(subject):
    """The same numbers under 80 names, some long."""
    names = [f"vertebra_number_{n:02d}_with_name" for n in range(70)]
    names += [f"gland_{n}_{side}" for n in range(5) for side in ("left", "right")]

    def spread(table, column="structure", new=names):
        one = table[table[column] == table[column].iloc[0]]
        return pd.concat([one.assign(**{column: name}) for name in new], ignore_index=True)

    found = subject.analysis
    beside = {
        name: spread(table)
        for name, table in found.beside.items()
        if "structure" in table and len(table) and name != "literature"
    }
    centiles = beside["centiles"]
    beside["centiles"] = centiles[centiles["age_years"] % 10 == 0]
    few = beside["sensitivity"]["analysis"].isin(["complete", "huber"])
    beside["sensitivity"] = beside["sensitivity"][few]
    beside["asymmetry"] = spread(found.table("asymmetry"), "pair", [f"gland_{n}" for n in range(5)])
    return names, drawing.Subject(
        dataclasses.replace(
            found,
            slopes=spread(found.slopes),
            interactions=spread(found.interactions),
            correlations=spread(found.correlations),
            curves=spread(found.curves[found.curves["age_years"] % 10 == 0]),
            beside=beside,
        ),
        spread(subject.points[subject.points["scan_id"] < "scan-00060"]),
        subject.flow,
    )


def test_eighty_structures_fill_several_pages_that_fit_a_journal(subject):
    names, many = eighty(subject)
    shown: dict[str, list[str]] = {}
    with style.journal_style():
        for one in drawing.draw(many):
            width, height = one.figure.get_size_inches() * 25.4
            assert width == pytest.approx(183)
            assert height <= 247
            if "structure" in one.data:
                shown.setdefault(one.name, []).extend(dict.fromkeys(one.data["structure"]))
            if one.page == 1 and one.name in ("forest", "heatmap", "missing", "repeats"):
                check_fit(one)
    assert len(shown) > 7
    for name, structures in shown.items():
        assert sorted(set(structures)) == sorted(names), name


def test_a_picture_on_the_page_is_smaller_than_the_file_beside_it(figures):
    drawn = next(one for one in figures if one.name == "trends")
    buffer = io.BytesIO()
    with style.journal_style():
        drawn.figure.savefig(buffer, format="png", dpi=style.DPI)
    png = buffer.getvalue()
    small = pages.for_screen(png)
    assert pages.PageFigure("a", "a", "a", "a", "a", small).size[0] == pages.SCREEN_PX
    assert len(small) < 0.6 * len(png)
    assert small == pages.for_screen(png)


def test_boxes_of_a_public_report_have_no_whiskers_and_no_box_of_a_few(subject):
    table = subject.analysis.table("quartiles")
    table.loc[table.index[0], "n"] = 12  # too few for quartiles
    told = disclosure.public(
        dataclasses.replace(subject.analysis, beside=dict(subject.analysis.beside))
    )
    shown = told.table("quartiles")
    assert shown["whisker_low_ml"].isna().all()
    assert shown["whisker_high_ml"].isna().all()
    assert pd.isna(shown["q25_ml"].iloc[0])
    assert shown["q25_ml"].notna().sum() > 10
    assert set(told.beside) == set(BESIDE_COLUMNS) - {"calibration", "asymmetry", "worms"}


def test_a_table_without_a_rule_is_not_in_a_public_report(subject):
    beside = dict(subject.analysis.beside) | {"influence": pd.DataFrame({"scan_id": ["secret"]})}
    told = disclosure.public(dataclasses.replace(subject.analysis, beside=beside))
    assert "influence" not in told.beside
