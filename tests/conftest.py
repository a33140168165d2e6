"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real scans: ``COHORTVOL_TEST_DATA``, else ``../shared/data``; skips without."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("COHORTVOL_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real scans at {folder}; COHORTVOL_TEST_DATA names their folder")
    return folder
