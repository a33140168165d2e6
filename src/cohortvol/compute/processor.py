"""What the processor of this machine can do by itself."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

NATIVE_BFLOAT16 = ("amx_bf16", "avx512_bf16")
"""Flags of processors that multiply bfloat16; on all others it is emulated, and slow."""


def flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Instruction sets by the names that Linux gives them; none where there is no such list."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    of_first = (line.partition(":")[2] for line in lines if line.startswith("flags"))
    return frozenset(next(of_first, "").split())


def multiplies_bfloat16(flags: Collection[str]) -> bool:
    """Whether a processor with these flags multiplies bfloat16 natively."""
    return not set(NATIVE_BFLOAT16).isdisjoint(flags)
