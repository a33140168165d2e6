"""Commands in processes that were split off: each is the program, with what is its own."""

import os
import signal
import subprocess
import time

import pytest

import warm

pytestmark = pytest.mark.slow


@pytest.fixture
def first(tmp_path):
    """Have Python run this when a command starts; environment for it."""

    def environment(code):
        (tmp_path / "sitecustomize.py").write_text(code)
        return {"PYTHONPATH": str(tmp_path)}

    return environment


def test_a_command_ends_with_its_code_and_says_what_it_says(tmp_path):
    shown = warm.run("cohortvol", "--version", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    wrong = warm.run("cohortvol", "nothing", cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (64, "")
    assert "No such command 'nothing'" in wrong.stderr
    there = warm.run("snakemake", "--cores", "1", cwd=tmp_path)
    assert there.returncode == 1
    assert "No Snakefile found" in there.stderr


def test_folder_and_environment_are_those_of_the_command_alone(tmp_path, first):
    code = "import os, sys; print(os.getcwd(), os.environ['OWN'], *sys.argv)"
    given = {**first(code), "OWN": "a word"}
    words = "cohortvol", "--version"
    said = warm.run(*words, cwd=tmp_path, environment=given).stdout
    assert said.startswith(f"{tmp_path} a word ")
    assert "cohortvol --version\n" in said
    assert "word" not in warm.run(*words, cwd=tmp_path).stdout


def test_a_command_that_is_killed_has_the_code_that_a_shell_gives_it(tmp_path, first):
    killed = first("import os; os.kill(os.getpid(), 9)")
    assert warm.run("cohortvol", "--version", cwd=tmp_path, environment=killed).returncode == 137


def test_a_command_that_nobody_waits_for_is_ended(tmp_path, first):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    words = [warm.programs() / "cohortvol", "--version"]
    environment = {**os.environ, **first(code)}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE) as asked:
        pid = int(asked.stdout.readline())
        asked.send_signal(signal.SIGKILL)
    end = time.monotonic() + 120
    while is_running(pid):
        assert time.monotonic() < end
        time.sleep(0.01)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
