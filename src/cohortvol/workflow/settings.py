"""Settings of a run: read from files and ``--config``, in their types; options of commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snakemake.utils import update_config

from cohortvol.config import check, here, read_yaml
from cohortvol.errors import ConfigError
from cohortvol.workflow import engine

JSON_WORDS = ("true", "false", "null")


def settings_of(workflow: Any) -> dict[str, Any]:
    """The whole configuration of a run, checked.

    Files are read again, as Snakemake reads them by the rules of YAML 1.1, to which `no` is False
    and `012` is ten.

    Raises
    ------
    ConfigError
        Naming the file and the settings in it that cannot be used.
    """
    config: dict[str, Any] = {}
    for path in engine.config_files(workflow):
        settings = read_yaml(path)
        check(settings, source=str(path))
        update_config(config, settings)
    given = engine.given_settings(workflow)
    update_config(config, given)
    return check(with_typed_values(config, given), source="--config")


def typed(value: Any) -> Any:
    """A value of ``--config 'analyse={fdr: 0.1}'``, in which Snakemake leaves all words as text."""
    if isinstance(value, dict):
        return {name: typed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return value


def with_typed_values(config: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The config with what was given on the command line in its right types."""
    sections = {
        name: {**(config[name] or {}), **typed(value)}
        for name, value in given.items()
        if isinstance(value, dict)
    }
    words = {name: typed(value) for name, value in given.items() if value in JSON_WORDS}
    return {**config, **sections, **words}


def check_files(config: Mapping[str, Any]) -> None:
    """Raise ConfigError unless every file that a setting names is there, and fits the others."""
    for setting in (
        *("manifest", "decisions", "withdrawals"),
        *("measure.plausible_ml", "analyse.literature", "report.planted"),
    ):
        section, _, name = setting.rpartition(".")
        path = (config[section] if section else config)[name]
        if path is not None:
            _check_exists(path, setting)
    if other := config["agreement"]["model"]:
        if not config["keep_label_maps"]:
            raise ConfigError(
                "agreement.model: label maps are compared, and keep_label_maps is false"
            )
        _check_exists(f"{other_results(config)}/measure/{other}", "agreement.model")


def _check_exists(path: str, setting: str) -> None:
    if not Path(path).exists():
        raise ConfigError(
            f"{setting}: no such file: {path}\n"
            f"  Name it with `{setting}` in {here()}, or on the command line:\n"
            "  snakemake --cores 2 --config manifest=my/scans.csv results=results/mine"
        )


def other_results(config: Mapping[str, Any]) -> str:
    """The results folder in which the model to compare with was run."""
    return str(config["agreement"]["results"] or config["results"])


def options(settings: Mapping[str, Any]) -> list[str]:
    """Settings as command-line options: ``{"min_slices": 8}`` is ``["--min-slices", "8"]``.

    A range stands after its option as two values; an option of a list of names is repeated; a
    switch that is off is ``--no-...``. None and an empty list leave it out.
    """
    words: list[str] = []
    for name, value in settings.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            words += [word for item in value for word in (option, item)]
        elif isinstance(value, list):
            words += [option, *map(str, value)]
        elif isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-"))
        elif value is not None:
            words += [option, str(value)]
    return words
