"""Slurm jobs that a killed driver left behind; on a real cluster in tests/slurm."""

from cohortvol.cluster import RUN, cancel_left_over, forget, remember


def test_a_folder_that_no_run_was_killed_in_has_nothing_to_cancel(tmp_path):
    assert cancel_left_over(tmp_path) == 0
    remember(tmp_path, "cohortvol_8b6a")
    forget(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_where_slurm_is_not_there_the_run_goes_on_and_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))
    remember(tmp_path, "cohortvol_8b6a")
    assert cancel_left_over(tmp_path) == 0
    assert "Slurm cannot be asked" in caplog.text
    assert not (tmp_path / RUN).exists()


def test_a_name_that_no_run_has_is_never_given_to_slurm(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))
    remember(tmp_path, "x --user=other")
    assert cancel_left_over(tmp_path) == 0
    assert caplog.text == ""
