"""A public report: no scan by itself, no small count, no oldest age, in any byte of it."""

from __future__ import annotations

import json
import re
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cohortvol import cli
from cohortvol.errors import ConfigError, OutputError
from cohortvol.stages import analyse, report
from cohortvol.stages.report.tables import disclosure, rounding, rules
from cohortvol.stages.report.tables.inputs import ANALYSE_COLUMNS, read_analysis
from cohortvol.store.schemas import SCANS, VOLUMES
from cohortvol.store.tables import write_table
from report_fixture import STRUCTURES, make_scans, make_volumes

pytestmark = pytest.mark.slow

CHOSEN = {name: STRUCTURES[name] for name in ("liver", "adrenal_gland_left", "stomach")}
CANARIES = (b"CANARY", b"2018-04-0")


def spoilt_scans(n: int) -> pd.DataFrame:
    """Scans with personal ids and dates, very old people, and groups of few in every way."""
    scans = make_scans(n, seed=5)
    scans["scan_id"] = [f"CANARYID{number:05d}" for number in range(n)]
    scans["subject_id"] = [f"CANARYSUBJECT{number}" for number in range(n)]
    scans["acquisition_date"] = "2018-04-03"
    scans["image_sha256"] = "CANARYHASH"
    scans["label_map"] = "segment/CANARYMODEL/CANARYSHARD/x_dseg.nii.gz"
    scans["shard"] = "CANARYSHARD"
    scans["site"] = np.where(np.arange(n) % 3 == 0, "north", "south")
    done = scans.index[(scans["state"] == "done") & scans["sex"].notna()]
    scans.loc[done[:2], "site"] = "tiny"
    scans.loc[done[2:5], "age_years"] = None
    scans.loc[done[5:9], "age_years"] = [92.7, 93.1, 97.4, 101.3]
    scans.loc[done[9], ["sex", "reason"]] = [None, None]
    scans.loc[done[10], "qc"] = "exclude"
    scans.loc[done[11:13], ["height_cm"]] = None
    return scans


@pytest.fixture(scope="module", params=[64, 900])
def made(request, tmp_path_factory):
    """Folder of a cohort and of its public report."""
    folder = tmp_path_factory.mktemp("cohort") / "CANARYPATH"
    scans = spoilt_scans(request.param)
    write_table(folder / "scans.parquet", scans, SCANS)
    volumes = make_volumes(scans, CHOSEN, seed=5)
    write_table(folder / "volumes.parquet", volumes, VOLUMES)
    analyse.run(folder / "volumes.parquet", folder / "scans.parquet", folder / "analyse")
    write_report(folder, folder / "public", public=True)
    return folder


def write_report(folder: Path, out: Path, **settings: object) -> Path:
    return report.run(
        folder / "analyse", folder / "volumes.parquet", folder / "scans.parquet", out, **settings
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every byte of every file, streams of PDF unpacked."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            parts = [str(path.relative_to(folder)).encode(), data]
            if path.suffix == ".pdf":
                parts += [zlib.decompressobj().decompress(stream) for stream in
                          re.findall(rb"stream\r?\n(x.*?)endstream", data, re.DOTALL)]  # fmt: skip
            found[str(path.relative_to(folder))] = b"\n".join(parts)
    return found


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    return {
        path.stem: pd.read_csv(path) for path in folder.rglob("*.csv") if path.stat().st_size > 1
    }


def test_nothing_of_a_single_scan_stands_in_any_byte(made):
    hits = {name: canary for name, data in contents(made / "public").items()
            for canary in CANARIES if canary in data}  # fmt: skip
    assert hits == {}


def test_the_search_does_find_what_a_report_for_the_house_may_hold(made, tmp_path):
    write_report(made, tmp_path, show_scan_ids=True)
    assert any(b"CANARYID" in data for data in contents(tmp_path).values())


def test_every_count_of_every_table_is_zero_a_multiple_of_five_or_not_given(made):
    seen = 0
    for name, table in tables(made / "public").items():
        counted = [column for column in table if column == "n" or column.startswith("n_")]
        for column in counted:
            counts = table[column].dropna()
            seen += len(counts)
            assert (counts % 5 == 0).all(), (name, column)
    assert seen > 20


def counts_of(value: str) -> int | None:
    """The count in a cell of Table 1; None where it is not given."""
    return None if value == "<5" else int(value.split(" ")[0].replace(",", ""))


def could_be(printed: int | None) -> list[int]:
    """True counts that are printed like this."""
    return [n for n in range((printed or 0) + 5) if rounding.rounded_one(n) == printed]


def left_for_one(total: int | None, others: list[int | None]) -> set[int]:
    """What a hidden cell may be, from the total of its line and the other cells."""
    rests = map(sum, product(*map(could_be, others)))
    return {n - rest for n, rest in product(could_be(total), set(rests))} & {1, 2, 3, 4}


def test_no_hidden_cell_of_table_1_can_be_got_by_subtraction(made):
    table = tables(made / "public")["table1"]
    table = table[table["level"] != "median (IQR)"]
    cells = {tuple(key): counts_of(value) for *key, value in table.to_numpy()}
    assert all(n is None or n % 5 == 0 for n in cells.values())
    hidden = [key for key, n in cells.items() if n is None and key[2] != "all"]
    for variable, level, sex in hidden:
        other = "M" if sex == "F" else "F"
        over_sexes = [cells[variable, level, name] for name in ("all", other)]
        assert len(left_for_one(over_sexes[0], over_sexes[1:])) > 1, (variable, level)
        over_levels = [n for key, n in cells.items()
                       if key[0] == variable and key[2] == sex and key[1] != level]  # fmt: skip
        if over_levels:
            assert len(left_for_one(cells["scans", "n", sex], over_levels)) > 1, (variable, level)
    assert hidden


def test_true_small_counts_stand_nowhere_on_the_page(made):
    html = (made / "public" / "index.html").read_text(encoding="utf-8")
    text = re.sub(r"data:image/png;base64,[^\"]+", "", html)
    body = text[text.index("<main>") : text.index('id="methods"')]
    assert not re.findall(r">[1-4]<", body)
    assert not re.findall(r">[1-4] \(", body)
    assert not re.findall(r"\b[1-4] (?:measured|quarantined|failed|skipped|volumes|scans)\b", body)
    assert "&lt;5" in body


def test_ages_end_at_90_everywhere(made):
    private = pd.read_csv(made / "analyse" / "curves.csv")
    found = tables(made / "public")
    assert private["age_years"].max() > 90 or len(private) < 900
    assert found["trends"]["age_years"].max() <= 90
    fit = found["trends"][found["trends"]["kind"] == "fit"]["age_years"]
    assert (fit == fit.round()).all()
    for data in contents(made / "public").values():
        for age in (b"92.7", b"93.1", b"97.4", b"101.3"):
            assert not re.search(rb"(?<![\d.])" + re.escape(age) + rb"(?!\d)", data)


def test_no_scan_is_drawn_by_itself_however_few_there_are(made):
    drawn = tables(made / "public")["trends"]
    assert set(drawn["kind"]) == {"fit", "published"}
    fit = drawn[drawn["kind"] == "fit"]
    assert fit["n"].isna().all()
    assert set(fit["age_years"] % 10) == {0}
    assert not list((made / "public" / "figures").glob("sides*"))


def test_curves_are_drawn_from_the_numbers_that_are_written(made, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    import differencing

    assert differencing.curve_error(made / "public") < 1e-6


def test_quantiles_are_given_only_where_five_scans_lie_beyond(made):
    summary = tables(made / "public")["summary"]
    truth = pd.read_csv(made / "analyse" / "summary.csv")
    tails = rules.LEAST_N_OF_TAILS
    for name in ("median_ml", "q25_ml", "q75_ml", "p5_ml", "p95_ml"):
        least = tails if name[0] == "p" else rounding.LEAST_N
        assert (summary[name].notna() == (truth["n"] >= least)).all(), name


def test_a_public_report_names_no_scans_also_when_asked_to(made, tmp_path, capsys):
    tmp_path = tmp_path / "report"
    with pytest.raises(ConfigError, match="names no scans"):
        write_report(made, tmp_path, public=True, show_scan_ids=True)
    words = ["report", "--analyse", str(made / "analyse"), "--out", str(tmp_path),
             "--volumes", str(made / "volumes.parquet"), "--scans", str(made / "scans.parquet"),
             "--public"]  # fmt: skip
    assert cli.run([*words, "--show-scan-ids"]) == 64
    assert cli.run(words) == 0
    assert contents(tmp_path) == contents(made / "public")


def test_nothing_of_an_earlier_report_for_the_house_stays_beside_a_public_one(made, tmp_path):
    tmp_path = tmp_path / "report"
    write_report(made, tmp_path)
    write_report(made, tmp_path, public=True)
    assert contents(tmp_path) == contents(made / "public")
    (tmp_path / "previews").mkdir()
    (tmp_path / "previews" / "CANARYID00001.png").touch()
    with pytest.raises(OutputError, match="no part of a public report: previews"):
        write_report(made, tmp_path, public=True)


def test_the_settings_of_the_analysis_are_still_told(made):
    record = json.loads((made / "analyse" / "analyse.json").read_text())
    html = (made / "public" / "index.html").read_text(encoding="utf-8")
    assert f"age_center: {record['settings']['age_center']}" in html


def test_a_column_or_table_that_no_rule_knows_is_left_out(made):
    analysis = read_analysis(made / "analyse")
    secret = 1234.56789
    for name in ("slopes", "correlations", "curves", "summary", "dropped"):
        getattr(analysis, name)["new_ml"] = secret
    analysis.table1["new"] = analysis.flow["new"] = secret
    for table in analysis.beside.values():
        table["new_ml"] = secret
    told = disclosure.public(analysis)
    shown = {name: getattr(told, name) for name in ANALYSE_COLUMNS} | dict(told.beside)
    assert {name for name, table in shown.items() if (table == secret).any(axis=None)} == set()
    assert {name for name, table in shown.items() if {"new", "new_ml"} & set(table)} == set()


def exact_numbers(folder: Path) -> set[str]:
    """Beginnings of every number of the analysis that has more digits than are passed on."""
    found = set()
    for path in (folder / "analyse").glob("*.parquet"):
        table = pd.read_parquet(path).select_dtypes("number")
        values = np.unique(table.to_numpy(float, na_value=np.nan))
        texts = {f"{abs(value):.6g}" for value in values if np.isfinite(value)}
        found |= {text for text in texts if len(text.replace(".", "").lstrip("0")) == 6}
    return {text for text in found if "e" not in text}


def test_no_number_of_the_analysis_stands_anywhere_with_more_digits_than_n_supports(made):
    exact = exact_numbers(made)
    assert len(exact) > 300
    published = {f"{abs(float(value)):.6g}" for value in pd.read_csv(
        made / "public" / "tables" / "literature.csv").filter(like="reference_").stack()
        if isinstance(value, float)}  # fmt: skip
    for name, data in contents(made / "public").items():
        if name.endswith((".png", ".svg", ".pdf")):
            continue  # drawn from the same tables; places on paper have as many digits
        text = re.sub(r"data:image/png;base64,[^\"]+", "", data.decode("utf-8", "replace"))
        text = text.replace(",", " ")
        numbers = {number[:7] for number in re.findall(r"(?<![\w.])\d+\.\d+", text)}
        assert (numbers & exact) - published == set(), name


def test_a_second_page_without_one_person_is_refused_before_anything_is_written(made):
    kept = (made / "private" / "published.json").read_bytes()
    scans = pd.read_parquet(made / "scans.parquet")
    gone = scans.index[scans["state"] == "done"][20]
    write_table(made / "fewer.parquet", scans.drop(index=gone), SCANS)
    tables = made / "volumes.parquet", made / "fewer.parquet"
    analyse.run(*tables, made / "analyse_fewer")
    with pytest.raises(OutputError, match="fewer than 10 people differ from page 1 of 1"):
        report.run(made / "analyse_fewer", *tables, made / "second", public=True)
    assert not (made / "second").exists()
    assert (made / "private" / "published.json").read_bytes() == kept
    assert b"CANARY" not in kept
