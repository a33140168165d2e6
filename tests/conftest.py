"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell has what it starts in the background ignore Ctrl-C, and so would the processes that
    # the tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with most slow tests first, those of the workflow before all others.

    A worker of ``make test`` takes file after file in this order, so that at the end none is left
    with minutes of work alone.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.path.parent.name != "workflow", -slow[item.path]))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real scans: ``COHORTVOL_TEST_DATA``, else ``../shared/data``; skips without."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("COHORTVOL_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real scans at {folder}; COHORTVOL_TEST_DATA names their folder")
    return folder
