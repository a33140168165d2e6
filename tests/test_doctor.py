"""`cohortvol doctor`: packages, GPUs and models are looked at, and a finding says what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cohortvol.cli.doctor import _torch
from cohortvol.errors import InstallationError, ModelError
from cohortvol.models.card import load_card
from cohortvol.models.networks import devices
from cohortvol.tools.doctor import (
    Finding,
    Verdict,
    examine,
    exit_code,
    gpu,
    model,
    render,
    software,
    tell,
)
from fake_programs import programs_in

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
    return programs_in(tmp_path / "bin", monkeypatch)


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


def test_a_model_is_verified_and_asked_what_it_said_when_it_was_imported(tmp_path):
    def here():
        return SimpleNamespace(device="cpu", numerics={"precision": "float32"})

    card = load_card(EMBEDDED)
    assert verdict(model.files(card)) == "PASS"
    assert verdict(model.canary(card, here)) == "PASS"
    folder = shutil.copytree(EMBEDDED, tmp_path / "embedded-v2")
    raw = json.loads((folder / "card.json").read_text())
    raw["parts"][0]["canary"] = {}
    (folder / "card.json").write_text(json.dumps(raw))
    silent = load_card(folder)
    assert verdict(model.canary(silent, here)) == "WARN"


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
