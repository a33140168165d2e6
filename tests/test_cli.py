"""The command line: help that teaches, short errors, and the exit codes of the design."""

import json
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import typer

from cohortvol import cli, config
from cohortvol.errors import CohortvolError, InUseError, TemporaryError
from cohortvol.store.schemas import SHARD
from cohortvol.store.tables import append_rows, write_table
from nifti_files import nifti, saved

COHORTVOL = Path(sys.executable).with_name("cohortvol")


def commands(group=None, before=()):
    """Every command as its words, such as ("models", "list"), and what Typer made of it."""
    for name, command in (group or typer.main.get_command(cli.app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*before, name))
        else:
            yield (*before, name), command


COMMANDS = dict(commands())


def examples(command):
    """The command lines shown in the help of a command, as lists of words."""
    shown = re.findall(r"\[dim\](.*?)\[/\]", command.help, re.S)
    lines = "\n".join(shown).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


def options(command):
    """Parameters of a command by option, such as ``--shard-size``."""
    given = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    return {name: option for option in given for name in (*option.opts, *option.secondary_opts)}


def test_every_stage_of_the_flow_is_a_command():
    flow = ["manifest", "ingest", "segment", "measure", "assemble", "analyse", "report"]
    before = len(cli.PANELS["A study"])
    assert [name for (name, *_) in COMMANDS][before : before + len(flow)] == flow


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_help_of_a_command_shows_an_example_that_the_command_takes(words):
    command = COMMANDS[words]
    lines = examples(command)
    assert lines, "no example"
    for line in lines:
        assert line[: len(words) + 1] == ["cohortvol", *words]
        assert {word for word in line if word.startswith("--")} <= set(options(command))
    needed = {name for name, option in options(command).items() if option.required}
    assert needed <= set(lines[0])


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_help_of_a_command_is_shown_without_running_it(words, capsys):
    assert cli.run([*words, "--help"]) == 0
    assert "Example:" in capsys.readouterr().out


def defaults_of(stage):
    """Defaults of the options of a stage, a range or list of names as a list."""
    found = {name: option.default for name, option in options(COMMANDS[stage,]).items()}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in found.items()}


@pytest.mark.parametrize("section", ["ingest", "analyse"])
def test_every_setting_of_a_section_is_an_option_with_the_same_default(section):
    found = defaults_of(section)
    settings = config.defaults()[section]
    settings.pop("watch", None)  # of the workflow, which looks at images before a stage runs
    for name, value in settings.items():
        given = found[f"--{name.replace('_', '-')}"]
        assert (given or []) == value if isinstance(value, list) else given == value, name


def test_manifest_settings_are_options_with_the_same_default():
    found, settings = defaults_of("manifest"), config.defaults()
    assert found["--shard-size"] == settings["shard_size"]
    assert found["--bad-rows"] == settings["bad_rows"]
    assert found["--age-range-years"] == settings["age_range_years"]
    assert config.check({"bids": json.loads(found["--bids"])})["bids"] == settings["bids"]
    assert found["--hash-ids"] is settings["hash_ids"]
    assert found["--salt-file"] is settings["salt_file"]


@pytest.mark.parametrize("stage", ["manifest", "assemble", "analyse", "evaluate"])
def test_ages_have_one_range_by_default(stage):
    assert defaults_of(stage)["--age-range-years"] == config.defaults()["age_range_years"]


def test_help_loads_nothing_heavy():
    script = (
        "import sys; from cohortvol import cli; code = cli.run(['--help']);"
        "heavy = {'pandas', 'pyarrow', 'numpy', 'torch', 'matplotlib', 'nibabel', 'yaml'};"
        "print('LOADED', code, *sorted(heavy & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert shown.stdout.splitlines()[-1] == "LOADED 0"


@pytest.mark.parametrize(
    "words",
    [
        ["measur"],
        ["measure", "--oout", "x"],
        ["measure"],
        ["manifest", "--manifest", "m.csv", "--results", "r", "--bad-rows", "ignore"],
        ["manifest", "--manifest", "m.csv", "--results", "r", "--sex-codes", "F=F"],
        ["manifest", "--manifest", "m.csv", "--results", "r", "--bids", "{"],
        ["manifest", "--manifest", "m.csv", "--results", "r", "--bids", '{"sufix": []}'],
        ["simulate", "--tables-only"],
        ["models", "import", "x", "--id", "a", "--licence", "CC0", "--rename", "liver"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_a_usage_error(words, capsys):
    assert cli.run(words) == 64
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "word", "allowed"),
    [
        ("stations", "foo", "compose, refuse, or the number of stations that every scan has"),
        ("stations", "0", "compose, refuse, or the number of stations that every scan has"),
        ("phase", "first", "the number of a phase, 1 being the first, last, or null for any"),
        ("contrast", "some", "any, with or without"),
        ("plane", "oblique", "axial, coronal or sagittal"),
    ],
)
def test_a_word_that_ingest_does_not_know_is_told_with_those_it_does(option, word, allowed, capsys):
    assert cli.run(["ingest", "--shard", "s", "--out", "o", f"--{option}", word]) == 64
    told = capsys.readouterr().err
    value = repr(int(word) if word.isdecimal() else word)
    assert f"ingest.{option}" in told
    assert f" is {value}; it must be {allowed}" in told


def test_a_missing_model_is_a_short_message_that_lists_what_there_is(tmp_path, capsys):
    assert cli.run(["models", "verify", "embeded", "--models-dir", str(tmp_path)]) == 64
    message = capsys.readouterr().err
    assert message.startswith("cohortvol models: no model 'embeded'")
    assert "Traceback" not in message


def stage_that_raises(monkeypatch, error):
    """Make `cohortvol assemble` raise this error."""

    def run(*_, **__):
        raise error

    monkeypatch.setattr("cohortvol.stages.assemble.run", run)
    return ["assemble", "--results", "r", "--model", "m"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CohortvolError("sub-01: too short\n  12 slices"), 64),
        (InUseError("r: process 7 is there"), 73),
        (TemporaryError("r: no space left"), 75),
    ],
)
def test_an_error_to_act_on_is_printed_with_its_stage_and_gives_its_exit_code(
    monkeypatch, capsys, error, code
):
    error.add_note("shard 0003")
    assert cli.run(stage_that_raises(monkeypatch, error)) == code
    assert capsys.readouterr().err == f"cohortvol assemble: {error}\n  shard 0003\n"


def test_a_bug_in_a_job_leaves_places_in_the_log_but_no_text_that_may_name_a_person(
    monkeypatch, capsys
):
    assert cli.run(stage_that_raises(monkeypatch, KeyError("/data/Doe^Jane.nii"))) == 70
    log = capsys.readouterr().err
    assert re.search(r"test_cli\.py:\d+ in ", log)
    assert "Doe" not in log
    assert "/" not in log
    short = log[log.index("cohortvol assemble: this is a bug") :].splitlines()
    assert re.search(r": KeyError [0-9a-f]{12}$", short[0])
    assert len(short) == 2


def test_a_bug_in_a_job_is_told_in_full_when_asked(monkeypatch, capsys):
    arguments = stage_that_raises(monkeypatch, ZeroDivisionError("1 / 0"))
    assert cli.run(["-v", *arguments]) == 70
    log = capsys.readouterr().err
    assert "Traceback (most recent call last)" in log
    assert "ZeroDivisionError: 1 / 0" in log


def test_a_bug_on_a_terminal_prints_no_traceback_but_says_where_it_is(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert cli.run(stage_that_raises(monkeypatch, ZeroDivisionError("1 / 0"))) == 70
    message = capsys.readouterr().err
    assert "Traceback (most" not in message
    log = Path(re.search(r"The traceback is in (\S+\.log)\.", message)[1])
    assert "ZeroDivisionError" in log.read_text(encoding="utf-8")
    log.unlink()


JOB = """
import sys
from cohortvol import cli
from cohortvol.stages import ingest
def crash(*_):
    words = "no such person CANARY^JANE", "/data/CANARY/scan.nii"
    raise OSError(int(sys.argv[2]), *words) if sys.argv[2] != "0" else KeyError(*words)
setattr(ingest, sys.argv[1], crash)
sys.exit(cli.run(sys.argv[3:]))
"""


@pytest.mark.parametrize(
    ("broken", "number", "code", "told"),
    [
        ("check_voxels", 5, 0, r"OSError [0-9a-f]{12}"),
        ("write_table", 0, 70, r"KeyError [0-9a-f]{12}"),
        ("write_table", 5, 75, "a file: the storage is at fault [(]Input/output error[)]"),
        ("write_table", 13, 64, "a file: this account may not use it [(]Permission denied[)]"),
    ],
    ids=["one scan", "the stage", "the storage", "rights"],
)
def test_the_log_of_a_job_that_crashes_holds_no_text_of_the_crash(
    tmp_path, broken, number, code, told
):
    image = saved(tmp_path, nifti(), "CANARY^JANE.nii")
    shard, out = tmp_path / "0000.parquet", tmp_path / "out.parquet"
    rows = [{"scan_id": "s1", "image": str(image)}, {"scan_id": "s2", "image": "/CANARY/no.nii"}]
    write_table(shard, append_rows(rows, SHARD), SHARD)
    with (tmp_path / "job.log").open("w") as log:
        words = [broken, str(number), "ingest", "--shard", shard, "--out", out]
        done = subprocess.run([sys.executable, "-c", JOB, *words], stderr=log)
    said = (tmp_path / "job.log").read_text()
    assert done.returncode == code
    assert "CANARY" not in said
    assert str(tmp_path) not in said
    assert re.search(told, said), said
    assert (code in (64, 75)) != bool(re.search(r"\S+\.py:\d+ in \w+", said)), said
    if code == 0:
        assert pd.read_parquet(out)["reason"].tolist() == ["BUG_UNEXPECTED", "SRC_MISSING"]


@pytest.mark.slow
def test_what_is_written_is_not_for_every_user_of_the_machine(tmp_path):
    (tmp_path / "scans.csv").write_text("scan_id,image\ns1,/data/Doe_Jane.nii\n")
    words = ["manifest", "--manifest", "scans.csv", "--results", "results"]
    for _ in range(2):
        done = subprocess.run([COHORTVOL, *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "SEC_WORLD_READABLE" not in done.stderr
    places = [tmp_path / "results", *(tmp_path / "results").rglob("*")]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in places}
    assert all(mode & 0o007 == 0 for mode in modes.values()), modes
    assert modes["scans.parquet"] == modes["0000.parquet"] == 0o600  # they hold paths of images
    assert modes["index.tsv"] == 0o640


def test_the_installed_command_ends_with_the_exit_code_and_the_version():
    shown = subprocess.run([COHORTVOL, "--version"], capture_output=True, text=True)
    assert (shown.returncode, shown.stdout) == (0, f"cohortvol {cli.__version__}\n")
    wrong = subprocess.run([COHORTVOL, "nothing"], capture_output=True, text=True)
    assert wrong.returncode == 64


def test_every_command_of_a_rule_is_a_job_whose_log_names_no_file():
    rules = Path(__file__).parents[1].glob("workflow/rules/*.smk")
    commands = {
        name.replace("-", "_")
        for path in rules
        for name in re.findall(r"exec cohortvol ([\w-]+)", path.read_text())
    }
    assert commands == cli.JOBS
