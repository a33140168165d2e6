"""Rules, package and study in versions that do not fit are refused, with what to do."""

from __future__ import annotations

import pytest

from cohortvol import __version__
from cohortvol.shipped import path_of
from cohortvol.workflow import versions


def test_rules_of_the_package_pass_and_others_end_the_process(capsys):
    versions.check_rules(of=__version__)
    with pytest.raises(SystemExit) as ended:
        versions.check_rules(of="9.9.9")
    assert ended.value.code == 64
    told = capsys.readouterr().err
    assert f"rules are of cohortvol 9.9.9, the package installed is {__version__}" in told
    assert "pip install -e ." in told


def test_a_study_of_an_older_version_goes_on_and_one_of_a_newer_version_is_refused(capsys):
    for study in ("0.0.1", __version__):
        assert versions.workflow_for(study) == str(path_of("workflow/cohort.smk"))
    with pytest.raises(SystemExit) as ended:
        versions.workflow_for("9.9.9")
    assert ended.value.code == 64
    assert "pip install 'cohortvol>=9.9.9'" in capsys.readouterr().err
