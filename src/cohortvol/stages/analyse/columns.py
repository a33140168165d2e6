"""Columns that many tables of the analysis share."""

from cohortvol.store.schemas import Column, text, whole

STRUCTURE = Column(text, "anatomical structure, as in the volumes table")
SEX = Column(text, "all, F or M")
ONE_SEX = Column(text, "F or M")
MODEL = Column(
    text,
    "M1: ln(volume) on age x sex; M2: with ln(height), ln(BMI), site, scanner, sequence, "
    "contrast and time of day besides, as far as they are known and differ",
)
USED = Column(whole, "scans used")
DROPPED = Column(whole, "scans of this sex in the scans table that are not used")
P = "null where it cannot be estimated"
ADJUSTED = Column(text, "covariates beside age and sex; null if none")
NOTE = Column(text, "why there is no estimate, or how to read it; null if nothing")
ENDS = {"": "", "_ci_low": ", lower 95 % limit", "_ci_high": ", upper 95 % limit"}
