"""Benchmarks reach into the code by name: that what they name is still there."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def test_the_clock_of_a_warm_scan_finds_its_stages(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import warm_scan

    for owner, name in warm_scan.STAGES.values():
        assert callable(getattr(owner, name))
    assert callable(warm_scan.nnunet.PartNetwork._network)
