"""From a network's own doubt to an interval of volumes, calibrated by split-conformal prediction.

The half width of an interval is q times the spread, q being read from labelled scans that the
network was not trained on: such a quantile of |true - counted| / spread that an exchangeable new
scan is covered with the level stated, whatever the distribution (Papadopoulos et al. 2002, Lei et
al. 2018, normalised scores).

Light on purpose: the cards of models are read with it while Snakemake plans.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

LEVEL = 0.95
"""Share of scans that an interval is to cover."""

Softmax = Mapping[int, tuple[float, float]]
"""Label to the sums of softmax p, and of p (1 - p), over the number of its voxels."""


def softmax_by_label(columns: Mapping[str, Any] | None) -> Softmax:
    """The columns that the segment table has of it; empty where no softmax was kept."""
    if columns is None or columns.get("softmax_labels") is None:
        return {}
    return {
        int(label): (float(expected), float(spread))
        for label, expected, spread in zip(
            columns["softmax_labels"],
            columns["expected_ratio"],
            columns["spread_ratio"],
            strict=True,
        )
    }


UNCALIBRATED = "uncalibrated"

EXPERT, OUT_OF_FOLD, SIMULATED = "expert labels", "expert labels out of fold", "simulated scans"
"""Where true volumes may come from, as the tables say it."""


@dataclass(frozen=True)
class Factor:
    """How many spreads an interval of one structure reaches to either side.

    Attributes
    ----------
    q : float
        Spreads.
    n : int
        Scans it was read from.
    level : float
        Share of new scans whose interval covers the truth; less than `LEVEL` where `n` scans
        cannot tell more.
    """

    q: float
    n: int
    level: float


@dataclass(frozen=True)
class Calibration:
    """What the card of a model says about its intervals; see `Factor`.

    Attributes
    ----------
    source : str
        What the true volumes were: `EXPERT`, `OUT_OF_FOLD` or `SIMULATED`.
    profile : str
        Inference profile it holds for, without what does not change labels.
    note : str
        Which scans.
    """

    source: str
    profile: str
    structures: Mapping[str, Factor] = field(default_factory=dict)
    note: str = ""

    @classmethod
    def from_card(cls, raw: Mapping[str, Any]) -> Calibration | None:
        """As `to_card` wrote it; None of an empty one.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is not what `to_card` writes.
        """
        if not raw:
            return None
        structures = {
            str(name): Factor(float(one["q"]), int(one["n"]), float(one["level"]))
            for name, one in raw["structures"].items()
        }
        for name, factor in structures.items():
            if not (0 <= factor.q < math.inf and 0 < factor.level < 1 and factor.n > 0):
                raise ValueError(f"volume_interval of {name}: {factor}")
        if raw["source"] not in (EXPERT, OUT_OF_FOLD, SIMULATED):
            raise ValueError(f"volume_interval has the source {raw['source']!r}")
        return cls(raw["source"], str(raw["profile"]), structures, str(raw.get("note", "")))

    def to_card(self) -> dict[str, Any]:
        """For ``card.json``."""
        return asdict(self)


class Interval(NamedTuple):
    """Volumes in mL, and what stands behind them: `UNCALIBRATED`, or level and source."""

    expected_ml: float
    low_ml: float
    high_ml: float
    kind: str


def interval(
    volume_ml: float, expected_ratio: float, spread_ratio: float, factor: Factor | None, source: str
) -> Interval:
    """The interval of a counted volume.

    Parameters
    ----------
    volume_ml : float
        Counted, mL.
    expected_ratio, spread_ratio : float
        Sum of softmax p, and of p (1 - p), over the number of voxels counted.
    factor : Factor or None
        Of the structure; without one the interval is one spread to either side.
    source : str
        What the factor was read from.
    """
    reach = volume_ml * spread_ratio * (1.0 if factor is None else factor.q)
    return Interval(
        expected_ml=volume_ml * expected_ratio,
        low_ml=max(0.0, volume_ml - reach),
        high_ml=volume_ml + reach,
        kind=UNCALIBRATED if factor is None else _kind(factor.level, source),
    )


def _kind(level: float, source: str) -> str:
    percent = math.floor(100 * level + 1e-9)
    return f"calibrated {percent} % on {source}"


def weaker(kinds: Iterable[str]) -> str:
    """What may be said of the sum of two intervals: the less of what is said of either."""
    return min(kinds, key=lambda kind: (kind != UNCALIBRATED, kind))


class Case(NamedTuple):
    """One structure of one labelled scan, as found and as it is."""

    structure: str
    volume_ml: float
    true_ml: float
    spread_ratio: float


def score(case: Case) -> float:
    """Distance of the truth from the volume counted, in spreads."""
    error, spread = abs(case.true_ml - case.volume_ml), case.volume_ml * case.spread_ratio
    return error / spread if spread else (math.inf if error else 0.0)


def calibrate(cases: Iterable[Case], level: float = LEVEL) -> dict[str, Factor]:
    """The factor of every structure from labelled scans that the network was not trained on.

    With n scans the ceil((n + 1) level)-th smallest score covers a new one with that level. Where
    n is too small for it the greatest one is taken, and its level is n / (n + 1): 94 % of 16. A
    structure whose factor would be infinite, since a spread was 0 beside an error, gets none.
    """
    scores: dict[str, list[float]] = {}
    for case in cases:
        scores.setdefault(case.structure, []).append(score(case))
    factors = {}
    for structure, found in scores.items():
        n = len(found)
        rank = math.ceil((n + 1) * level - 1e-9)
        q = sorted(found)[min(rank, n) - 1]
        if math.isfinite(q):
            # Rounded upwards, so that the scan it was read from stays inside.
            factors[structure] = Factor(
                math.ceil(q * 1e4) / 1e4, n, level if rank <= n else round(n / (n + 1), 4)
            )
    return factors
