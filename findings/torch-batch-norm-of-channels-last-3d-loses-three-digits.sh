#!/usr/bin/env bash
# torch on a CPU: batch normalisation of a large volume in channels_last_3d is a thousand times less exact.
#
# Expected: memory_format=torch.channels_last_3d changes how a tensor lies in memory and with it the
# order of sums, so that results differ in the last digit of float32, as they do for convolutions.
# Seen (torch 2.13.0, CPU, float32, x86-64 with AVX2): batch_norm with statistics of the batch, on 1.2
# million voxels per channel, is off from float64 by 1.3e-4 (root mean square, where the result has a
# spread of 1) in channels_last_3d, and by 8e-8 in the usual layout; 1.5e-5 with 262,144 voxels, so it
# grows with the volume, as a sum does that adds one voxel after the other in float32. instance_norm of
# the very same tensor, which computes the same numbers, is as exact in both layouts. A network that is
# turned to channels_last_3d for speed changes labels for this reason, and not for its convolutions.
# Exits 1 where this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.nn.functional import batch_norm, instance_norm

torch.manual_seed(0)
print("torch", torch.__version__)


def off(function, voxels, layout):
    """Root mean square difference from float64."""
    exact = instance_norm(voxels.double(), eps=1e-5)
    found = function(voxels.contiguous(memory_format=layout))
    return float((found.double() - exact).square().mean().sqrt())


def batch(voxels):
    return batch_norm(voxels, None, None, training=True, eps=1e-5)


def instance(voxels):
    return instance_norm(voxels, eps=1e-5)


ratios = []
for shape in ((1, 8, 64, 64, 64), (1, 8, 96, 112, 112)):
    voxels = 3 * torch.randn(shape) + 7
    usual, last = torch.contiguous_format, torch.channels_last_3d
    for function in (batch, instance):
        a, b = off(function, voxels, usual), off(function, voxels, last)
        print(f"{shape} {function.__name__:8} usual {a:.1e}  channels_last_3d {b:.1e}  ratio {b / a:.0f}")
        ratios.append(b / a)
as_described = ratios[0] > 50 and ratios[2] > 500 and max(ratios[1], ratios[3]) < 2
print("as described" if as_described else "changed")
raise SystemExit(not as_described)
PYTHON
