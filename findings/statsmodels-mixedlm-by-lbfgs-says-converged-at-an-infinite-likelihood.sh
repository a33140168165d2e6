#!/usr/bin/env bash
# statsmodels: MixedLM fitted with method="lbfgs" may end at an intercept of 0 and an infinite log
# likelihood, and says that it has converged.
#
# Expected: "lbfgs" is one of the optimisers that MixedLM.fit names, and the first that its default list
# tries after "bfgs"; which of them is taken changes a fit in its last digits. Where an optimiser fails,
# `converged` is False.
# Seen (statsmodels 0.15.0, numpy 2.4.6, scipy 1.17.1, Python 3.11): 400 volumes of 20 sites that differ
# by 5 %, logarithms, a random intercept for each site. "bfgs", "cg" and "powell" find the same fit.
# "lbfgs" steps to a variance of the sites of 0, for which MixedLM takes 0 as the inverse too: the
# likelihood there is infinite, the intercept 0 where it is 7.2, the slope another, `converged` True.
# Warnings speak of singular matrices, not of the fixed effects. That such variances cost the fixed
# effects is statsmodels issue 10239; here the variance is an ordinary one, and only the way is bad.
# Exits 1 where this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    statsmodels==0.15.0 numpy==2.4.6 scipy==1.17.1 2>/dev/null
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import numpy as np
from statsmodels.regression.mixed_linear_model import MixedLM

rng = np.random.default_rng(0)
n, n_sites = 400, 20
site = np.repeat(np.arange(n_sites), n // n_sites)
age = rng.uniform(20, 90, n)
volume = 7.2 - 0.004 * (age - 50)
volume += 0.05 * rng.standard_normal(n_sites)[site] + 0.12 * rng.standard_normal(n)
design = np.column_stack([np.ones(n), (age - 50) / 10])
found = {}
for method in ("bfgs", "cg", "powell", "lbfgs"):
    fit = MixedLM(volume, design, site).fit(reml=True, method=method)
    found[method] = fit.fe_params
    print(
        f"{method:7} converged {fit.converged}  log likelihood {fit.llf:8.3f}  intercept "
        f"{fit.fe_params[0]:6.3f}  slope {fit.fe_params[1]:8.5f}  variance of sites "
        f"{float(np.ravel(fit.cov_re)[0]):.5f}"
    )
as_described = (
    all(np.allclose(found[method], found["bfgs"], atol=1e-5) for method in ("cg", "powell"))
    and fit.converged
    and np.isinf(fit.llf)
    and abs(found["lbfgs"][0]) < 1e-6
)
print("as described" if as_described else "changed")
sys.exit(not as_described)
PYTHON
