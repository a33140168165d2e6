"""Which organ system a structure belongs to, to group the rows of figures."""

from __future__ import annotations

from collections.abc import Iterable

SYSTEMS = {
    "Digestive": (
        *("liver", "gallbladder", "pancreas", "stomach", "esophagus", "duodenum"),
        *("small_bowel", "colon", "rectum"),
    ),
    "Lymphatic": ("spleen", "thymus"),
    "Endocrine": ("adrenal", "thyroid"),
    "Urinary and genital": ("kidney", "urinary", "prostate", "uterus", "ovary", "testis"),
    "Heart and vessels": (
        *("heart", "atrial", "aorta", "inferior_vena_cava", "superior_vena_cava", "portal_vein"),
        *("iliac_artery", "iliac_vena", "pulmonary", "brachiocephalic", "subclavian"),
        "common_carotid",
    ),
    "Airways and lungs": ("lung", "trachea"),
    "Muscles": (
        *("autochthon", "iliopsoas", "gluteus", "quadriceps", "thigh", "sartorius", "muscle"),
        "psoas",
    ),
    "Bones and discs": (
        *("vertebra", "intervertebral", "sacrum", "hip", "femur", "tibia", "fibula", "humerus"),
        *("scapula", "clavicula", "rib", "sternum", "costal", "skull", "ulna", "radius"),
    ),
    "Nervous": ("brain", "spinal_cord"),
    "Fat": ("subcutaneous", "torso_fat", "visceral", "intermuscular"),
}
"""Beginnings of TotalSegmentator's names of structures, by system."""
OTHER = "Other"


def system_of(structure: str) -> str:
    """The organ system of a structure; `OTHER` where its name is not known here."""
    for system, beginnings in SYSTEMS.items():
        if structure.startswith(beginnings):
            return system
    return OTHER


def by_system(structures: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Structures under their systems, both in a fixed order; empty systems are left out."""
    groups: dict[str, list[str]] = {system: [] for system in (*SYSTEMS, OTHER)}
    for structure in structures:
        groups[system_of(structure)].append(structure)
    return [(system, members) for system, members in groups.items() if members]
