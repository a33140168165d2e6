"""Distributions of a volume around the median of its age, under the names that R's gamlss gives.

All are of y > 0 in r = ln(y / M), with M the median and S the spread, about the coefficient of
variation. With the Box-Cox score x = ((y / M)**L - 1) / (L S), which no y can bring beyond
-1 / (L S):

``BCCG``  x is normal, cut off at that end (Cole and Green 1992; Rigby and Stasinopoulos 2004).
``BCT``   x has Student's t distribution on tau degrees of freedom, cut off there too: heavy tails
          to both sides (Rigby and Stasinopoulos 2006).
``SHASH`` with u = asinh(r / S), (exp(tau u) - exp(-nu u)) / 2 is normal (Jones 2005): small nu is a
          heavy tail of small volumes, small tau one of large ones.

gamlss has none of these: ``BCCG_low``, ``BCCG_high`` and ``BCCG_both`` are BCCG of most people, and
far out below, above or at both ends a share of others, such as remnants or enlarged organs. How
far out they are, |r|, has a gamma distribution of shape 3 and mean 1.5 (a fifth, or four and a half
times); the centiles between depend on the shares and hardly on that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

NEARLY_LOG = 1e-12
"""|L| below which the limit of the formulas at L = 0 is taken."""
_HALF_LOG_2_PI = 0.5 * np.log(2 * np.pi)
_LOG_2 = np.log(2.0)
_MOST_STEPS = 60

Values = np.ndarray | float


@dataclass(frozen=True)
class Family:
    """One kind of distribution. Shapes are on the scale on which they are fitted."""

    name: str
    shapes: tuple[str, ...]
    """What they are called; ``ln tau`` is the logarithm of tau."""
    start: tuple[float, ...]
    """Where the shapes are those of a normal ln(y), or near it."""
    log_density: Callable[..., np.ndarray]
    """Of r, from (r, ln S, *shapes)."""
    z: Callable[..., np.ndarray]
    """Standard normal score of r, from (r, ln S, *shapes)."""
    ratio: Callable[..., np.ndarray]
    """r at a standard normal score, from (z, ln S, *shapes)."""


def box_cox(ratio: Values, power: Values, spread: Values) -> np.ndarray:
    """x of r, L and S."""
    power = _not_zero(power)
    return np.asarray(np.expm1(power * np.asarray(ratio)) / (power * np.asarray(spread)))


def box_cox_ratio(x: Values, power: Values, spread: Values) -> np.ndarray:
    """r of x, L and S; NaN beyond the end that x has."""
    power = _not_zero(power)
    inside = power * np.asarray(spread) * np.asarray(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log1p(np.where(inside > -1, inside, np.nan)) / power)


def _not_zero(power: Values) -> np.ndarray:
    power = np.asarray(power, dtype=float)
    return np.where(np.abs(power) < NEARLY_LOG, NEARLY_LOG, power)


def _end(power: Values, log_spread: Values) -> np.ndarray:
    """How far out x is cut off, on the side of small y where L > 0."""
    return np.asarray(np.exp(-np.asarray(log_spread)) / np.abs(_not_zero(power)))


# --- BCCG and BCT: a symmetric distribution of x, cut off at one end -----------------------------

_LogCdf = Callable[[np.ndarray], np.ndarray]
_Quantile = Callable[[np.ndarray], np.ndarray]


def _cut_z(x: np.ndarray, power: Values, end: np.ndarray, log_cdf: _LogCdf) -> np.ndarray:
    """Score of x. The tail that is not cut off is exact however far out x lies."""
    sign = np.where(np.asarray(power) > 0, 1.0, -1.0)  # the tail of large y, or of small y
    whole = log_cdf(end)
    with np.errstate(divide="ignore", invalid="ignore"):
        free = log_cdf(-sign * x) - whole
        low, off = log_cdf(sign * x), log_cdf(-end)
        cut = low + np.log1p(-np.exp(np.minimum(off - low, 0.0))) - whole
    by_free, by_cut = -special.ndtri_exp(free), special.ndtri_exp(cut)
    return np.asarray(sign * np.where(free < -_LOG_2, by_free, by_cut))


def _cut_x(z: Values, power: Values, end: np.ndarray, log_cdf: _LogCdf, back: _Quantile) -> Values:
    """x at a score."""
    sign = np.where(np.asarray(power) > 0, 1.0, -1.0)
    return -sign * back(special.log_ndtr(-sign * np.asarray(z)) + log_cdf(end))


def _bccg_density(ratio: np.ndarray, log_spread: Values, power: Values) -> np.ndarray:
    x = box_cox(ratio, power, np.exp(log_spread))
    whole = special.log_ndtr(_end(power, log_spread))
    return np.asarray(power * ratio - log_spread - x * x / 2 - _HALF_LOG_2_PI - whole)


def _bccg_z(ratio: np.ndarray, log_spread: Values, power: Values) -> np.ndarray:
    x = box_cox(ratio, power, np.exp(log_spread))
    return _cut_z(x, power, _end(power, log_spread), special.log_ndtr)


def _bccg_ratio(z: Values, log_spread: Values, power: Values) -> np.ndarray:
    x = _cut_x(z, power, _end(power, log_spread), special.log_ndtr, special.ndtri_exp)
    return box_cox_ratio(x, power, np.exp(log_spread))


def _log_t_cdf(tau: Values) -> _LogCdf:
    return lambda x: np.log(special.stdtr(tau, x))


def _bct_density(
    ratio: np.ndarray, log_spread: Values, power: Values, log_tau: Values
) -> np.ndarray:
    tau = np.exp(log_tau)
    x = box_cox(ratio, power, np.exp(log_spread))
    constant = special.gammaln((tau + 1) / 2) - special.gammaln(tau / 2) - np.log(np.pi * tau) / 2
    log_t = constant - (tau + 1) / 2 * np.log1p(x * x / tau)
    whole = np.log(special.stdtr(tau, _end(power, log_spread)))
    return np.asarray(power * ratio - log_spread + log_t - whole)


def _bct_z(ratio: np.ndarray, log_spread: Values, power: Values, log_tau: Values) -> np.ndarray:
    x = box_cox(ratio, power, np.exp(log_spread))
    return _cut_z(x, power, _end(power, log_spread), _log_t_cdf(np.exp(log_tau)))


def _bct_ratio(z: Values, log_spread: Values, power: Values, log_tau: Values) -> np.ndarray:
    tau = np.exp(log_tau)

    def back(log_p: np.ndarray) -> np.ndarray:
        return np.asarray(special.stdtrit(tau, np.exp(log_p)))

    x = _cut_x(z, power, _end(power, log_spread), _log_t_cdf(tau), back)
    return box_cox_ratio(x, power, np.exp(log_spread))


# --- SHASH ---------------------------------------------------------------------------------------


def _shash_density(
    ratio: np.ndarray, log_spread: Values, log_nu: Values, log_tau: Values
) -> np.ndarray:
    x = ratio * np.exp(-np.asarray(log_spread))
    u, nu, tau = np.arcsinh(x), np.exp(log_nu), np.exp(log_tau)
    up, down = np.exp(tau * u), np.exp(-nu * u)
    slope, normal = (tau * up + nu * down) / 2, (up - down) / 2
    return np.asarray(
        np.log(slope) - log_spread - np.log1p(x * x) / 2 - normal**2 / 2 - _HALF_LOG_2_PI
    )


def _shash_z(ratio: np.ndarray, log_spread: Values, log_nu: Values, log_tau: Values) -> np.ndarray:
    u = np.arcsinh(ratio * np.exp(-np.asarray(log_spread)))
    return np.asarray((np.exp(np.exp(log_tau) * u) - np.exp(-np.exp(log_nu) * u)) / 2)


def _shash_ratio(z: Values, log_spread: Values, log_nu: Values, log_tau: Values) -> np.ndarray:
    """By Newton's method in u, from the side on which the steps do not overshoot."""
    nu, tau, z = np.exp(log_nu), np.exp(log_tau), np.asarray(z, dtype=float)
    u = np.where(z > 0, np.log1p(2 * np.maximum(z, 0)) / tau, -np.log1p(-2 * np.minimum(z, 0)) / nu)
    for _ in range(_MOST_STEPS):
        up, down = np.exp(tau * u), np.exp(-nu * u)
        step = ((up - down) / 2 - z) / ((tau * up + nu * down) / 2)
        u = u - step
        if np.abs(step).max() < 1e-14:
            break
    return np.asarray(np.exp(log_spread) * np.sinh(u))


# --- BCCG of most people, others far out ----------------------------------------------------------

_FAR_RATE = 2.0


def _shares(ends: str, odds: tuple[Values, ...]) -> tuple[Values, Values, Values]:
    """Logarithms of the shares far below, near and far above, from log odds against near."""
    low = odds[0] if ends != "high" else -np.inf
    high = odds[-1] if ends != "low" else -np.inf
    whole = np.logaddexp(np.logaddexp(low, high), 0.0)
    return low - whole, -whole, high - whole


def _far_density(out: np.ndarray) -> np.ndarray:
    """Logarithm, of how far out a volume lies; none lies on the other side."""
    with np.errstate(divide="ignore"):
        log_out = np.log(np.maximum(out, 0.0))
    return np.asarray(np.log(_FAR_RATE**3 / 2) + 2 * log_out - _FAR_RATE * out)


def _far_beyond(out: np.ndarray) -> np.ndarray:
    """Logarithm of the share of the far that is further out."""
    scaled = _FAR_RATE * np.maximum(out, 0.0)
    return np.asarray(np.log1p(scaled + scaled**2 / 2) - scaled)


def _far_within(out: np.ndarray) -> np.ndarray:
    """Logarithm of the share of the far that is less far out."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(special.gammainc(3.0, _FAR_RATE * np.maximum(out, 0.0))))


def _with_far(ends: str) -> Family:
    """BCCG with others at one end or at both."""

    def density(ratio: np.ndarray, log_spread: Values, power: Values, *odds: Values) -> np.ndarray:
        low, near, high = _shares(ends, odds)
        far = np.logaddexp(low + _far_density(-ratio), high + _far_density(ratio))
        return np.asarray(np.logaddexp(far, near + _bccg_density(ratio, log_spread, power)))

    def score(ratio: np.ndarray, log_spread: Values, power: Values, *odds: Values) -> np.ndarray:
        low, near, high = _shares(ends, odds)
        z = _bccg_z(ratio, log_spread, power)
        below = np.logaddexp(low + _far_beyond(-ratio), high + _far_within(ratio))
        above = np.logaddexp(low + _far_within(-ratio), high + _far_beyond(ratio))
        below = np.minimum(np.logaddexp(below, near + special.log_ndtr(z)), 0.0)
        above = np.minimum(np.logaddexp(above, near + special.log_ndtr(-z)), 0.0)
        smaller = below < above
        return np.asarray(np.where(smaller, special.ndtri_exp(below), -special.ndtri_exp(above)))

    def ratio_at(z: Values, log_spread: Values, power: Values, *odds: Values) -> np.ndarray:
        """By Newton's method from the ratio among the near, halving where a step leaves the bounds
        that are known."""
        z, log_spread, power = np.broadcast_arrays(np.asarray(z, dtype=float), log_spread, power)
        low, near, _ = _shares(ends, odds)
        among = (special.ndtr(z) - np.exp(low)) / np.exp(near)
        start = _bccg_ratio(special.ndtri(np.clip(among, 1e-6, 1 - 1e-6)), log_spread, power)
        found = np.where(np.isfinite(start), start, 0.0)
        least, most = np.full(z.shape, -_MOST_RATIO), np.full(z.shape, _MOST_RATIO)
        for _ in range(_MOST_STEPS):
            here = score(found, log_spread, power, *odds)
            least, most = np.where(here < z, found, least), np.where(here < z, most, found)
            log_slope = density(found, log_spread, power, *odds) + here**2 / 2 + _HALF_LOG_2_PI
            with np.errstate(all="ignore"):
                step = found - (here - z) * np.exp(-log_slope)
            better = np.where((step > least) & (step < most), step, (least + most) / 2)
            moved = np.abs(better - found).max(initial=0.0)
            found = better
            if moved < _CLOSE_RATIO:
                break
        return found

    odds = ("ln odds low", "ln odds high") if ends == "both" else (f"ln odds {ends}",)
    start = (0.0, *[_FAR_START] * len(odds))
    return Family(f"BCCG_{ends}", ("L", *odds), start, density, score, ratio_at)


_MOST_RATIO, _CLOSE_RATIO = 30.0, 1e-12
"""|r| that no volume has, and a step of r below which it is found."""
_FAR_START = np.log(0.02)

FAMILIES = {
    family.name: family
    for family in (
        Family("BCCG", ("L",), (0.0,), _bccg_density, _bccg_z, _bccg_ratio),
        Family("BCT", ("L", "ln tau"), (0.0, np.log(10.0)), _bct_density, _bct_z, _bct_ratio),
        Family("SHASH", ("ln nu", "ln tau"), (0.0, 0.0), _shash_density, _shash_z, _shash_ratio),
        *(_with_far(ends) for ends in ("low", "high", "both")),
    )
}
"""By name."""
