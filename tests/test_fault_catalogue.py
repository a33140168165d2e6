"""Every fault of the catalogue has a test that shows it, and every reason code one that gives it.

``fault_catalogue.tsv`` has a row per fault and code: the fault's number, the class that is required
(Q quarantine, F flag, R retry, S skip, X stop; - where none is named), the code, the test, and
where the behaviour is another or not there, why.
"""

from __future__ import annotations

import ast
import csv
import re
from functools import cache
from pathlib import Path

import pytest

from cohortvol.reasons import load
from test_reasons import CODE

TESTS = Path(__file__).parent
WITHOUT_TEST = ("elsewhere: ", "not built: ")
LETTERS = {
    "Q": {"quarantine"},
    "F": {"flag", "note"},
    "R": {"retry"},
    "S": {"skip"},
    "X": {"stop"},
}
NUMBERS = {
    "source bytes": range(1, 18),
    "header, image kind, voxels": range(20, 38),
    "geometry": range(40, 51),
    "DICOM": range(60, 81),
    "identity and clinical table": range(90, 108),
    "persons and outputs": range(110, 120),
    "running on a cluster": range(130, 144),
    "storage": range(150, 163),
    "models and configuration": range(170, 181),
    "plausibility": range(190, 194),
}
ROWS = list(
    csv.DictReader(
        (TESTS / "fault_catalogue.tsv").read_text(encoding="utf-8").splitlines(),
        delimiter="\t",
        quoting=csv.QUOTE_NONE,
    )
)
SHOWN = [row for row in ROWS if row["test"]]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in tree_of(path).body if isinstance(node, ast.FunctionDef)}


def tables(path: Path) -> dict[str, ast.AST]:
    """Constants of a module in capitals, such as FAULTS, with those it imports from a fixture."""
    found: dict[str, ast.AST] = {}
    for node in tree_of(path).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id: node for name in targets if isinstance(name, ast.Name)}
        elif isinstance(node, ast.ImportFrom) and (TESTS / f"{node.module}.py").exists():
            theirs = tables(TESTS / f"{node.module}.py")
            found |= {name.name: theirs[name.name] for name in node.names if name.name in theirs}
    return {name: node for name, node in found.items() if name.isupper()}


def codes_in(node: ast.AST) -> set[str]:
    """Reason codes in the texts of a piece of source; not those in what it says of itself."""
    texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
    return {code for text in texts if isinstance(text, str) for code in CODE.findall(text)}


def codes_of_test(path: Path, function: ast.FunctionDef) -> set[str]:
    """Codes that a test names, itself or through the tables it goes through."""
    known = tables(path)
    used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)} & set(known)
    return set().union(codes_in(function), *(codes_in(known[name]) for name in used))


@cache
def codes_of_all_tests() -> frozenset[str]:
    """Codes that a test asserts, waits for, or is run with."""
    found: set[str] = set()
    for path in TESTS.rglob("test_*.py"):
        known = tables(path)
        for name, function in functions(path).items():
            if not name.startswith("test_"):
                continue
            checks = [*function.decorator_list]
            for node in ast.walk(function):
                waits = isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises"
                if isinstance(node, ast.Assert) or waits:
                    checks.append(node)
            used = {
                node.id
                for check in checks
                for node in ast.walk(check)
                if isinstance(node, ast.Name)
            }
            checks += [known[table] for table in used & set(known)]
            found |= set().union(*map(codes_in, checks)) if checks else set()
    return frozenset(found)


def test_every_fault_of_the_catalogue_is_there():
    numbers = {f"F{number:03d}" for part in NUMBERS.values() for number in part}
    assert {row["fault"] for row in ROWS} == numbers
    assert [row["fault"] for row in ROWS] == sorted(row["fault"] for row in ROWS)


def test_a_fault_without_a_test_says_why():
    silent = [row for row in ROWS if not row["test"] and not row["note"].startswith(WITHOUT_TEST)]
    assert silent == []


@pytest.mark.parametrize("row", SHOWN, ids=lambda row: f"{row['fault']} {row['test']}")
def test_the_test_of_a_fault_exists_and_names_its_code(row):
    file, _, name = row["test"].partition("::")
    assert name.startswith("test_")
    found = functions(TESTS / file)
    assert name in found, f"{file} has no test {name}"
    if row["code"] != "-":
        assert row["code"] in codes_of_test(TESTS / file, found[name])


def test_codes_are_of_the_class_that_is_required_or_the_row_says_why():
    known = load()
    assert [row for row in ROWS if row["code"] != "-" and row["code"] not in known] == []
    other = [
        row
        for row in ROWS
        if row["code"] != "-"
        and row["required"] != "-"
        and known[row["code"]].class_ not in LETTERS[row["required"]]
    ]
    assert [row for row in other if not row["note"]] == []


def test_every_code_that_is_given_is_given_in_a_test():
    given = {reason.code for reason in load().values() if reason.produced}
    assert given - codes_of_all_tests() == set()


def test_a_code_that_is_not_given_is_not_shown():
    missing = {reason.code for reason in load().values() if not reason.produced}
    assert [row for row in SHOWN if row["code"] in missing] == []


def test_no_row_stands_twice_or_holds_a_place_of_this_machine():
    keys = [(row["fault"], row["code"], row["test"]) for row in ROWS]
    assert len(keys) == len(set(keys))
    assert not re.search(r"/(work|home|tmp|root)/", (TESTS / "fault_catalogue.tsv").read_text())
