"""Every row of the manifest is kept or named, and nothing in it is guessed."""

from __future__ import annotations

import logging

import pandas as pd
import pytest

from cohortvol.errors import USAGE, ManifestError, TableError
from cohortvol.stages import manifest
from cohortvol.stages.manifest import from_folder, read_manifest, write_from_folder
from cohortvol.store.schemas import MANIFEST
from cohortvol.store.tables import read_table


def write(tmp_path, text, name="scans.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def one_row(tmp_path, **values):
    """The one row of a manifest with these values, or the error."""
    values = {"scan_id": "s1", "image": "s1.nii.gz"} | values
    path = write(tmp_path, ",".join(values) + "\n" + ",".join(values.values()) + "\n")
    return read_manifest(path).iloc[0]


# --- reading ---------------------------------------------------------------------------------


def test_ids_are_text_whatever_they_look_like(tmp_path):
    ids = ["007", "NA", "None", "1e5", "nan", "True"]
    path = write(tmp_path, "scan_id,image\n" + "".join(f"{i},x{i}.nii\n" for i in ids))
    scans = read_manifest(path)
    assert scans["scan_id"].tolist() == ids
    assert scans["subject_id"].tolist() == ids


def test_csv_tsv_and_parquet_give_the_same_scans(tmp_path):
    rows = [("007", "a.nii", "48", "F"), ("s2", "b.nii", "", "M")]
    names = ["scan_id", "image", "age_years", "sex"]
    tables = []
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        lines = [separator.join(cells) for cells in (names, *rows)]
        tables.append(read_manifest(write(tmp_path, "\n".join(lines) + "\n", name)))
    frame = pd.DataFrame(rows, columns=names)
    frame["age_years"] = [48.0, None]
    frame.to_parquet(tmp_path / "a.parquet")
    tables.append(read_manifest(tmp_path / "a.parquet"))
    for table in tables[1:]:
        pd.testing.assert_frame_equal(tables[0], table)
    assert tables[0]["age_years"].tolist()[0] == 48


def test_lines_count_as_an_editor_shows_them(tmp_path):
    text = '\ufeffscan_id,image,site\r\n\r\ns1,a.nii,"two\r\nlines"\r\ns2,b.nii,x\r\n'
    scans = read_manifest(write(tmp_path, text))
    assert scans["manifest_line"].tolist() == [3, 5]


def test_images_are_found_from_the_folder_of_the_manifest(tmp_path):
    text = "scan_id,image\ns1,images/a.nii\ns2,../b.nii\ns3,/data/c.nii\n"
    scans = read_manifest(write(tmp_path, text))
    assert scans["image"].tolist() == [
        str(tmp_path / "images" / "a.nii"),
        str(tmp_path.parent / "b.nii"),
        "/data/c.nii",
    ]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("scan_id;image\ns1;a.nii\n", "a.csv", "TAB_DELIMITER"),
        ("scan_id,image\ns1,a.nii\n", "a.tsv", "TAB_DELIMITER"),
        ("scan_id,image\ns1,a.nii,x\ns2\n", "a.csv", "line 2: 3 fields\n  line 3: 1 fields"),
        ("scan_id,image,sex,sex\ns1,a.nii,F,F\n", "a.csv", "'sex' (TAB_DUPLICATE_COLUMN)"),
        ('scan_id,image\ns1,"a.nii\n', "a.csv", "TAB_RAGGED_ROW"),
        ("scan_id,image\ns1,a\0.nii\n", "a.csv", "NUL character (TAB_ENCODING)"),
        ("scan_id,image\n", "a.csv", "holds no scans"),
        ("", "a.csv", "is empty"),
        ("scan_id,image\n", "a.xlsx", "must be a .csv, .tsv or .parquet file"),
        ("no parquet", "a.parquet", "not a readable Parquet table"),
    ],
)
def test_a_table_that_may_be_misread_is_refused(tmp_path, text, name, message):
    with pytest.raises((ManifestError, TableError)) as raised:
        read_manifest(write(tmp_path, text, name))
    assert message in str(raised.value)


def test_a_table_that_is_not_utf8_is_refused(tmp_path):
    path = write(tmp_path, "scan_id,image,site\ns1,a.nii,Köln\n", encoding="latin-1")
    with pytest.raises(TableError, match="TAB_ENCODING"):
        read_manifest(path)


def test_a_missing_manifest_says_how_to_make_one(tmp_path):
    with pytest.raises(TableError, match="manifest-from-folder"):
        read_manifest(tmp_path / "scans.csv")


# --- columns ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        ("age_yaers", "age_years"),
        ("age", "age_years"),
        ("Sex", "sex"),
        ("height", "height_cm"),
        ("weight-kg", "weight_kg"),
    ],
)
def test_a_column_that_is_nearly_a_known_one_is_an_error(tmp_path, column, meant):
    path = write(tmp_path, f"scan_id,image,{column}\ns1,a.nii,1\n")
    with pytest.raises(ManifestError, match=f"column '{column}'; did you mean '{meant}'"):
        read_manifest(path)


def test_other_columns_are_left_out_with_a_notice(tmp_path, caplog):
    path = write(tmp_path, "scan_id,image,age_years,age,smoker\ns1,a.nii,48,old,no\n")
    with caplog.at_level(logging.WARNING):
        scans = read_manifest(path)
    assert list(scans.columns) == list(MANIFEST)
    assert "columns not used: age, smoker" in caplog.text


def test_a_missing_required_column_is_named(tmp_path):
    with pytest.raises(ManifestError, match="no column 'image'; it is required"):
        read_manifest(write(tmp_path, "scan_id,age_years\ns1,48\n"))


# --- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "years"),
    [("48", 48), ("48.5", 48.5), ("048Y", 48), ("576M", 48), ("002W", 14 / 365.25), ("0", 0)],
)
def test_ages_are_understood_in_years_and_as_in_dicom(tmp_path, text, years):
    assert one_row(tmp_path, age_years=text)["age_years"] == pytest.approx(years)


@pytest.mark.parametrize("text", ["", "NA", "n/a", "NaN"])
def test_a_missing_age_or_sex_is_not_a_bad_row(tmp_path, text):
    row = one_row(tmp_path, age_years=text, sex=text, height_cm=text)
    assert pd.isna(row[["state", "age_years", "sex", "height_cm"]]).all()


BAD_VALUES = [
    ("scan_id", "a b", "ID_INVALID"),
    ("scan_id", "-a", "ID_INVALID"),
    ("scan_id", "../a", "ID_INVALID"),
    ("scan_id", "x" * 65, "ID_INVALID"),
    ("scan_id", "Müller", "ID_INVALID"),
    ("scan_id", "s1 ", "ID_INVALID"),
    ("scan_id", "$(reboot)", "ID_INVALID"),
    ("scan_id", "/etc/s1", "ID_INVALID"),
    ("scan_id", "", "TAB_VALUE_MISSING"),
    ("image", "", "TAB_VALUE_MISSING"),
    ("age_years", "4x", "CLN_AGE_UNPARSED"),
    ("age_years", "Y048", "CLN_AGE_UNPARSED"),
    ("age_years", '"48,5"', "CLN_AGE_UNPARSED"),
    ("age_years", "999", "CLN_AGE_IMPLAUSIBLE"),
    ("age_years", "-1", "CLN_AGE_IMPLAUSIBLE"),
    ("age_years", "1e99", "CLN_AGE_IMPLAUSIBLE"),
    ("age_years", "048y", "CLN_AGE_UNPARSED"),
    ("age_years", "48 Y", "CLN_AGE_UNPARSED"),
    ("sex", "H", "CLN_SEX_CODING"),
    ("sex", "O", "CLN_SEX_CODING"),
    ("sex", "0", "CLN_SEX_CODING"),
    ("sex", "1", "CLN_SEX_CODING"),
    ("height_cm", "1.75", "CLN_IMPLAUSIBLE"),
    ("height_cm", "170cm", "CLN_UNPARSED"),
    ("weight_kg", "inf", "CLN_UNPARSED"),
    ("field_strength_t", "15000", "CLN_IMPLAUSIBLE"),
    ("acquisition_date", "03/04/18", "CLN_DATE_AMBIGUOUS"),
    ("acquisition_date", "43207", "CLN_DATE_AMBIGUOUS"),
    ("acquisition_date", "180403", "CLN_DATE_AMBIGUOUS"),
    ("acquisition_date", "3.4.2018", "CLN_DATE_AMBIGUOUS"),
    ("acquisition_date", "2018-13-01", "CLN_DATE_AMBIGUOUS"),
    ("acquisition_date", "2999-01-01", "CLN_DATE_FUTURE"),
]


@pytest.mark.parametrize(("column", "text", "code"), BAD_VALUES)
def test_a_bad_value_is_named_with_its_code(tmp_path, column, text, code):
    with pytest.raises(ManifestError) as raised:
        one_row(tmp_path, **{column: text})
    assert code in str(raised.value)
    assert column in str(raised.value)
    assert "line 2" in str(raised.value)


def test_sex_is_read_only_through_the_codes_given(tmp_path):
    path = write(tmp_path, "scan_id,image,sex\na,a.nii,1\nb,b.nii,2\nc,c.nii,9\n")
    scans = read_manifest(path, sex_codes={"1": "M", "2": "F", "9": None})
    assert scans["sex"].fillna("unknown").tolist() == ["M", "F", "unknown"]


@pytest.mark.parametrize(
    ("text", "sex"),
    [*((word, "F") for word in ("F", "f", "Female", "FEMALE", "w", "W", "woman", " female ")),
     *((word, "M") for word in ("M", "m", "male", "Male", "man"))],
)  # fmt: skip
def test_words_of_sex_are_understood_without_codes(tmp_path, text, sex):
    assert one_row(tmp_path, sex=text)["sex"] == sex


def test_codes_that_are_given_win_over_words(tmp_path):
    path = write(tmp_path, "scan_id,image,sex\na,a.nii,H\nb,b.nii,M\nc,c.nii,male\n")
    scans = read_manifest(path, sex_codes={"H": "M", "M": "F"})  # hombre, mujer
    assert scans["sex"].tolist() == ["M", "F", "M"]


# --- bad rows --------------------------------------------------------------------------------

MIXED = """scan_id,image,age_years,sex
good,a.nii,48,F
a b,b.nii,48,F
twice,c.nii,48,F
twice,c.nii,48,F
Case,d.nii,48,F
case,e.nii,48,F
s7,,4x,2
"""


def test_all_bad_rows_are_reported_at_once_with_line_column_value_and_what_is_allowed(tmp_path):
    with pytest.raises(ManifestError) as raised:
        read_manifest(write(tmp_path, MIXED))
    message = str(raised.value)
    assert "6 of 7 rows cannot be used" in message
    listed = [line.split() for line in message.splitlines() if line.startswith("  line")]
    assert [(cells[1], cells[2]) for cells in listed] == [
        ("3", "scan_id"),
        ("4", "scan_id"),
        ("5", "scan_id"),
        ("6", "scan_id"),
        ("7", "scan_id"),
        ("8", "image"),
        ("8", "age_years"),
        ("8", "sex"),
    ]
    assert "'4x'" in message
    assert "years such as 48" in message
    assert "lines 4, 5" in message
    assert "lines 6 (Case), 7 (case)" in message
    assert "bad_rows: quarantine" in message
    assert raised.value.exit_code == USAGE


def test_bad_rows_can_be_kept_with_their_reason(tmp_path):
    scans = read_manifest(write(tmp_path, MIXED), bad_rows="quarantine")
    assert scans["scan_id"].tolist() == ["good", "a b", "twice", "twice", "Case", "case", "s7"]
    assert scans["reason"].fillna("").tolist() == [
        "",
        "ID_INVALID",
        "ID_DUPLICATE",
        "ID_DUPLICATE",
        "ID_COLLISION",
        "ID_COLLISION",
        "TAB_VALUE_MISSING",
    ]
    assert scans["state"].fillna("").tolist() == [""] + ["quarantined"] * 6
    assert "4x" in scans["detail"].iloc[6]
    assert pd.isna(scans["age_years"].iloc[6])


def test_bad_rows_get_no_shard(tmp_path):
    results = tmp_path / "results"
    manifest.run(write(tmp_path, MIXED), results, bad_rows="quarantine")
    scans = read_table(results / "manifest" / "scans.parquet", MANIFEST)
    assert scans["shard"].fillna("none").tolist() == ["0000"] + ["none"] * 6
    assert (results / "manifest" / "index.tsv").read_text() == "shard\tn_scans\n0000\t1\n"


def test_a_refused_manifest_writes_nothing(tmp_path):
    with pytest.raises(ManifestError):
        manifest.run(write(tmp_path, MIXED), tmp_path / "results")
    assert not (tmp_path / "results").exists()


# --- from a folder ---------------------------------------------------------------------------


def folder_of(tmp_path, *names):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


def test_a_folder_of_images_becomes_a_manifest(tmp_path):
    names = ("sub-01 (T2).nii.gz", "sub-02.nii", ".hidden.nii", "notes.txt", "0044__x_.nii.gz")
    folder = folder_of(tmp_path, *names)
    out = tmp_path / "scans.csv"
    assert write_from_folder(folder, out) == 3
    scans = read_manifest(out)
    assert scans["scan_id"].tolist() == ["0044__x", "sub-01_T2", "sub-02"]
    assert scans["image"].tolist()[2] == str(folder / "sub-02.nii")


def test_what_dcm2niix_made_beside_an_image_is_left_out_and_named(tmp_path, caplog):
    beside = ["x_Eq_1.nii.gz", "x_ph.nii.gz", "x_real.nii.gz", "x_ROI1.nii.gz", "x_real_Eq_1.nii"]
    folder = folder_of(tmp_path, "x.nii.gz", "y_real.nii.gz", "Equal.nii.gz", *beside)
    with caplog.at_level(logging.WARNING):
        scans = from_folder(folder)
    assert scans["scan_id"].tolist() == ["Equal", "x", "y_real"]
    assert "5 images left out" in caplog.text
    assert all(name in caplog.text for name in beside)


def test_covariates_are_joined_by_scan_id(tmp_path, caplog):
    folder = folder_of(tmp_path, "s1.nii", "s2.nii")
    table = write(tmp_path, "scan_id,age_years,sex\ns2,51,F\ns9,60,M\n", "people.csv")
    with caplog.at_level(logging.WARNING):
        scans = from_folder(folder, table)
    assert scans[["scan_id", "age_years", "sex"]].values.tolist() == [
        ["s1", "", ""],
        ["s2", "51", "F"],
    ]
    assert "no row for 1 images: s1" in caplog.text
    assert "no image for 1 rows: s9" in caplog.text


@pytest.mark.parametrize("names", [("a b.nii", "a_b.nii.gz"), ("A.nii", "a.nii"), ("().nii",)])
def test_file_names_that_do_not_give_one_id_each_are_listed(tmp_path, names):
    with pytest.raises(ManifestError) as raised:
        from_folder(folder_of(tmp_path, *names))
    assert all(name in str(raised.value) for name in names)


@pytest.mark.parametrize(
    "rows", ["s1,50\ns1,51\n", "other,50\n"], ids=["repeated row", "no row in common"]
)
def test_covariates_that_do_not_join_one_to_one_are_refused(tmp_path, rows):
    table = write(tmp_path, "scan_id,age_years\n" + rows, "people.csv")
    with pytest.raises(ManifestError, match="TAB_JOIN"):
        from_folder(folder_of(tmp_path, "s1.nii"), table)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"no file that ends in \.nii"):
        from_folder(folder_of(tmp_path, "readme.txt"))


def test_a_complaint_about_very_long_ids_stays_short(tmp_path):
    """Many rows that bear one long id: neither it nor their lines stand in every line."""
    path = tmp_path / "scans.csv"
    rows = [f"{'x' * 5000},a.nii.gz", *(f"bad id {n},a.nii.gz" for n in range(500))]
    rows += ["same,a.nii.gz"] * 500
    path.write_text("\n".join(["scan_id,image", *rows]) + "\n")
    with pytest.raises(ManifestError) as raised:
        read_manifest(path)
    lines = str(raised.value).splitlines()
    assert len(lines) >= 1003
    assert max(map(len, lines)) < 600, max(map(len, lines))
    assert "xxx ... xxx" in str(raised.value)
    assert "lines 503, 504" in str(raised.value)
    assert "and 490 more" in str(raised.value)
