"""Structures in the words of DICOM: SNOMED CT where the table of structures has a code."""

from __future__ import annotations

from typing import Any

from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes

from cohortvol import reasons
from cohortvol.anatomy import structures

SCHEME = "99COHORTVOL"
"""Designator of codes of ours (PS3.16 8.2), where no other scheme has one."""
LONGEST_MEANING = 64
MILLILITRE = CodedConcept("mL", "UCUM", "milliliter")
QUALITY = CodedConcept("qc", SCHEME, "Quality control")
LOWER_BOUND = CodedConcept("cut_by_fov", SCHEME, "Reaches the edge of the image: a lower bound")
_SIDES = {"left": codes.SCT.Left, "right": codes.SCT.Right, "both": codes.SCT.Bilateral}


def category_of(structure: str) -> Any:
    """Tissue, or an anatomical structure."""
    known = structures.load().get(structure)
    is_tissue = known is not None and known.group == "tissue"
    return codes.SCT.Tissue if is_tissue else codes.SCT.AnatomicalStructure


def type_of(structure: str) -> CodedConcept:
    """What a structure is, without its side where that has a code of its own.

    One that has no SNOMED code, or that only the user's model knows, has its name for a code, in
    the scheme `SCHEME`.
    """
    known = structures.load().get(structure)
    if known is None or not known.snomed_code:
        return CodedConcept(structure, SCHEME, _in_words(structure))
    name = structure.removesuffix(f"_{known.laterality}")
    return CodedConcept(known.snomed_code, "SCT", _in_words(name))


def side_of(structure: str) -> Any | None:
    """Left, right or both, where `type_of` leaves it out."""
    known = structures.load().get(structure)
    return None if known is None or not known.snomed_code else _SIDES.get(known.laterality)


def flag(code: str) -> CodedConcept:
    """A code of quality control, with its sentence as far as it fits."""
    known = reasons.load().get(code)
    meaning = code if known is None else known.sentence
    return CodedConcept(code, SCHEME, meaning[:LONGEST_MEANING])


def _in_words(name: str) -> str:
    words = name.replace("_", " ")[:LONGEST_MEANING]
    return words[:1].upper() + words[1:]
