"""The configuration: read strictly, checked against one schema, defaults filled in."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from cohortvol.errors import ConfigError, did_you_mean


@cache
def _schema() -> dict[str, Any]:
    text = files("cohortvol").joinpath("config.schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def schema() -> dict[str, Any]:
    """The JSON schema of the configuration, with the default and meaning of every setting."""
    return copy.deepcopy(_schema())


def defaults() -> dict[str, Any]:
    """The whole configuration as it is when nothing is set."""
    return check({})


def load(path: Path) -> dict[str, Any]:
    """Read a YAML configuration and `check` it.

    Raises
    ------
    ConfigError
        If the file cannot be read, holds a setting twice, or fails `check`.
    """
    return check(read_yaml(path), source=str(path))


def here() -> Path:
    """The settings of the folder one stands in: of a study, else of a checkout."""
    study = Path("config.yaml")
    return study if study.is_file() else Path("config") / study


def check(config: Mapping[Any, Any], source: str = "config") -> dict[str, Any]:
    """Check a configuration and return it with every missing setting at its default.

    Parameters
    ----------
    config : mapping
        Settings as read from YAML or passed by Snakemake; it is not changed.
    source : str
        Where the settings come from, for the messages.

    Raises
    ------
    ConfigError
        Naming every unknown setting with its nearest known name, and every value that is
        not allowed with what is.
    """
    filled: dict[str, Any] = _filled(_with_text_keys(config), _schema())
    validator = Draft202012Validator(_schema())
    problems = [text for error in validator.iter_errors(filled) for text in _explain(error)]
    if not problems:
        problems = list(_reversed_ranges(filled, _schema()))
        problems += [
            f"analyse.centile_covariates: {name} is not among `covariates`"
            + did_you_mean(name, list(filled["covariates"]))
            for name in filled["analyse"]["centile_covariates"]
            if name not in filled["covariates"]
        ]
        problems += [
            _not_allowed(f"companions.{name}.range", said["range"], _schema()["$defs"]["range"])
            for name, said in filled["companions"].items()
            if said and said.get("range") and said["range"][0] >= said["range"][1]
        ]
    if problems:
        raise ConfigError("\n".join(f"{source}: {problem}" for problem in sorted(problems)))
    return filled


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings by the rules of YAML 1.2, without duplicate keys.

    ``no`` stays a text, ``0123`` is 123, ``1:30`` stays a text: PyYAML's own rules, of YAML
    1.1, would give False, 83 and 90.

    Raises
    ------
    ConfigError
        If the file is missing, is not YAML, or has the same key twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    try:
        value = _StrictLoader(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(f"{path}:{where} {problem}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: must hold settings, one `name: value` per line")
    return value


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc, unused-ignore]
    """SafeLoader with the scalars of YAML 1.2 and without duplicate keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"setting {key.value!r} stands here a second time (CFG_DUPLICATE_KEY)",
                    key.start_mark,
                )
            seen.add(key.value)
        return dict(super().construct_mapping(node, deep))

    def construct_decimal(self, node: yaml.ScalarNode) -> int:
        return int(self.construct_scalar(node))


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_decimal)
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _StrictLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
    )


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_text_keys(item) for item in value]
    return value


def _filled(given: Any, part: dict[str, Any]) -> Any:
    """`given` with the defaults of `part`; an empty section means all of its defaults."""
    if part.get("type") != "object" or "properties" not in part:
        return given
    if given is None:
        given = {}
    if not isinstance(given, dict):
        return given
    filled = {}
    for name, setting in part["properties"].items():
        value = given[name] if name in given else copy.deepcopy(setting["default"])
        filled[name] = _filled(value, setting)
    return filled | {name: value for name, value in given.items() if name not in filled}


def _explain(error: ValidationError) -> Iterator[str]:
    """What is wrong in one place of the configuration, in words."""
    place = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties" and "properties" in error.schema:
        known = error.schema["properties"]
        for name in error.instance:
            if name not in known:
                full = f"{place}.{name}" if place else name
                elsewhere = _home_of(name)
                hint = f"; did you mean {elsewhere!r}?" if elsewhere else did_you_mean(name, known)
                yield f"unknown setting {full!r}{hint} (CFG_UNKNOWN_KEY)"
        return
    wanted = error.schema
    if error.validator == "pattern" and "{}<>" in error.validator_value:
        without = "without { } < > or control characters, which Snakemake takes for its own"
        wanted = {"description": f"{wanted['description']}, {without}"}
    yield _not_allowed(place, error.instance, wanted)


def _not_allowed(place: str, value: Any, schema: Mapping[str, Any]) -> str:
    return f"{place} is {value!r}; it must be {schema['description']} (CFG_INVALID)"


def _home_of(name: str) -> str | None:
    """Dotted name of a setting that exists, but in another section than where it was put."""
    properties = _schema()["properties"]
    if name in properties:
        return name
    for section, part in properties.items():
        if name in part.get("properties", {}):
            return f"{section}.{name}"
    return None


def _reversed_ranges(filled: dict[str, Any], part: dict[str, Any], at: str = "") -> Iterator[str]:
    for name, setting in part["properties"].items():
        value = filled[name]
        if "properties" in setting:
            yield from _reversed_ranges(value, setting, f"{name}.")
        elif setting.get("$ref") == "#/$defs/range" and value[0] >= value[1]:
            yield _not_allowed(f"{at}{name}", value, setting)
