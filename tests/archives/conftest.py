"""What the tests of archives share: a place for members that is left empty, and a session."""

from __future__ import annotations

import tempfile

import pytest

from archive_fixture import write_session


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Where members are laid; empty after every test."""
    place = tmp_path / "scratch"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place
    assert list(place.iterdir()) == []


@pytest.fixture
def session(tmp_path):
    return write_session(tmp_path / "session")
