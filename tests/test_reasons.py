"""The table of reason codes is complete, and the code uses no other."""

from __future__ import annotations

import re
from pathlib import Path

import cohortvol
from cohortvol import config
from cohortvol.reasons import CLASSES, load

AREAS = (
    "SRC HDR IMG GEO VOX DCM ID TAB CLN PHI MOD CFG ENV IO RUN SEG DSEG QC ANA PROV SEC EVAL BUG W"
).split()
PACKAGE = Path(cohortvol.__path__[0])
CODE = re.compile(rf"\b(?:{'|'.join(AREAS)})_[A-Z0-9]+(?:_[A-Z0-9]+)*\b")


def codes_in_the_source() -> set[str]:
    texts = (path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    literals = (
        match for text in texts for match in re.findall(r"\"([^\"\n]*)\"|\(([A-Z_0-9]+)\)", text)
    )
    return {code for pair in literals for text in pair for code in CODE.findall(text)}


def test_every_code_says_what_happened_and_what_to_do():
    for reason in load().values():
        assert CODE.fullmatch(reason.code), reason
        assert reason.class_ in CLASSES, reason
        assert reason.sentence.endswith("."), reason
        assert reason.what_to_do.endswith("."), reason
        assert re.fullmatch(r"\d+\.\d+\.\d+", reason.since), reason


def test_warnings_never_take_a_scan_out():
    assert {r.class_ for r in load().values() if r.code.startswith("W_")} == {"note"}


def test_no_code_stands_twice():
    lines = (PACKAGE / "reasons.tsv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(load()) == len(lines)


def test_the_table_marks_as_produced_exactly_the_codes_that_the_source_gives():
    produced = {reason.code for reason in load().values() if reason.produced}
    assert codes_in_the_source() == produced


def test_what_to_do_names_settings_and_commands_that_exist():
    known = config.defaults()
    sections = {name for name, value in known.items() if isinstance(value, dict)}
    commands = {path.stem.replace("_", "-") for path in (PACKAGE / "cli").iterdir()}
    for reason in load().values():
        for section, name in re.findall(
            r"\b([a-z]+)\.(?!parquet|csv)([a-z_]+)\b", reason.what_to_do
        ):
            assert section not in sections or name in known[section], reason
        for command in re.findall(r"`cohortvol ([a-z-]+)", reason.what_to_do):
            assert command in commands, reason
