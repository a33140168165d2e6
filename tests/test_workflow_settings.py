"""Settings on their way from files and the command line to the commands of the rules."""

from pathlib import Path

import pytest

from cohortvol import config as cohortvol_config
from cohortvol.errors import ConfigError
from cohortvol.tools.train.recipe import Recipe
from cohortvol.workflow.settings import check_files, options, typed, with_typed_values
from cohortvol.workflow.training import checked, recipes_of


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("0.1", 0.1),
        ("true", True),
        ("null", None),
        ("[20, 90]", [20, 90]),
        ("scans.csv", "scans.csv"),
        ({"fdr": "0.1", "name": "x"}, {"fdr": 0.1, "name": "x"}),
        (["1", "liver"], [1, "liver"]),
        (3, 3),
    ],
)
def test_words_of_the_command_line_get_their_types(given, read):
    assert typed(given) == read


def test_a_section_of_the_command_line_changes_what_it_names_alone():
    config = {"analyse": {"fdr": 0.05, "min_n": 20}, "previews": True, "manifest": "a.csv"}
    given = {"analyse": {"fdr": "0.1"}, "previews": "false", "manifest": "12"}
    found = with_typed_values(config, given)
    assert found["analyse"] == {"fdr": 0.1, "min_n": 20}
    assert found["previews"] is False
    assert found["manifest"] == "a.csv"  # Snakemake's own reading of a plain word stands


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"min_slices": 8}, ["--min-slices", "8"]),
        ({"age_range_years": [20, 90.5]}, ["--age-range-years", "20", "90.5"]),
        ({"roi": ["liver", "spleen"]}, ["--roi", "liver", "--roi", "spleen"]),
        ({"previews": True, "hash_ids": False}, ["--previews", "--no-hash-ids"]),
        ({"salt_file": None, "roi": []}, []),
        ({}, []),
    ],
)
def test_a_setting_is_an_option_of_its_command(settings, words):
    assert options(settings) == words


def settings(tmp_path, **changed):
    (tmp_path / "scans.csv").write_text("scan_id,image\n")
    base = cohortvol_config.check({"manifest": str(tmp_path / "scans.csv")}, source="test")
    return {**base, **changed}


def test_files_that_settings_name_are_there(tmp_path):
    check_files(settings(tmp_path))


@pytest.mark.parametrize(
    ("setting", "changed"),
    [
        ("manifest", {"manifest": "none.csv"}),
        ("withdrawals", {"withdrawals": "none.txt"}),
        ("report.planted", {"report": {"planted": "none.csv"}}),
        ("measure.plausible_ml", {"measure": {"plausible_ml": "none.tsv"}}),
    ],
)
def test_a_file_that_is_not_there_is_named_with_its_setting(tmp_path, setting, changed):
    base = settings(tmp_path)
    whole = {
        name: {**base[name], **value} if isinstance(value, dict) else value
        for name, value in changed.items()
    }
    with pytest.raises(ConfigError, match=rf"^{setting}: no such file: none"):
        check_files({**base, **whole})


def test_two_models_are_compared_by_label_maps_that_are_kept(tmp_path):
    base = settings(tmp_path, keep_label_maps=False)
    with pytest.raises(ConfigError, match="label maps are compared, and keep_label_maps is false"):
        check_files({**base, "agreement": {**base["agreement"], "model": "other"}})


def test_settings_of_a_training_are_named_where_they_are_wrong():
    with pytest.raises(ConfigError) as raised:
        checked({"recipie": "x.yaml", "device": "gpu"})
    told = str(raised.value)
    assert "--config recipie: no such setting; did you mean 'recipe'?" in told
    assert "--config recipe=FILE" in told
    assert "--config device=gpu: it is cuda or cpu" in told


def test_a_recipe_stands_under_the_id_of_its_model():
    found = recipes_of(str(Path(__file__).parents[1] / "models" / "embedded-v2.yaml"))
    assert list(found) == ["embedded-v2"]
    variant, recipe = found["embedded-v2"]
    assert variant is None
    assert isinstance(recipe, Recipe)
    assert recipes_of(None) == {}
