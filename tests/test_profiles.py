"""Profiles of Snakemake: found as it finds them, and put together as it puts them."""

from __future__ import annotations

import pytest
import yaml

from cohortvol.compute import profiles
from cohortvol.errors import ConfigError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "site"))

    def put(folder, name="config.yaml", **settings):
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(settings))
        return path

    return put


def test_a_profile_is_found_here_then_at_home_then_of_the_site(here):
    of_site = here("site/snakemake/mine", jobs=1)
    assert profiles.find("mine").samefile(of_site)
    at_home = here("home/snakemake/mine", jobs=2)
    assert profiles.find("mine").samefile(at_home)
    nearest = here("mine", jobs=3)
    assert profiles.find("mine").samefile(nearest)
    assert profiles.find(str(at_home)).samefile(at_home)
    assert profiles.find("nowhere") is None


def test_of_several_files_the_one_for_the_newest_snakemake_is_read(here):
    here("mine", jobs=1)
    newest = here("mine", "config.v9+.yaml", jobs=9)
    here("mine", "profile.v8+.yaml", jobs=8)
    here("mine", "config.v99+.yaml", jobs=99)
    assert profiles.find("mine").samefile(newest)


def test_snakemake_itself_finds_the_same(here):
    from snakemake.cli import get_profile_dir

    here("mine", jobs=1)
    here("mine", "config.v9+.yaml", jobs=9)
    here("mine", "profile.v8+.yaml", jobs=8)
    assert profiles.find("mine").samefile(get_profile_dir("mine")[1])


def test_a_later_profile_replaces_a_key_as_a_whole_and_the_default_one_wins(here):
    segment = {"gpu": 1, "slurm_extra": "'--signal=TERM@120'"}
    here("a", executor="slurm", **{"set-resources": {"segment": segment}, "keep-going": False})
    here("b", **{"set-resources": {"segment": {"slurm_partition": "gpu"}}})
    here("profiles/default", **{"keep-going": True})
    found = profiles.together(["a", "b"])
    assert found["executor"] == "slurm"
    assert found["keep-going"] is True
    assert profiles.by_rule(found) == {"segment": {"slurm_partition": "gpu"}}
    assert not profiles.asks_for_gpu(profiles.by_rule(found)["segment"])
    with pytest.raises(ConfigError, match="no profile 'c'"):
        profiles.together(["a", "c"])


def test_resources_may_stand_as_mappings_or_as_texts():
    as_text = {
        "default-resources": ["mem_mb=2000", "slurm_partition=cpu"],
        "set-resources": ["segment:gpu=1", "segment:slurm_extra='--signal=TERM@120'"],
    }
    assert profiles.defaults_of(as_text) == {"mem_mb": "2000", "slurm_partition": "cpu"}
    assert profiles.by_rule(as_text)["segment"]["slurm_extra"] == "'--signal=TERM@120'"


@pytest.mark.parametrize(
    ("resources", "asks"),
    [
        ({"gpu": 1}, True),
        ({"gpu": "2"}, True),
        ({"gpu": 0}, False),
        ({"gpu": "0"}, False),
        ({}, False),
        ({"gres": "'gpu:a100:1'"}, True),
        ({"gres": "lscratch:10,gpu:1"}, True),
        ({"gres": "lscratch:10"}, False),
    ],
)
def test_a_gpu_is_asked_for_by_number_or_by_name(resources, asks):
    assert profiles.asks_for_gpu(resources) is asks
