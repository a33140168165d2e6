"""Two public pages of cohorts that differ by one person: what their reader finds out."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What comes out of three pairs, by the way the pages are made; raw is without any rule."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import differencing
    pairs = list(differencing.pairs_of(3, (1, 1), tmp_path_factory.mktemp("tables")))
    raw = differencing.Found()
    for pair in pairs:
        raw.add(pair, "raw", lambda analysis: analysis, compared=False)
    return {**differencing.read_pairs(pairs), "raw": raw}


def test_the_reader_finds_all_where_nothing_is_rounded(found):
    raw = found["raw"]
    assert raw.n_rows == raw.rows == 45
    assert raw.in_pairs["volume of one person"] == raw.in_pairs["sex"] == 3
    assert not [what for (what, right), n in raw.said.items() if what != "age" and not right and n]


def test_one_results_folder_makes_no_second_page_of_a_cohort_that_lost_one_person(found):
    together = found["both pages from one results folder"]
    assert (together.pairs, together.refused, dict(together.said)) == (3, 3, {})


def test_rounding_alone_keeps_n_volumes_and_ages(found):
    apart = found["each page from a results folder of its own"]
    assert apart.n_rows == 0
    assert {what for what, _ in apart.said} <= {"sex", "decade of age"}
