"""In which precision a network is trained on a CPU."""

from __future__ import annotations

import torch


def half_precision_where_native(device: str = "cpu") -> torch.autocast:
    """bfloat16 on a CPU that has AVX-512, of which the later ones multiply it; else no change."""
    native = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.autocast("cpu", torch.bfloat16, enabled=device == "cpu" and native)
