"""Every table that a user gives is read by one reader: what cannot be read with certainty is
refused with the same error and the same words, whichever table it is."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from cohortvol.anatomy.structures import plausible_ml_with
from cohortvol.errors import TableError
from cohortvol.stages.analyse.answers.literature import references
from cohortvol.stages.analyse.cohort.inputs import read_scans, read_volumes
from cohortvol.stages.assemble.decisions import read_decisions
from cohortvol.stages.manifest import from_folder, read_manifest
from cohortvol.stages.manifest.bids_tables import in_rows
from cohortvol.stages.report.tables.inputs import read_columns
from cohortvol.store.text_table import read_text_table
from cohortvol.store.withdrawals import read_withdrawals
from cohortvol.tools.evaluate.groups import read_scans as read_evaluated
from cohortvol.tools.evaluate.labels import vocabulary
from cohortvol.tools.judge.labelled import label_names
from cohortvol.tools.simulate.compare import slopes_against_planted
from cohortvol.tools.train.cases import read_cases


def covariates(path):
    images = path.parent / "images"
    images.mkdir(exist_ok=True)
    (images / "s1.nii").touch()
    return from_folder(images, path)


PLANTED = "structure,sex,model,planted_pct_per_decade"
READERS = {
    "manifest": ("scan_id,image", read_manifest),
    "covariates": ("scan_id,age_years", covariates),
    "withdrawals": ("subject_id,date", read_withdrawals),
    "decisions": ("scan_id,decision,reviewer,date", read_decisions),
    "literature": ("structure,sex,modality,evidence,source", references),
    "plausible volumes": ("structure,min_ml,max_ml,source", plausible_ml_with),
    "volumes of analyse": ("scan_id,structure,volume_ml", read_volumes),
    "scans of analyse": ("scan_id,age_years", read_scans),
    "planted, of report": (PLANTED, lambda path: read_columns(path, ["structure"])),
    "planted, of simulate": (PLANTED, lambda path: slopes_against_planted(path, path)),
    "scans of evaluate": ("scan_id,subject_id", lambda path: read_evaluated(path, ["s1"])),
    "labels of evaluate": ("label,structure", lambda path: vocabulary(str(path))),
    "participants of BIDS": (
        "participant_id,age", lambda path: in_rows(path, "participant_id"),
    ),
    "cases of train": ("case,subject,source", lambda path: read_cases(path.parent)),
    "names of labels": (
        "index,name", lambda path: label_names(path.parent, SimpleNamespace(id="m", labels={})),
    ),
}  # fmt: skip
NAMED = {"cases of train": "cases.csv", "names of labels": "dseg.tsv"}


def zipped(text):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("sheet1.xml", text)
    return stream.getvalue()


def in_other(separator):
    return lambda text, own: text.replace(own, separator).encode()


BROKEN = {
    "semicolons": (in_other(";"), "is separated by semicolons (TAB_DELIMITER)"),
    "bars": (in_other("|"), "is separated by vertical bars (TAB_DELIMITER)"),
    "UTF-16": (lambda text, own: text.encode("utf-16"), "is UTF-16 and not UTF-8 text"),
    "UTF-16 without mark": (lambda text, own: text.encode("utf-16-le"), "holds a NUL character"),
    "Latin-1": (lambda text, own: (text + "\u00fc").encode("latin-1"), "is not UTF-8 text"),
    "workbook": (lambda text, own: zipped(text), "an Excel workbook or another ZIP archive"),
    "old workbook": (lambda text, own: b"\xd0\xcf\x11\xe0" + bytes(99), "an old Excel workbook"),
    "packed": (lambda text, own: gzip.compress(text.encode()), "is packed with gzip"),
    "a long row": (lambda text, own: f"{text}a{own * 9}b\n".encode(), "(TAB_RAGGED_ROW)"),
    "a short row": (lambda text, own: f"{text}a\n".encode(), "line 3: 1 fields"),
    "an open quote": (lambda text, own: f'{text}"a{own}b\n'.encode(), "(TAB_RAGGED_ROW)"),
    "a column twice": (
        lambda text, own: text.replace("\n", f"{own}x{own}x\n").encode(),
        "'x' (TAB_DUPLICATE_COLUMN)",
    ),
    "only blank lines": (lambda text, own: b"\n\n", "is empty"),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("table", READERS)
def test_a_table_that_may_be_misread_is_refused_in_the_same_words(tmp_path, table, broken):
    header, read = READERS[table]
    path = tmp_path / NAMED.get(table, "table.csv")
    own = "\t" if path.suffix == ".tsv" else ","
    row = own.join("1" for _ in header.split(","))
    change, words = BROKEN[broken]
    path.write_bytes(change(f"{header.replace(',', own)}\n{row}\n", own))
    with pytest.raises(TableError) as raised:
        read(path)
    with pytest.raises(TableError) as by_the_reader:
        read_text_table(path)
    assert str(raised.value) == str(by_the_reader.value)
    assert words in str(raised.value)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize("table", sorted(set(READERS) - set(NAMED)))
@pytest.mark.parametrize("name", ["none.csv", "table.xlsx", "table.parquet"])
def test_a_table_that_is_missing_or_of_another_kind_is_said_to_be(tmp_path, table, name):
    path = tmp_path / name
    if path.suffix != ".csv":
        path.write_text("no table")
    if table == "labels of evaluate" and path.suffix != ".csv":
        return  # such a name is that of a vocabulary
    with pytest.raises(TableError, match=rf"^{path}: ") as raised:
        READERS[table][1](path)
    said = str(raised.value)
    assert any(
        word in said for word in ("no such", "must be a .csv", "Parquet", "as a table", "damaged")
    )


def test_the_reader_has_no_rival():
    """What reads text tables elsewhere are tables of ours."""
    source = Path(__file__).parents[1] / "src" / "cohortvol"
    ours = {
        "anatomy/structures.py", "models/catalogue.py", "models/published.py", "reasons.py",
        "stages/analyse/answers/literature.py",
        "stages/assemble/__init__.py", "stages/report/page/checklists.py", "store/keys.py",
        "store/text_table.py", "tools/derivatives/run.py", "tools/evaluate/surface.py",
        "tools/simulate/cohort.py", "tools/simulate/image.py", "tools/status/reading.py",
        "tools/verify/folder.py", "tools/verify/unpacked.py",
    }  # fmt: skip
    ways = ("pd.read_csv(", "csv.reader(", "csv.DictReader(")
    readers = {
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if any(way in path.read_text(encoding="utf-8") for way in ways)
    }
    assert readers <= ours, readers - ours


def test_a_text_that_looks_like_a_number_stays_as_it_stands_in_a_csv(tmp_path):
    text = {
        "scan_id": "007",
        "site": "01",
        "scanner": "1e3",
        "segmentation_key": "743695974703e384",
    }
    path = tmp_path / "scans.csv"
    path.write_text(f"{','.join(text)},age_years\n{','.join(text.values())},40\n")
    [row] = read_columns(path, ["age_years", *text]).to_dict("records")
    assert row == {"age_years": 40, **text}
