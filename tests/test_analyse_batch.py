"""Analyse: many structures on one design give what statsmodels gives one by one."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.fits import batch
from cohortvol.stages.analyse.fits.batch import fit_many
from cohortvol.stages.analyse.fits.regression import fit, natural_spline

NAMES = ("1", "age", "bend 1", "bend 2", "bend 3", "male", "age x male", "height", "site=B")


def design_of(n: int, seed: int = 4) -> np.ndarray:
    """As of M3: a spline of age, sex, their interaction, size, a site."""
    random = np.random.default_rng(seed)
    age = random.uniform(20, 90, n)
    male = random.random(n) < 0.5
    spline = natural_spline(age, np.array([25.0, 40, 55, 70, 85]))
    return np.column_stack(
        [np.ones(n), spline, male, age * male, random.normal(5.1, 0.05, n), random.random(n) < 0.3]
    ).astype(float)


def responses_of(design: np.ndarray, structures: int = 5, missing: float = 0.2) -> np.ndarray:
    """Uneven noise, and rows that each structure lacks in its own way, the last hardly any."""
    random = np.random.default_rng(6)
    n = len(design)
    noise = random.normal(size=(n, structures)) * (0.1 + 0.002 * design[:, [1]])
    values = 5 - 0.004 * design[:, [1]] + 0.1 * design[:, [5]] + noise
    share = np.linspace(0, missing, structures)
    values[random.random((n, structures)) < share] = np.nan
    return values


def theirs_of(values: np.ndarray, design: np.ndarray, subjects: np.ndarray | None = None):
    given = ~np.isnan(values)
    ols = sm.OLS(values[given], design[given])
    if subjects is None:
        return ols.fit(cov_type="HC3", use_t=True)
    return ols.fit(cov_type="cluster", cov_kwds={"groups": subjects[given]}, use_t=True)


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours / theirs - 1).max())


@pytest.mark.parametrize("n", [200, batch.BLOCK_ROWS, 3 * batch.BLOCK_ROWS + 17])
def test_coefficients_and_hc3_agree_with_statsmodels(n):
    design = design_of(n)
    values = responses_of(design)
    for k, ours in enumerate(fit_many(design, values)):
        theirs = theirs_of(values[:, k], design)
        errors = np.sqrt(np.diag(ours.covariance[0]))
        assert relative(ours.coefficients[:, 0], theirs.params) < 1e-9
        assert relative(errors, theirs.bse) < 1e-9
        assert (ours.n, ours.degrees_of_freedom) == (theirs.nobs, theirs.df_resid)
        assert ours.se_kind == "HC3"


def test_rows_of_one_subject_give_the_cluster_errors_of_statsmodels_in_any_row_order():
    design = design_of(5000)
    values = responses_of(design)
    subjects = np.random.default_rng(7).integers(0, 2000, 5000)
    for k, ours in enumerate(fit_many(design, values, subjects)):
        theirs = theirs_of(values[:, k], design, subjects)
        assert relative(ours.coefficients[:, 0], theirs.params) < 1e-9
        assert relative(np.sqrt(np.diag(ours.covariance[0])), theirs.bse) < 1e-9
        people = len(np.unique(subjects[~np.isnan(values[:, k])]))
        assert (ours.se_kind, ours.degrees_of_freedom) == ("cluster", people - 1)


def test_a_structure_with_one_scan_of_each_subject_keeps_hc3_beside_others_that_have_several():
    design = design_of(600)
    values = responses_of(design, 2, missing=0)
    subjects = np.repeat(np.arange(300), 2)
    values[1::2, 1] = np.nan
    both, one = fit_many(design, values, subjects)
    assert (both.se_kind, one.se_kind) == ("cluster", "HC3")
    theirs = theirs_of(values[:, 1], design)
    assert relative(np.sqrt(np.diag(one.covariance[0])), theirs.bse) < 1e-9


def test_kinds_of_one_structure_share_their_rows():
    design = design_of(500)
    values = responses_of(design)
    for k, ours in enumerate(fit_many(design, np.stack([values, np.exp(values)], axis=2))):
        given = ~np.isnan(values[:, k])
        both = np.column_stack([values[given, k], np.exp(values[given, k])])
        alone = fit(design[given], both)
        assert relative(ours.coefficients, alone.coefficients) < 1e-9
        assert relative(ours.covariance, alone.covariance) < 1e-8


def test_a_structure_seen_almost_only_at_one_site_is_as_exact():
    design = design_of(20_000)
    values = responses_of(design, 3, missing=0)
    other = np.flatnonzero(design[:, -1])
    values[other[3:], 1] = np.nan  # three scans of site B are left
    for k, ours in enumerate(fit_many(design, values)):
        theirs = theirs_of(values[:, k], design)
        assert relative(ours.coefficients[:, 0], theirs.params) < 1e-9
        assert relative(np.sqrt(np.diag(ours.covariance[0])), theirs.bse) < 1e-9


def test_a_structure_that_cannot_be_fitted_does_not_stop_the_others():
    design = design_of(400)
    values = responses_of(design, 5, missing=0)
    values[design[:, -1] == 1, 0] = np.nan  # no scan of site B
    values[8:, 1] = np.nan  # 8 rows for 9 terms
    values[np.flatnonzero(design[:, -1])[1:], 2] = np.nan  # one scan of site B
    values[:, 3] = np.nan
    found = fit_many(design, values, names=NAMES)
    codes = [ours.reason if isinstance(ours, EstimateError) else "" for ours in found]
    assert codes == ["ANA_COLLINEAR", "ANA_TOO_FEW", "ANA_LEVERAGE", "ANA_TOO_FEW", ""]
    assert found[0].detail.endswith("told apart: site=B")
    theirs = theirs_of(values[:, 4], design)
    assert relative(found[4].coefficients[:, 0], theirs.params) < 1e-9


def test_a_design_without_full_rank_raises_and_names_the_columns():
    design = design_of(300)
    twice = np.column_stack([design, design[:, -1], 1 - design[:, 5]])
    with pytest.raises(EstimateError) as caught:
        fit_many(twice, responses_of(design), names=(*NAMES, "scanner=X", "female"))
    assert caught.value.reason == "ANA_COLLINEAR"
    named = set(caught.value.detail.split(": ")[1].split(", "))
    assert named == {"1", "male", "site=B", "scanner=X", "female"}


def test_too_few_subjects_for_the_terms_are_not_fitted():
    design = design_of(60)
    subjects = np.arange(60) // 10
    (found,) = fit_many(design, responses_of(design, 1, missing=0), subjects)
    assert isinstance(found, EstimateError)
    assert str(found) == "ANA_TOO_FEW: 6 subjects for 9 terms"
