"""The data of published studies, and of NIST, behind some of the values of `golden.csv`."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import statsmodels.api as sm
from statsmodels.datasets import longley as economy

from golden_values import golden

WAMPLER = {
    "nist_wampler1": (1, 0),
    "nist_wampler2": (10, 0),
    "nist_wampler3": (1, 1),
    "nist_wampler4": (1, 100),
    "nist_wampler5": (1, 10_000),
}
"""Unit of x, and how much noise there is, by check."""

WAMPLER_NOISE = [759, -2048, 2048, -2048, 2523, -2048, 2048, -2048, 1838, -2048, 2048]
MCYCLE = Path(sm.__file__).parent / "gam" / "tests" / "results" / "motorcycle.csv"


def wampler(check: str) -> tuple[np.ndarray, np.ndarray]:
    """Design and response of a polynomial of degree 5 at 21 places."""
    unit, noise = WAMPLER[check]
    x = np.arange(21.0)
    mirrored = np.array(WAMPLER_NOISE + WAMPLER_NOISE[-2::-1])
    exact = ((x / unit)[:, None] ** np.arange(6)).sum(axis=1).round(5)
    return x[:, None] ** np.arange(6), exact + noise * mirrored


def longley() -> tuple[np.ndarray, np.ndarray]:
    """Design and response of 16 years of employment, as NIST has them."""
    data = economy.load_pandas()
    return np.column_stack([np.ones(16), data.exog.to_numpy()]), data.endog.to_numpy()


def longley_of_r() -> tuple[np.ndarray, np.ndarray]:
    """The same in the units of R's copy."""
    design, response = longley()
    return design / [1, 1, 1000, 10, 10, 1000, 1], response / 1000


def motorcycle() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times after an impact, acceleration of a head, and the knots that ns() of R chooses."""
    data = pd.read_csv(MCYCLE)
    times = data["times"].to_numpy()
    inner = golden("mcycle_ns", "interior_knots")["value"].astype(float)
    return times, data["accel"].to_numpy(), np.array([times.min(), *inner, times.max()])


def tobin() -> pd.DataFrame:
    """Tobin 1958, Econometrica 26:24: spending on durable goods, age and liquidity of 20 people."""
    text = """
    0 57.7 236   0.7 50.9 283   0 48.5 207   0 41.7 220   0 47.7 238   0 59.8 216   0 44.3 284
    3.7 45.1 221   0 51.7 275   3 50 269   10.4 46.8 207   0 58 249   0 58.9 246   0 40 277
    1.5 34.1 231   0 39.9 219   0 33.4 240   3.5 48.1 266   6.1 46.6 214   0 53.1 251
    """
    values = np.array(text.split(), dtype=float).reshape(-1, 3)
    return pd.DataFrame(values, columns=["durable", "age", "quant"])


def orthodont() -> pd.DataFrame:
    """Potthoff and Roy 1964, Biometrika 51:313: a distance in the face of 27 growing children."""
    text = """
    M 26 25 29 31
    M 21.5 22.5 23 26.5
    M 23 22.5 24 27.5
    M 25.5 27.5 26.5 27
    M 20 23.5 22.5 26
    M 24.5 25.5 27 28.5
    M 22 22 24.5 26.5
    M 24 21.5 24.5 25.5
    M 23 20.5 31 26
    M 27.5 28 31 31.5
    M 23 23 23.5 25
    M 21.5 23.5 24 28
    M 17 24.5 26 29.5
    M 22.5 25.5 25.5 26
    M 23 24.5 26 30
    M 22 21.5 23.5 25
    F 21 20 21.5 23
    F 21 21.5 24 25.5
    F 20.5 24 24.5 26
    F 23.5 24.5 25 26.5
    F 21.5 23 22.5 23.5
    F 20 21 21 22.5
    F 21.5 22.5 23 25
    F 23 23 23.5 24
    F 20 21 22 21.5
    F 16.5 19 19 19.5
    F 24.5 25 28 28
    """
    wide = pd.read_csv(StringIO(text), sep=r"\s+", names=["sex", 8, 10, 12, 14], index_col=False)
    long = wide.reset_index(names="subject").melt(["subject", "sex"], var_name="age")
    return long.rename(columns={"value": "distance"}).astype({"age": float})


def sleepstudy() -> pd.DataFrame:
    """Belenky 2003, J Sleep Res 12:1: reaction time in ms of 18 people over 10 days (columns)."""
    text = """
    249.56 258.7047 250.8006 321.4398 356.8519 414.6901 382.2038 290.1486 430.5853 466.3535
    222.7339 205.2658 202.9778 204.707 207.7161 215.9618 213.6303 217.7272 224.2957 237.3142
    199.0539 194.3322 234.32 232.8416 229.3074 220.4579 235.4208 255.7511 261.0125 247.5153
    321.5426 300.4002 283.8565 285.133 285.7973 297.5855 280.2396 318.2613 305.3495 354.0487
    287.6079 285 301.8206 320.1153 316.2773 293.3187 290.075 334.8177 293.7469 371.5811
    234.8606 242.8118 272.9613 309.7688 317.4629 309.9976 454.1619 346.8311 330.3003 253.8644
    283.8424 289.555 276.7693 299.8097 297.171 338.1665 332.0265 348.8399 333.36 362.0428
    265.4731 276.2012 243.3647 254.6723 279.0244 284.1912 305.5248 331.5229 335.7469 377.299
    241.6083 273.9472 254.4907 270.8021 251.4519 254.6362 245.4523 235.311 235.7541 237.2466
    312.3666 313.8058 291.6112 346.1222 365.7324 391.8385 404.2601 416.6923 455.8643 458.9167
    236.1032 230.3167 238.9256 254.922 250.7103 269.7744 281.5648 308.102 336.2806 351.6451
    256.2968 243.4543 256.2046 255.5271 268.9165 329.7247 379.4445 362.9184 394.4872 389.0527
    250.5265 300.0576 269.8939 280.5891 271.8274 304.6336 287.7466 266.5955 321.5418 347.5655
    221.6771 298.1939 326.8785 346.8555 348.7402 352.8287 354.4266 360.4326 375.6406 388.5417
    271.9235 268.4369 257.2424 277.6566 314.8222 317.2135 298.1353 348.1229 340.28 366.5131
    225.264 234.5235 238.9008 240.473 267.5373 344.1937 281.1481 347.5855 365.163 372.2288
    269.8804 272.4428 277.8989 281.7895 279.1705 284.512 259.2658 304.6306 350.7807 369.4692
    269.4117 273.474 297.5968 310.6316 287.1726 329.6076 334.4818 343.2199 369.1417 364.1236
    """
    wide = np.array(text.split(), dtype=float).reshape(18, 10)
    return pd.DataFrame(
        {
            "subject": np.repeat(np.arange(18), 10),
            "days": np.tile(np.arange(10.0), 18),
            "reaction": wide.ravel(),
        }
    )
