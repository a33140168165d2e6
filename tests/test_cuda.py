"""Cards that nobody here has, and builds of torch: what goes together, and what an error means."""

from __future__ import annotations

import warnings

import pytest
import torch

from cohortvol.compute.cuda import (
    PUBLISHED,
    Build,
    Card,
    Driver,
    comes_back,
    has_code,
    judge,
    version_of,
)
from cohortvol.errors import ConfigError, InstallationError, ScanError, TemporaryError
from cohortvol.models.networks import devices
from cohortvol.stages.segment import machine

P100, V100, T4 = Card("P100", (6, 0)), Card("V100", (7, 0)), Card("T4", (7, 5))
A100, A40, L4 = Card("A100", (8, 0)), Card("A40", (8, 6)), Card("L4", (8, 9))
H100, B200, RTX5090 = Card("H100", (9, 0)), Card("B200", (10, 0)), Card("RTX 5090", (12, 0))
GTX1080, K80, ORIN = Card("GTX 1080", (6, 1)), Card("K80", (3, 7)), Card("Orin", (8, 7))
GB10, NEXT = Card("GB10", (12, 1)), Card("of years to come", (13, 0))

CU118 = Build(
    "2.3.1+cu118", (11, 8), tuple("sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_37 sm_90".split())
)
CU121 = Build("2.3.1+cu121", (12, 1), tuple("sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90".split()))
CU126 = Build("2.13.0+cu126", (12, 6), PUBLISHED[12, 6])
CU128 = Build("2.10.0+cu128", (12, 8), ("sm_70", *PUBLISHED[12, 9], "compute_120"))
CU130 = Build("2.13.0+cu130", (13, 0), PUBLISHED[13, 0])
CU130_PTX = Build("2.10.0+cu130", (13, 0), (*PUBLISHED[13, 0], "compute_120"))
CPU = Build("2.13.0+cpu", None)
NEW = Driver((580, 95, 5), (13, 0))
BUILDS = [CU118, CU121, CU126, CU128, CU130, CU130_PTX]


@pytest.mark.parametrize(
    ("card", "runs_with"),
    [
        (K80, [CU118]),
        (P100, [CU118, CU121, CU126]),
        (GTX1080, [CU118, CU121, CU126]),
        (V100, [CU118, CU121, CU126, CU128]),
        (T4, BUILDS),
        (A100, BUILDS),
        (A40, BUILDS),
        (L4, BUILDS),
        (H100, BUILDS),
        (B200, [CU128, CU130, CU130_PTX]),
        (RTX5090, [CU128, CU130, CU130_PTX]),
        (GB10, [CU128, CU130, CU130_PTX]),
        (ORIN, []),
        (NEXT, [CU128, CU130_PTX]),  # the driver compiles the PTX
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_card_runs_with_the_builds_that_have_code_for_it(card, runs_with):
    found = [build.version for build in BUILDS if judge(build, card, NEW) is None]
    assert found == [build.version for build in runs_with], card


def test_a_volta_with_a_torch_of_cuda_13_is_told_which_torch_has_code_for_it():
    problem = judge(CU130, V100, NEW)
    assert "V100 has compute capability 7.0: torch 2.13.0+cu130 has no code for it" in problem.says
    assert problem.what_to_do.startswith(
        "Install torch built for CUDA 12.6 (its builds are called cu126)"
    )
    assert "ask for another card" in judge(CU130, K80, NEW).what_to_do


@pytest.mark.parametrize(
    ("build", "driver", "fits"),
    [
        (CU118, Driver((450, 80, 2)), True),
        (CU118, Driver((440, 33)), False),
        (CU121, Driver((525, 60, 13)), True),
        (CU121, Driver((520, 61, 5)), False),
        (CU126, Driver((550, 54, 15), (12, 4)), True),  # of one major version all go together
        (CU126, Driver(None, (12, 0)), True),
        (CU126, Driver(None, (11, 4)), False),
        (CU130, Driver((570, 86), (12, 8)), False),
        (CU130, Driver((580, 65, 6), (13, 0)), True),
        (CU130, Driver((580, 65, 6)), True),
        (CU130, Driver((535, 0), (13, 0)), True),  # a newer libcuda beside an old driver
        (CU130, Driver(), True),  # what is not known speaks against nothing
        (CPU, Driver((340, 1)), True),
    ],
)
def test_a_driver_must_be_of_the_major_version_of_torch(build, driver, fits):
    problem = judge(build, Card("a GPU", None), driver)
    assert (problem is None) is fits, problem
    if problem is not None:
        assert "newer than the driver allows" in problem.says
        assert "Have the driver updated" in problem.what_to_do


def test_ptx_needs_a_driver_that_knows_it():
    assert judge(CU130_PTX, NEXT, Driver(None, (13, 0))) is None
    problem = judge(Build("x", (13, 2), ("compute_120",)), NEXT, Driver(None, (13, 0)))
    assert "has only PTX for it, of CUDA 13.2, which the driver does not know" in problem.says


def test_code_of_one_card_alone_runs_on_no_other():
    assert has_code(["sm_90a"], (9, 0))
    assert not has_code(["sm_100a"], (10, 3))
    assert has_code(["sm_100f"], (10, 3))
    assert not has_code(["sm_80"], (8, 7))  # a board
    assert not has_code(["sm_72"], (7, 5))
    assert judge(Build("x", (13, 0), ("compute_90a",)), H100, NEW) is not None


def test_the_rules_are_those_of_torch_itself():
    ours = {
        (code, card): has_code([f"sm_{code}"], divmod(card, 10))
        for code in torch.cuda.DEVICE_REQUIREMENT
        for card in (50, 52, 60, 61, 70, 75, 80, 86, 89, 90, 100, 103, 120, 121)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = {pair: torch.cuda._code_compatible_with_device(pair[1], pair[0]) for pair in ours}
    assert {pair for pair in ours if ours[pair] != theirs[pair]} == set()


def test_the_builds_we_name_are_those_that_torch_names():
    said = getattr(torch.cuda, "PYTORCH_RELEASES_CODE_CC", None)
    if said is None or torch.__version__.split("+")[0] != "2.13.0":
        pytest.skip("another torch than the table is of")
    found = {
        version_of(cuda): tuple(f"sm_{code}" for code in sorted(by_machine["x86_64"]))
        for cuda, by_machine in said.items()
    }
    assert found == PUBLISHED


LASTING = [
    "CUDA error: no kernel image is available for execution on the device",
    "CUDA error: device kernel image is invalid",
    "CUDA error: the provided PTX was compiled with an unsupported toolchain.",
    "CUDA driver version is insufficient for CUDA runtime version",
    "The NVIDIA driver on your system is too old (found version 11040).",
    "system has unsupported display driver / cuda driver combination",
    "forward compatibility was attempted on non supported HW",
    "cuDNN error: CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH",
    "CUDA error: CUBLAS_STATUS_ARCH_MISMATCH when calling `cublasCreate(handle)`",
    "libcudnn_ops.so.9: cannot open shared object file: No such file or directory",
    "Torch not compiled with CUDA enabled",
]
PASSING = [
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: unspecified launch failure",
    "CUDA error: the launch timed out and was terminated",
    "CUDA error: all CUDA-capable devices are busy or unavailable",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
]


@pytest.mark.parametrize("text", LASTING)
def test_what_comes_back_however_often_it_is_tried_ends_with_64_and_what_to_do(text):
    assert comes_back(text)
    with pytest.raises(InstallationError, match="Running it again does not help") as told:
        with machine.machine_errors():
            raise RuntimeError(text)
    assert told.value.exit_code == 64


@pytest.mark.parametrize("text", PASSING)
def test_what_another_try_may_mend_ends_with_75(text):
    assert not comes_back(text)
    with pytest.raises(TemporaryError) as told, machine.machine_errors():
        raise RuntimeError(text)
    assert told.value.exit_code == 75


def test_a_scan_too_large_is_still_the_scans():
    with pytest.raises(ScanError, match="RUN_HOST_OOM"), machine.machine_errors():
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")


@pytest.fixture
def volta(monkeypatch):
    """A machine with a V100 and the torch of CUDA 13."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(PUBLISHED[13, 0]))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (2**33, 2**34))
    monkeypatch.setattr(devices, "_driver_cuda", lambda: (13, 0))
    for name in devices.GIVEN_BY_SLURM:
        monkeypatch.delenv(name, raising=False)


def test_a_card_without_code_is_refused_before_anything_is_run_on_it(volta, monkeypatch):
    for name in ("cuda", "cuda:0"):
        with pytest.raises(InstallationError, match=r"compute capability 7\.0.*\(ENV_CUDA\)"):
            machine.device_of(name)
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    with pytest.raises(InstallationError, match=r"CUDA 12\.6"):
        machine.device_of("auto")


def test_a_card_that_nobody_asked_for_is_left_alone_and_said_so(volta, caplog):
    assert machine.device_of("auto") == torch.device("cpu")
    assert "Tesla V100 has compute capability 7.0" in caplog.text
    assert "the processors are used" in caplog.text


def test_what_is_seen_of_a_card_is_what_is_judged(volta):
    seen = devices.look()
    assert seen.gpus[0].capability == (7, 0)
    assert "sm_75" in seen.architectures
    assert "has no code for it" in devices.unusable().says


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar 5", (550, 54, 15)),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build",
            (575, 57, 8),
        ),
        ("nothing known", None),
    ],
)
def test_the_driver_is_read_off_what_the_kernel_says(tmp_path, monkeypatch, text, version):
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "version")
    assert devices.driver() == Driver()
    (tmp_path / "version").write_text(text + "\nGCC version: gcc 12.2.0\n")
    assert devices.driver().version == version


def test_a_job_with_a_gpu_behind_an_old_driver_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "version")
    (tmp_path / "version").write_text("NVIDIA UNIX x86_64 Kernel Module  535.54.03  x")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    with pytest.raises(ConfigError, match=r"newer than the driver allows \(driver 535\.54\.3 for"):
        machine.device_of("auto")
