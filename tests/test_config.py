"""The configuration is strict, and a mistake is answered with the right name."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from cohortvol import config
from cohortvol.errors import USAGE, ConfigError
from cohortvol.stages.ingest import Rules

REPOSITORY = Path(__file__).resolve().parents[1]


def settings_of(part):
    for name, setting in part["properties"].items():
        yield name, setting
        if "properties" in setting:
            yield from settings_of(setting)


def test_the_shipped_config_holds_every_setting_at_its_default():
    shipped = config.read_yaml(REPOSITORY / "config" / "config.yaml")
    assert shipped == config.defaults()


def test_every_setting_has_a_default_and_says_what_is_allowed():
    for name, setting in settings_of(config.schema()):
        assert "default" in setting, name
        assert setting["description"], name


def test_every_setting_of_the_shipped_config_is_explained_above_it():
    lines = (REPOSITORY / "config" / "config.yaml").read_text().splitlines()
    for before, line in pairwise(lines):
        name = line.strip().split(":")[0]
        if not line.strip() or line.lstrip().startswith("#") or name in ("F", "M"):
            continue
        assert before.lstrip().startswith("#"), f"{name} has no comment"


def test_the_limits_of_ingest_have_the_defaults_of_the_schema():
    assert Rules.from_config(config.defaults()["ingest"]) == Rules()


def test_workflow_and_package_share_one_schema():
    linked = REPOSITORY / "workflow" / "schemas" / "config.schema.json"
    assert linked.resolve() == REPOSITORY / "src" / "cohortvol" / "config.schema.json"


def test_missing_settings_get_their_defaults_and_the_argument_is_left_alone():
    given = {"ingest": {"min_slices": 5}, "report": None}
    checked = config.check(given)
    assert checked["ingest"]["min_slices"] == 5
    assert checked["ingest"]["max_voxels"] == 250_000_000
    assert checked["report"] == config.defaults()["report"]
    assert checked["report"]["sheet_flagged"] == 24
    assert given == {"ingest": {"min_slices": 5}, "report": None}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shard_sise": 8}, "unknown setting 'shard_sise'; did you mean 'shard_size'?"),
        (
            {"segment": {"profle": "x"}},
            "unknown setting 'segment.profle'; did you mean 'profile'?",
        ),
        ({"min_slices": 8}, "unknown setting 'min_slices'; did you mean 'ingest.min_slices'?"),
        ({"shard_size": "many"}, "shard_size is 'many'; it must be a whole number"),
        ({"shard_size": 0}, "shard_size is 0; it must be a whole number"),
        ({"bad_rows": "drop"}, "bad_rows is 'drop'; it must be refuse or quarantine"),
        ({"sex_codes": {1: "male"}}, "sex_codes.1 is 'male'; it must be F, M or null"),
        ({"age_range_years": [90, 18]}, "age_range_years is [90, 18]; it must be two numbers"),
        ({"age_range_years": [18]}, "age_range_years is [18]; it must be two numbers"),
        ({"segment": {"device": "gpu"}}, "segment.device is 'gpu'; it must be auto, cpu, cuda"),
        ({"bids": {"suffix": "T2w"}}, "bids.suffix is 'T2w'; it must be a list of suffixes"),
        ({"bids": {"entities": {"run": 1}}}, "bids.entities.run is 1; it must be a list of labels"),
        ({"bids": {"entities": {"run": [1.5]}}}, "bids.entities.run.0 is 1.5; it must be a label"),
        ({"bids": {"acq": ["x"]}}, "unknown setting 'bids.acq'"),
        ({"hash_ids": "yes"}, "hash_ids is 'yes'; it must be true or false"),
        ({"ingest": 8}, "ingest is 8; it must be a group of settings"),
        *[
            (
                {"results": f"results/{text}"},
                f"results is {f'results/{text}'!r}; it must be the path of the output folder, ",
            )
            for text in (
                "{",
                "}",
                "{scan}",
                "<",
                ">",
                "<results>",
                "a\nb",
                "a\tb",
                "a\0b",
                "\x1b[2J",
            )
        ],
        ({"report": {"planted": "{x}.csv"}}, "report.planted is '{x}.csv'; it must be the path of"),
    ],
)
def test_a_mistake_names_the_setting_and_what_is_allowed(given, message):
    with pytest.raises(ConfigError) as raised:
        config.check(given, source="config/config.yaml")
    assert str(raised.value).startswith("config/config.yaml: ")
    assert message in str(raised.value)
    unknown = message.startswith("unknown setting")
    assert str(raised.value).endswith(" (CFG_UNKNOWN_KEY)" if unknown else " (CFG_INVALID)")
    assert raised.value.exit_code == USAGE


def test_all_mistakes_are_reported_at_once():
    with pytest.raises(ConfigError) as raised:
        config.check({"shard_sise": 1, "bad_rows": "drop", "ingest": {"max_voxels": -1}})
    assert len(str(raised.value).splitlines()) == 3


def write(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_setting_that_stands_twice_is_refused_with_its_line(tmp_path):
    path = write(tmp_path, "shard_size: 8\nmodel: a\nshard_size: 64\n")
    with pytest.raises(ConfigError, match="line 3 setting 'shard_size' stands here a second time"):
        config.load(path)
    nested = write(tmp_path, "ingest:\n  min_slices: 8\n  min_slices: 9\n")
    with pytest.raises(ConfigError, match=r"line 3 setting 'min_slices'.*\(CFG_DUPLICATE_KEY\)$"):
        config.load(nested)


def test_yaml_is_read_by_its_current_version(tmp_path):
    path = write(tmp_path, "sex_codes: {no: F, 0123: M}\nreport: {title: 1:30}\nshard_size: 012\n")
    checked = config.load(path)
    assert checked["sex_codes"] == {"no": "F", "123": "M"}
    assert checked["report"]["title"] == "1:30"
    assert checked["shard_size"] == 12


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir [ran]", "!!python/name:os.mkdir"])
def test_a_tag_that_would_run_code_is_refused_and_does_not_run(tmp_path, monkeypatch, tag):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="line 1 could not determine a constructor"):
        config.load(write(tmp_path, f"model: {tag}\n"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["a: [1", "- a\n- b", "\tx: 1"])
def test_a_file_that_is_no_yaml_of_settings_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        config.load(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        config.load(tmp_path / "nowhere.yaml")


def test_an_empty_file_means_all_defaults(tmp_path):
    assert config.load(write(tmp_path, "# nothing set\n")) == config.defaults()


@pytest.mark.parametrize(
    "text", ["with space", "ü", "a'b", 'a"b', "$HOME", "a;b", "-x", "a*b[1]", "%s"]
)
def test_other_characters_of_a_path_are_taken_as_they_are(text):
    assert config.check({"results": text, "manifest": text})["results"] == text


def test_every_path_that_a_rule_reads_or_writes_is_kept_from_what_snakemake_takes_for_its_own():
    """A path in ``{...}`` is a wildcard to it, one in ``<...>`` a variable."""

    def paths(part, at=""):
        for name, setting in part["properties"].items():
            yield from (
                paths(setting, f"{at}{name}.")
                if "properties" in setting
                else [(f"{at}{name}", setting)]
            )

    kept = {
        name for name, setting in paths(config.schema()) if "{}<>" in setting.get("pattern", "")
    }
    assert kept == {
        "manifest", "results", "decisions", "withdrawals", "measure.plausible_ml",
        "agreement.results", "analyse.literature", "report.planted", "model", "models_dir",
    }  # fmt: skip
