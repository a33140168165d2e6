"""Limits that decide whether a scan is usable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cohortvol.errors import ScanError
from cohortvol.store.companions import Companion

_MAX_BYTES_PER_VOXEL = 8
_MAX_HEADER = 1 << 26  # bytes of a file that are no voxels


@dataclass(frozen=True)
class Rules:
    """The ``ingest`` section of the config, with the same names, units and defaults.

    Whether ``auto`` is to look at the orientation only a model tells; without one it is looked at.
    `channels` are the model's, where its networks see several images of a scan; `companions` are of
    a section of their own. With `keep_values` those of stations are not evened out.
    """

    min_slices: int = 8
    max_voxels: int = 250_000_000
    spacing_range_mm: tuple[float, float] = (0.2, 20.0)
    fov_range_mm: tuple[float, float] = (40.0, 2500.0)
    max_anisotropy: float = 8.0
    max_zero_fraction: float = 0.99
    min_entropy_bits: float = 4.0
    max_zero_slices_fraction: float = 0.2
    max_saturated_fraction: float = 0.02
    max_archive_bytes: int = 16 * 2**30
    max_archive_ratio: float = 100.0
    max_archive_members: int = 100_000
    allow_roots: tuple[str, ...] = ()
    modality: tuple[str, ...] = ("MR",)
    plane: tuple[str, ...] = ()
    dixon: tuple[str, ...] = ()
    sequence: str | None = None
    contrast: str = "any"
    echo: int | None = None
    phase: int | str | None = None
    derived: str = "skip"
    volume: int | None = None
    stations: str | int = "compose"
    orientation: str = "auto"
    channels: tuple[str, ...] = ()
    companions: tuple[Companion, ...] = ()
    keep_values: bool = False

    @classmethod
    def from_config(cls, section: Mapping[str, Any]) -> Rules:
        """Rules of a checked ``ingest`` section, in which the workflow has settings of its own."""
        values: dict[str, Any] = {name: v for name, v in section.items() if name != "watch"}
        lists = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
        return cls(**(values | lists))

    def check_file(self, n_bytes: int) -> None:
        """Refuse a file that is larger than an image can be, before it is read.

        Raises
        ------
        ScanError
            ``IMG_TOO_LARGE``.
        """
        most = self.max_voxels * _MAX_BYTES_PER_VOXEL + _MAX_HEADER
        if n_bytes > most:
            raise ScanError("IMG_TOO_LARGE", f"a file of {n_bytes} bytes, over {most}")
