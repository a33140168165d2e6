"""What may be wrong with a model: leverage, influence, uneven noise, collinear columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.answers.slopes import joined_notes
from cohortvol.stages.analyse.cohort.groups import LOG, Fitted, fit_structures, ladder
from cohortvol.stages.analyse.cohort.parts import Parts
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import Cohort
from cohortvol.stages.analyse.each import Each, one_by_one
from cohortvol.stages.analyse.fits.regression import Fit, orthonormal

MOST_VIF = 5.0
MOST_INFLUENTIAL = 10


def diagnostics(
    cohort: Cohort, settings: Settings, each: Each = one_by_one
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Diagnostics of ln(volume) in the most adjusted model with age x sex, per structure.

    Returns
    -------
    tuple of pandas.DataFrame
        ``analyse/diagnostics``, and ``analyse/influence`` with the `MOST_INFLUENTIAL` scans of
        each structure by Cook's distance.
    """
    model = ladder(cohort)[-1]
    parts = Parts(cohort, model, settings)
    joint = parts.joint if cohort.knows_sex else parts.able
    fits = fit_structures(cohort, model, joint, settings, interaction=True)
    ids = cohort.scans["scan_id"].to_numpy()

    def of_structure(index: int) -> list[tuple[dict[str, Any], pd.DataFrame]]:
        row: dict[str, Any] = {"structure": cohort.structures[index], "model": model.name}
        fitted = fits.get(index)
        if fitted is None:
            why = parts.troubles(index) if cohort.knows_sex else (parts.of_all[index].trouble,)
            return [(row | {"n_used": 0, "note": joined_notes(*why)}, pd.DataFrame())]
        row["n_used"] = int(fitted.given.sum())
        if isinstance(fitted.fit, EstimateError):
            note = joined_notes(str(fitted.fit), *fitted.design.notes)
            return [(row | {"note": note}, pd.DataFrame())]
        used = fitted.rows[fitted.given]
        cells, by_scan = _diagnosed(fitted, fitted.fit, np.log(cohort.volume_ml[used, index]))
        top = by_scan.assign(scan_id=ids[used], structure=row["structure"])
        top = top.sort_values("cooks_distance", ascending=False, kind="stable")
        return [(row | cells, top.head(MOST_INFLUENTIAL))]

    found = each(of_structure, cohort.structures)
    tops = [pd.DataFrame(), *(top for _, top in found)]
    return pd.DataFrame([row for row, _ in found]), pd.concat(tops, ignore_index=True)


def _diagnosed(
    fitted: Fitted, fit: Fit, response: np.ndarray
) -> tuple[dict[str, Any], pd.DataFrame]:
    columns, names = fitted.design.columns[fitted.given], fitted.design.names
    n, terms = columns.shape
    leverage = (orthonormal(columns, names)[0] ** 2).sum(axis=1)
    residuals = response - columns @ fit.coefficients[:, LOG]
    variance = residuals @ residuals / (n - terms)
    if variance == 0:
        return {"note": "ANA_NO_VARIANCE: the model fits without residuals"}, pd.DataFrame()
    cooks = residuals**2 * leverage / (terms * variance * (1 - leverage) ** 2)
    vif, name = largest_vif(columns, names)
    length = np.linalg.norm(columns, axis=0)
    singular = np.linalg.svd(columns / length, compute_uv=False)
    leans = f"VIF of {name} is {vif:.1f}, above {MOST_VIF:g}" if vif > MOST_VIF else ""
    cells = {
        "max_leverage": float(leverage.max()),
        "max_cooks_distance": float(cooks.max()),
        "breusch_pagan_p": breusch_pagan_p(columns, residuals),
        "max_vif": vif,
        "max_vif_name": name,
        "condition_number": float(singular[0] / singular[-1]),
        "note": joined_notes(leans, *fitted.design.notes),
    }
    studentised = residuals / np.sqrt(variance * (1 - leverage))
    by_scan = {"cooks_distance": cooks, "leverage": leverage, "residual_z": studentised}
    return cells, pd.DataFrame(by_scan)


def largest_vif(columns: np.ndarray, names: tuple[str, ...]) -> tuple[float, str]:
    """Largest variance inflation factor, and whose it is; products with sex are left out.

    Among the terms without interaction, as that of an interaction says only how ages are
    centred. The factor of a column is 1 / (1 - R2) of it on the others.
    """
    kept = [i for i, name in enumerate(names) if name != "1" and not name.endswith(" x male")]
    kept = [i for i in kept if np.ptp(columns[:, i]) > 0]
    if not kept:
        return float("nan"), ""
    if len(kept) == 1:
        return 1.0, names[kept[0]]
    factors = np.diag(np.linalg.inv(np.corrcoef(columns[:, kept], rowvar=False)))
    worst = int(np.argmax(factors))
    return float(factors[worst]), names[kept[worst]]


def breusch_pagan_p(columns: np.ndarray, residuals: np.ndarray) -> float:
    """p that the spread does not depend on the columns: n R2 of squared residuals (Koenker)."""
    squared = residuals**2
    q = orthonormal(columns)[0]
    left = squared - q @ (q.T @ squared)
    about = squared - squared.mean()
    share = 1 - float(left @ left) / float(about @ about)
    return float(stats.chi2.sf(len(squared) * share, columns.shape[1] - 1))
