"""What is installed: versions on record, the C library, packages that do not load."""

from __future__ import annotations

import pytest

from cohortvol.compute.installation import differences, libc_needed, loading, versions, wheels
from cohortvol.errors import InstallationError, TemporaryError


def test_what_may_move_a_number_is_on_record():
    found = versions()
    assert {"python", "cohortvol", "numpy", "torch", "pyarrow", "pandas"} <= set(found)
    assert all(found.values())


def test_only_what_is_installed_in_both_places_differs():
    here = {"torch": "2.13.0+cpu", "numpy": "2.4.6", "pandas": "3.0"}
    there = {"torch": "2.13.0+cu130", "numpy": "2.4.6", "libc": "glibc 2.28"}
    assert differences(here, there) == {"torch": ("2.13.0+cpu", "2.13.0+cu130")}


@pytest.mark.parametrize(
    ("tags", "oldest"),
    [
        (["cp311-cp311-manylinux_2_28_x86_64"], (2, 28)),
        (["cp311-cp311-manylinux_2_17_x86_64", "cp311-cp311-manylinux2014_x86_64"], (2, 17)),
        (["py3-none-any"], None),
        (["cp311-cp311-musllinux_1_2_x86_64"], None),
        (["cp311-cp311-manylinux1_x86_64", "cp311-cp311-manylinux_2_5_x86_64"], (2, 5)),
        ([], None),
    ],
)
def test_a_wheel_says_by_its_tags_which_c_library_it_needs(tags, oldest):
    assert libc_needed(tags) == oldest


def test_the_wheels_that_are_installed_here_are_read():
    needed = wheels()
    assert all((2, 5) <= oldest < (3, 0) for oldest in needed.values()), needed


@pytest.mark.parametrize(
    "error",
    [
        ImportError("/lib64/libc.so.6: version `GLIBC_2.28' not found (required by libtorch.so)"),
        ImportError("libcudart.so.13: cannot open shared object file: No such file or directory"),
        OSError("libcublas.so.13: undefined symbol: cublasLtGetStatus"),
        ModuleNotFoundError("No module named 'nnunetv2'", name="nnunetv2"),
    ],
)
def test_a_package_that_does_not_load_is_no_bug_and_is_not_tried_again(error):
    with pytest.raises(InstallationError, match=r"torch cannot be loaded on .*: ") as told:
        with loading("torch"):
            raise error
    assert told.value.exit_code == 64
    assert "Running it again does not help" in str(told.value)


def test_too_little_memory_to_load_is_told_as_that():
    with pytest.raises(TemporaryError, match="too little memory"), loading("torch"):
        raise ImportError("libtorch_cpu.so: failed to map segment from shared object")


def test_a_fault_in_our_own_modules_stays_a_bug():
    with pytest.raises(ImportError), loading("torch"):
        raise ImportError("cannot import name 'x'", name="cohortvol.stages.segment")
