"""`cohortvol doctor`: what is wrong with a machine is found, named, and told what to do about."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cohortvol.cli.doctor import _checks, _torch
from cohortvol.compute import profiles
from cohortvol.errors import InstallationError, ModelError, TableError
from cohortvol.models.card import load_card
from cohortvol.models.networks import devices
from cohortvol.tools import check
from cohortvol.tools.doctor import (
    Finding,
    Verdict,
    examine,
    exit_code,
    gpu,
    model,
    place,
    render,
    slurm,
    software,
    storage,
    tell,
)

REPOSITORY = Path(__file__).resolve().parents[1]
EMBEDDED = REPOSITORY / "models" / "embedded-v2"
COHORTVOL = Path(sys.executable).with_name("cohortvol")
GPU = devices.Gpu("A100", 39 * 2**30, 40 * 2**30)
SMI = "| NVIDIA-SMI 550.54   Driver Version: 550.54.15   CUDA Version: {}  |"


def verdict(finding: Finding) -> str:
    assert finding.says
    assert (finding.what_to_do == "") is (finding.verdict is Verdict.PASS)
    return finding.verdict.value


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Put programs that print a text, or fail where it is None, before all others of the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(**texts: str | None) -> None:
        for name, text in texts.items():
            told = folder / f"{name}.txt"
            told.write_text(text or "")
            command = "exit 1" if text is None else f"exec /bin/cat {told}"
            (folder / name).write_text(f"#!/bin/sh\n{command}\n")
            (folder / name).chmod(0o755)

    return put


def test_every_check_is_run_whatever_becomes_of_the_others():
    def raises(error):
        raise error

    found = examine(
        {
            "known": lambda: raises(ModelError("no model\n  Import\n  one.")),
            "unknown": lambda: raises(KeyError("Jane Doe")),
            "sound": lambda: Finding(Verdict.PASS, "fine"),
        }
    )
    assert found["known"] == Finding(Verdict.FAIL, "no model", "Import one.")
    assert found["unknown"].says.startswith("the check itself broke: KeyError ")
    assert "Jane" not in str(found)
    assert found["sound"].verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("verdicts", "code"), [("PASS", 0), ("PASS WARN SKIP", 0), ("PASS FAIL", 3)]
)
def test_it_ends_with_3_only_where_something_fails(verdicts, code):
    found = {name: Finding(Verdict(name), "x", "y") for name in verdicts.split()}
    assert exit_code(found.values()) == code
    told = tell("node", found)
    assert told["exit_code"] == code
    assert sum(told["counts"].values()) == len(found)


def test_a_finding_is_a_line_and_what_to_do_stands_below_it():
    lines = render("clock", Finding(Verdict.WARN, "7 s " * 30, "Set it."), width=80).splitlines()
    assert lines[0].startswith("WARN  clock")
    assert lines[-1].strip() == "→ Set it."
    assert max(map(len, lines)) <= 80
    assert len(render("x", Finding(Verdict.PASS, "fine")).splitlines()) == 1


def test_an_old_python_fails_and_another_than_the_tests_ran_in_is_told():
    assert verdict(software.python_version((3, 10, 2))) == "FAIL"
    assert verdict(software.python_version((3, 11, 9))) == "PASS"
    assert verdict(software.python_version((3, 13, 0))) == "WARN"


def test_packages_are_compared_with_the_constraints_and_with_what_needs_them():
    pinned = software.pins((REPOSITORY / "constraints.txt").read_text())
    assert software.constraints_file() == REPOSITORY / "constraints.txt"
    there = dict(pinned)
    assert verdict(software.packages(pinned, installed=there)) == "PASS"
    local = software.packages(pinned, installed=there | {"torch": pinned["torch"] + "+cu126"})
    assert verdict(local) == "PASS"
    other = software.packages(pinned, installed=there | {"scipy": "1.16.0"})
    assert verdict(other) == "WARN"
    assert f"scipy 1.16.0 (tested {pinned['scipy']})" in other.says
    unfit = software.packages(pinned, installed=there | {"nnunetv2": "2.5"})
    assert verdict(unfit) == "FAIL"
    assert "unfit: nnunetv2 2.5 (needs <3,>=2.8.1)" in unfit.says
    del there["nibabel"]
    missing = software.packages(pinned, installed=there)
    assert verdict(missing) == "FAIL"
    assert "missing: nibabel" in missing.says


@pytest.mark.parametrize(
    ("build", "gpus", "smi", "given", "expected", "says"),
    [
        ("cuda 12.8", (GPU,), SMI.format("12.4"), False, "PASS", "driver 550.54.15 for CUDA 12.4"),
        ("rocm 6.4", (GPU,), None, False, "PASS", "rocm 6.4"),
        ("cpu", (), None, False, "SKIP", "no GPU here"),
        ("cpu", (), None, True, "WARN", "no driver"),
        ("cpu", (), SMI.format("12.4"), False, "FAIL", "without CUDA, but there is a GPU"),
        ("cuda 13.0", (), SMI.format("12.4"), False, "FAIL", "newer than the driver allows"),
        ("cuda 12.8", (), SMI.format("12.4"), False, "FAIL", "torch sees no GPU"),
        ("cuda 12.8", (), None, True, "FAIL", "no NVIDIA driver answers"),
        ("cuda 12.8", (), "", False, "FAIL", "no NVIDIA driver answers"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_told_with_the_cause(
    build, gpus, smi, given, expected, says
):
    found = gpu.cuda(devices.Torch("2.13.0", build, gpus, ""), smi, given)
    assert verdict(found) == expected
    assert says in found.says
    assert ("(ENV_CUDA)" in found.says) is (expected == "FAIL")


def test_a_card_that_torch_has_no_code_for_fails_though_torch_sees_it():
    codes = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")

    def found(*capabilities):
        gpus = tuple(
            devices.Gpu(f"card {major}", 2**33, 2**34, (major, minor))
            for major, minor in capabilities
        )
        seen = devices.Torch("2.13.0", "cuda 13.0", gpus, "", codes, (13, 0))
        return gpu.cuda(seen, SMI.format("13.0"), False)

    assert verdict(found((8, 0), (9, 0))) == "PASS"
    volta = found((7, 0))
    assert verdict(volta) == "FAIL"
    assert "card 7 has compute capability 7.0: torch 2.13.0 has no code for it" in volta.says
    assert "(ENV_CUDA)" in volta.says
    assert "CUDA 12.6" in volta.what_to_do
    assert verdict(found((8, 0), (7, 0))) == "WARN"


def test_a_torch_that_cannot_be_loaded_is_told_with_the_cause(monkeypatch):
    import builtins

    load = builtins.__import__

    def no_torch(name, *words, **more):
        if name == "cohortvol.models.networks":
            raise ImportError("libcudart.so.13: cannot open shared object file")
        return load(name, *words, **more)

    monkeypatch.setattr(builtins, "__import__", no_torch)
    found = examine({"torch": lambda: gpu.cuda(_torch(), None, False)})["torch"]
    monkeypatch.undo()
    assert found.verdict is Verdict.FAIL
    assert "libcudart.so.13" in found.says
    assert "Running it again does not help" in found.what_to_do


def test_a_c_library_older_than_the_packages_fails():
    needed = {"torch": (2, 28), "numpy": (2, 27), "plain": (2, 5)}
    old = software.libc(needed, "glibc", "2.17")
    assert verdict(old) == "FAIL"
    assert old.says == "glibc 2.17 is too old for numpy, torch (up to 2.28)"
    assert verdict(software.libc(needed, "glibc", "2.28")) == "PASS"
    assert verdict(software.libc({}, "glibc", "2.17")) == "PASS"
    assert verdict(software.libc(needed, "", "")) == "PASS"


def test_a_small_or_busy_gpu_is_told():
    def memory(free, total):
        there = devices.Gpu("T4", free * 2**30, total * 2**30)
        return verdict(gpu.memory(devices.Torch("2", "cuda 12.8", (GPU, there), "")))

    assert [memory(15, 16), memory(1, 16), memory(2, 2)] == ["PASS", "WARN", "WARN"]
    assert verdict(gpu.memory(devices.Torch("2", "cpu", (), ""))) == "SKIP"


def test_nvidia_smi_that_fails_is_not_one_that_is_not_there(programs):
    assert gpu.nvidia_smi() is None
    programs(**{"nvidia-smi": None})
    assert gpu.nvidia_smi() == ""
    programs(**{"nvidia-smi": SMI.format("12.4")})
    assert "550.54.15" in gpu.nvidia_smi()


def test_a_program_that_hangs_is_given_up(programs, tmp_path, monkeypatch):
    from cohortvol.tools.doctor.commands import ask

    programs(sinfo="")
    (tmp_path / "bin" / "sinfo").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    assert ask("sinfo", seconds=0.2) is None


SINFO = (
    "gpu|up|4|1-00:00:00|gpu:a100:2(S:0-1)\ngpu|up|2|1-00:00:00|gpu:a100:4\nold|down|9|1:00|(null)"
)
PROFILE = {"slurm-status-command": "squeue", "seconds-between-status-checks": 10}
AGE = "SlurmctldPort = 6817\nMinJobAge               = {} sec\n"
SLURM = {"sbatch": "", "squeue": "", "scancel": "", "scontrol": AGE.format(300), "sinfo": SINFO}


def test_without_slurm_its_checks_are_left_out(programs):
    assert verdict(slurm.programs({})) == "SKIP"
    assert verdict(slurm.partitions(PROFILE)) == "SKIP"
    assert verdict(slurm.forgotten(PROFILE)) == "SKIP"


def test_half_a_slurm_fails_and_names_what_is_missing(programs):
    programs(sinfo="slurm 23.11")
    found = slurm.programs({})
    assert verdict(found) == "FAIL"
    assert found.says == "sbatch, squeue, scancel, scontrol cannot be found"


def test_a_configuration_that_the_plugin_would_not_see_is_told(programs, tmp_path, monkeypatch):
    programs(**SLURM)
    monkeypatch.setattr(slurm, "SYSTEM_CONFIG", tmp_path / "slurm.conf")
    assert verdict(slurm.programs({"SLURM_CONF": "/opt/slurm.conf"})) == "WARN"
    assert verdict(slurm.programs({})) == "PASS"
    (tmp_path / "slurm.conf").touch()
    assert verdict(slurm.programs({"SLURM_CONF": "/opt/slurm.conf"})) == "PASS"


def test_partitions_are_counted_and_one_that_is_not_there_fails(programs):
    programs(**SLURM)
    found = slurm.partitions(PROFILE)
    assert verdict(found) == "PASS"
    assert "gpu: 6 nodes, at most 1-00:00:00, gpu:a100:2, gpu:a100:4" in found.says
    assert "old: down, 9 nodes" in found.says
    wrong = PROFILE | {"set-resources": {"segment": {"slurm_partition": "gpus"}}}
    assert verdict(slurm.partitions(wrong)) == "FAIL"
    assert "the profile names gpus; there is gpu" in slurm.partitions(wrong).says
    right = PROFILE | {"default-resources": {"slurm_partition": "gpu,old"}}
    assert verdict(slurm.partitions(right)) == "PASS"


@pytest.mark.parametrize(
    ("sinfo", "expected"),
    [("cpu|up|4|infinite|(null)", "WARN"), ("gpu|down|4|infinite|gpu:2", "FAIL"), (None, "FAIL")],
)
def test_a_cluster_without_gpus_or_without_an_answer_is_told(programs, sinfo, expected):
    programs(**SLURM | {"sinfo": sinfo})
    assert verdict(slurm.partitions(PROFILE)) == expected


@pytest.mark.parametrize(
    ("age", "interval", "expected"),
    [(300, 10, "PASS"), (30, 20, "WARN"), (10, 10, "FAIL"), (0, 10, "PASS")],
)
def test_a_job_must_be_seen_before_slurm_forgets_it(programs, age, interval, expected):
    programs(**SLURM | {"scontrol": AGE.format(age)})
    profile = PROFILE | {"seconds-between-status-checks": interval}
    assert verdict(slurm.forgotten(profile)) == expected


def test_of_the_shipped_profile_the_seconds_are_read(programs):
    programs(**SLURM | {"scontrol": AGE.format(5)})
    profile = profiles.together([str(REPOSITORY / "profiles" / "slurm")])
    assert verdict(slurm.forgotten(profile)) == "FAIL"


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("lscratch:800,gpu:a100:4(S:0-1)", ["gpu:a100:4"]),
        ("lscratch:800(S:0,1),gpu:a100:4(S:0,2-3),mps:400", ["gpu:a100:4"]),
        ("gpu:k80:2,gpu:v100:4(S:0-1)", ["gpu:k80:2", "gpu:v100:4"]),
        ("gpu:2(S:0)", ["gpu:2"]),
        ("gpu", ["gpu"]),
        ("gpu(S:0)", ["gpu"]),
        ("gpu:nvidia_a100-sxm4-80gb:4", ["gpu:nvidia_a100-sxm4-80gb:4"]),
        ("gpumem:40,lscratch:800", []),
        ("shard:8,mps:400", []),
        ("(null)", []),
        ("", []),
    ],
)
def test_gpus_are_found_wherever_they_stand_among_the_resources_of_a_node(programs, gres, gpus):
    assert slurm.gpus_of(gres) == gpus
    programs(**SLURM | {"sinfo": f"work|up|4|1-00:00:00|{gres}"})
    found = slurm.partitions(PROFILE)
    assert verdict(found) == ("PASS" if gpus else "WARN")
    assert all(one in found.says for one in gpus)


def with_segment(**resources):
    return PROFILE | {"executor": "slurm", "set-resources": {"segment": resources}}


@pytest.mark.parametrize(
    ("profile", "expected", "says"),
    [
        (with_segment(gpu=1, slurm_extra="'--signal=TERM@120'"), "PASS", "has a GPU"),
        (
            with_segment(gres="'lscratch:9,gpu:a100:1'", slurm_extra="'--signal=B:TERM@120'"),
            "PASS",
            "has a GPU",
        ),
        (with_segment(mem_mb=9500), "WARN", "asks for no GPU and gets no signal"),
        (with_segment(gpu=0, slurm_extra="--signal=TERM@120"), "WARN", "asks for no GPU; it has"),
        (with_segment(gpu=1), "WARN", "segment gets no signal before its time ends; it has gpu: 1"),
        (PROFILE | {"executor": "slurm"}, "WARN", "nothing of its own"),
        (PROFILE, "SKIP", "not for Slurm"),
        (
            with_segment(gpu=1) | {"default-resources": {"slurm_extra": "'--signal=TERM@60'"}},
            "PASS",
            "has a GPU",
        ),
    ],
)
def test_profiles_that_take_the_gpu_or_the_signal_from_segment_are_told(profile, expected, says):
    found = slurm.segment(profile)
    assert verdict(found) == expected
    assert says in found.says


def test_several_profiles_are_judged_by_what_they_make_together(tmp_path):
    site = tmp_path / "mysite" / "config.yaml"
    site.parent.mkdir()
    site.write_text("set-resources: {segment: {slurm_partition: gpu}}\n")
    shipped = str(REPOSITORY / "profiles" / "slurm")

    def of_profiles(*names):
        return _checks(None, "embedded-v2", Path("models"), list(names), "cpu")["profile"]()

    assert verdict(of_profiles(shipped)) == "PASS"
    told = of_profiles(shipped, str(site.parent))
    assert verdict(told) == "WARN"
    assert "asks for no GPU and gets no signal" in told.says
    assert "`gpu: 1`; `slurm_extra: \"'--signal=TERM@120'\"`" in told.what_to_do


def test_a_sound_file_system_passes_and_nothing_is_left_behind(tmp_path):
    found = examine(storage.checks(tmp_path / "not" / "there"))
    assert {verdict(finding) for finding in found.values()} == {"PASS"}
    assert list(tmp_path.iterdir()) == []
    skipped = examine(storage.checks(None)).values()
    assert {verdict(finding) for finding in skipped} == {"SKIP"}


def fails(*_, **__):
    raise OSError(95, "Operation not supported")


def refuses(*_, **__):
    raise PermissionError(1, "Operation not permitted")


def half_written(source, target):
    """A rename as a copy: what file systems do that cannot rename over a file."""
    with open(source, "rb") as old, open(target, "wb") as new:
        while piece := old.read(4096):
            new.write(piece)
            new.flush()
    os.unlink(source)


def opens_anyway(path, flags, mode=0o777, *, opener=os.open, **beside):
    return opener(path, flags & ~os.O_EXCL, mode, **beside)


@pytest.mark.parametrize(
    ("module", "name", "broken", "check_name", "expected"),
    [
        (os, "open", opens_anyway, "exclusive create", "FAIL"),
        (os, "replace", half_written, "atomic rename", "FAIL"),
        (os, "replace", fails, "atomic rename", "FAIL"),
        (os, "link", fails, "hard link", "WARN"),
        (os, "link", refuses, "hard link", "WARN"),
        (os, "link", shutil.copy, "hard link", "WARN"),
        (os, "link", lambda a, b: os.path.exists(b) or os.symlink(a, b), "hard link", "WARN"),
        (os, "fsync", refuses, "fsync", "FAIL"),
        (os, "fsync", fails, "fsync", "FAIL"),
        (fcntl, "flock", fails, "flock", "WARN"),
        (fcntl, "flock", lambda *_: None, "flock", "WARN"),
    ],
)
def test_a_file_system_that_does_not_keep_a_promise_is_found(
    tmp_path, monkeypatch, module, name, broken, check_name, expected
):
    monkeypatch.setattr(module, name, broken)
    found = storage.checks(tmp_path)[check_name]()
    monkeypatch.undo()
    assert verdict(found) == expected
    assert "writable" not in found.what_to_do  # the folder is; it is the file system that refuses
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_file_system(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    found = storage.checks(tmp_path)["fsync"]()
    assert verdict(found) == "FAIL"
    assert found.what_to_do == "Make the folder writable."


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "PASS"), (-3, "WARN"), (90, "WARN"), (301, "FAIL"), (-4000, "FAIL")],
)
def test_clocks_that_are_apart_are_told(seconds, expected):
    assert verdict(place.apart(seconds)) == expected


def test_the_clock_of_the_file_server_is_read_off_a_file(tmp_path, monkeypatch):
    assert verdict(place.clock(tmp_path)) == "PASS"
    own = place.time.time
    monkeypatch.setattr(place.time, "time", lambda: own() - 3600)
    found = place.clock(tmp_path)
    assert verdict(found) == "FAIL"
    assert found.says == "the file server is 3,600 s ahead of this machine"


@pytest.mark.parametrize(
    ("free_gb", "need_gb", "expected"), [(9, 5, "PASS"), (5.5, 5, "WARN"), (4, 5, "FAIL")]
)
def test_what_the_cohort_needs_is_compared_with_the_disk(
    tmp_path, monkeypatch, free_gb, need_gb, expected
):
    disk = SimpleNamespace(f_bavail=free_gb * 1e9, f_frsize=1, f_files=10, f_favail=5000)
    monkeypatch.setattr(place.os, "statvfs", lambda _: disk)
    wanted = check.Remaining(1000, need_gb * 1e9)
    assert verdict(place.space(tmp_path, wanted)) == expected
    assert verdict(place.inodes(tmp_path, wanted)) == "PASS"
    assert verdict(place.inodes(tmp_path, check.Remaining(2000, 0))) == "FAIL"
    disk.f_files = disk.f_favail = 0
    assert verdict(place.inodes(tmp_path, wanted)) == "PASS"
    disk.f_bavail = 1e6
    assert verdict(place.space(tmp_path, None, "not known")) == "FAIL"
    assert verdict(place.space(None, None)) == "SKIP"


def test_what_is_segmented_already_needs_no_space(tmp_path):
    card = load_card(EMBEDDED)
    assert check.remaining(tmp_path, card) is None
    for folder in ("manifest/shards", "ingest", f"segment/{card.id}"):
        (tmp_path / folder).mkdir(parents=True)
    for shard, n_rows in (("0000", 3), ("0001", 4), ("0002", 5)):
        table = pa.table({"scan_id": ["x"] * n_rows})
        pq.write_table(table, tmp_path / "manifest" / "shards" / f"{shard}.parquet")
    grids = {"state": ["ready", "skipped", "ready", "quarantined"]}
    grids |= {"n_i": [10, 99, 1, None], "n_j": [20, 99, 2, None], "n_k": [30, 99, 3, None]}
    for shard in ("0000", "0001"):
        pq.write_table(pa.table(grids), tmp_path / "ingest" / f"{shard}.parquet")
    (tmp_path / "segment" / card.id / "0000.parquet").touch()
    found = check.remaining(tmp_path, card)
    assert found.n_scans == 2 + 5  # of shards 0001, and 0002, whose grids are not known
    assert found.n_bytes == pytest.approx(0.1 * (6000 + 6 + 5 * 320 * 260 * 72))
    (tmp_path / "ingest" / "0001.parquet").write_bytes(b"PAR1")
    with pytest.raises(TableError, match="shard 0001"):
        check.remaining(tmp_path, card)


def test_results_that_everyone_can_read_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(place, "is_world_readable", lambda _: True)
    found = place.readers(tmp_path)
    assert verdict(found) == "WARN"
    assert "(SEC_WORLD_READABLE)" in found.says
    monkeypatch.undo()
    tmp_path.chmod(0o750)
    assert verdict(place.readers(tmp_path)) == "PASS"


def test_home_and_temporary_folder_must_be_writable(tmp_path, monkeypatch):
    assert verdict(place.home({"HOME": str(tmp_path)})) == "PASS"
    assert verdict(place.home({})) == "WARN"
    a_file = tmp_path / "file"
    a_file.touch()
    assert verdict(place.temporary(a_file)) == "FAIL"
    monkeypatch.setattr(Path, "mkdir", fails)
    assert verdict(place.home({"HOME": "/x", "XDG_CACHE_HOME": str(tmp_path)})) == "WARN"
    assert verdict(place.temporary(tmp_path)) == "FAIL"


def test_a_model_is_verified_and_asked_what_it_said_when_it_was_imported(tmp_path):
    card = load_card(EMBEDDED)
    assert verdict(model.files(card)) == "PASS"
    assert verdict(model.canary(card, lambda: SimpleNamespace(device="cpu"))) == "PASS"
    folder = shutil.copytree(EMBEDDED, tmp_path / "embedded-v2")
    raw = json.loads((folder / "card.json").read_text())
    raw["parts"][0]["canary"] = {}
    (folder / "card.json").write_text(json.dumps(raw))
    silent = load_card(folder)
    assert verdict(model.canary(silent, lambda: SimpleNamespace(device="cpu"))) == "WARN"


def test_missing_decoders_are_a_warning_as_nifti_is_read_without_them():
    def missing():
        raise InstallationError("no decoder (X): dcm2niix\n  Install it.")

    found = model.decoders(missing)
    assert verdict(found) == "WARN"
    assert found.what_to_do == "Install it."
    assert verdict(model.decoders(lambda: None)) == "PASS"


def run(*words, **environment):
    return subprocess.run(
        [COHORTVOL, "doctor", *map(str, words)], cwd=REPOSITORY, capture_output=True, text=True,
        env={**os.environ, "PATH": str(COHORTVOL.parent), **environment},
    )  # fmt: skip


@pytest.mark.slow
def test_the_whole_of_it_finds_a_damaged_model_and_leaves_nothing_behind(tmp_path):
    folder = shutil.copytree(EMBEDDED, tmp_path / "models" / "mine")
    weights = next(folder.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    results = tmp_path / "results"
    ended = run("--results", results, "--model", folder, "--json")
    told = json.loads(ended.stdout)
    assert ended.returncode == told["exit_code"] == 3, ended.stderr
    checks = {row["check"]: row for row in told["checks"]}
    assert checks["model files"]["verdict"] == "FAIL"
    assert "(MOD_CHECKSUM)" in checks["model files"]["says"]
    assert all(row["what_to_do"] for row in checks.values() if row["verdict"] != "PASS")
    assert not results.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


@pytest.mark.slow
def test_a_model_that_is_not_there_fails_its_checks_and_no_other():
    ended = run("--model", "total_mr")
    assert ended.returncode == 3, ended.stderr
    failed = [line.split("  ")[1].strip() for line in ended.stdout.splitlines() if "FAIL  " in line]
    assert failed == ["model files", "model canary"]
    assert "cohortvol models fetch total_mr" in ended.stdout
