"""Files of a model, which others made: inside its folder, read with bounds, held to a schema.

Light on purpose, like `cohortvol.models.card`: nothing here imports torch or numpy.
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from cohortvol.errors import ModelError

MOST_BYTES = 8 * 2**20
"""Of a card, plans.json or dataset.json; those of published models have some thousand."""
MOST_LEVELS = 32
"""Of lists and objects in one another; nnU-Net's plans have six."""
MOST_DIGITS = 18
"""Of a whole number."""
MOST_VOXELS = 2**25
"""Of a patch: 322 cubed. The largest that nnU-Net plans, for 80 GB, has some 2**24."""
MOST_PROBLEMS = 4
"""Told of one file."""
LONGEST_VALUE = 60

_Validator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer",  # 3.0, too, by the standard; but no index and no size
        lambda _, value: isinstance(value, int) and not isinstance(value, bool),
    ),
)


def inside(folder: Path, name: str) -> Path:
    """The plain file of this name below a folder; one that a link leads out of it is none.

    Raises
    ------
    ModelError
        If it is missing, is no file, or lies elsewhere.
    """
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"{path}: a link leads out of {folder}; copy the file there")
        if not path.is_file():
            what = "is no plain file" if path.exists() else "cannot be read (no such file)"
            raise ModelError(f"{path}: {what}")
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name too long
        raise ModelError(f"{shown(str(path))}: cannot be read ({_why(error)})") from error
    return path


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a plain file, of bounded size and depth, without NaN and equal keys.

    Raises
    ------
    ModelError
        If it is anything else.
    """
    try:
        with open(path, "rb") as stream:
            content = stream.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES:,} bytes")
        value = _json(content)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({_why(error)})") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: not a JSON object")
    return value


def check_header(path: Path) -> None:
    """Raise ModelError unless a safetensors file begins with a header of nnU-Net's 32-bit arrays.

    Whether these are the arrays of the network `cohortvol.models.networks` says; this is read
    before a job starts, where torch need not be.
    """
    try:
        with open(path, "rb") as stream:
            (n_bytes,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))
            if not 0 < n_bytes <= min(MOST_BYTES, path.stat().st_size - 8):
                raise ValueError("its header does not fit in it")
            header = _json(stream.read(n_bytes))
        if not isinstance(header, dict):
            raise ValueError("its header is no object")
        arrays = {name: facts for name, facts in header.items() if name != "__metadata__"}
        for name, facts in arrays.items():
            kind = facts.get("dtype") if isinstance(facts, dict) else None
            if kind != "F32":
                raise ValueError(f"{shown(name, 100)} is of {shown(str(kind))}, not of F32")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: damaged weights (MOD_CORRUPT): {_why(error)}") from error


def _json(content: bytes) -> Any:
    """A value of JSON within bounds; ValueError where it is none."""
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_without_equal_keys,
            parse_int=_countable,
            parse_float=_finite,
            parse_constant=_finite,
        )
        _check_depth(value)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    return value


_TOO_DEEP = f"more than {MOST_LEVELS} lists and objects in one another"


def _why(error: Exception) -> str:
    return shown(str(getattr(error, "strerror", None) or error), 200)


def _without_equal_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"{shown(twice)!r} stands there twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{shown(text)} is no finite number")
    return value


def _countable(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"{shown(text)} has more than {MOST_DIGITS} digits")
    return int(text)


def _check_depth(value: Any) -> None:
    """Raise ValueError for what is nested too deeply, or holds half a character."""
    level = [value]
    for _ in range(MOST_LEVELS):
        beneath: list[Any] = []
        for item in level:
            if isinstance(item, str):
                item.encode()
            elif isinstance(item, dict):
                beneath += [*item, *item.values()]
            elif isinstance(item, list):
                beneath += item
        level = beneath
        if not level:
            return
    raise ValueError(_TOO_DEEP)


@cache
def schema(name: str) -> dict[str, Any]:
    """The JSON schema called ``<name>.schema.json``: card, plans or dataset."""
    text = files("cohortvol.models").joinpath(f"{name}.schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def problems(value: Any, of: Mapping[str, Any]) -> list[str]:
    """What is wrong with a value by a schema, in words; a few of them where there are many."""
    found: Iterator[ValidationError] = _Validator(of).iter_errors(value)
    return [_in_words(error) for error in islice(found, MOST_PROBLEMS)]


def _in_words(error: ValidationError) -> str:
    place = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return f"{place}: lacks {', '.join(missing)}".removeprefix(": ")
    if error.validator == "additionalProperties":
        strange = [name for name in error.instance if name not in error.schema["properties"]]
        names = ", ".join(shown(name) for name in strange[:3])
        return f"{place}: {names} is not known to this version".removeprefix(": ")
    wanted = error.schema.get("description", error.schema)
    return f"{shown(place, 100)} is {shown(repr(error.instance))}; it must be {wanted}"


def shown(text: str, longest: int = LONGEST_VALUE) -> str:
    """A text from a file for a message: short, and in characters that can be seen."""
    short = text if len(text) <= longest else f"{text[: longest - 3]}..."
    return "".join(one if one.isprintable() else "\ufffd" for one in short)


def check_id(model_id: Any) -> None:
    """Raise ModelError unless a text can be the id of a model: it names folders."""
    wrong = problems(model_id, schema("card")["$defs"]["id"])
    if wrong:
        wanted = schema("card")["$defs"]["id"]["description"]
        raise ModelError(f"model id {shown(repr(model_id))}: use {wanted}")


def check_plans(plans: Mapping[str, Any]) -> None:
    """Raise ModelError unless ``plans.json`` holds what can be built, within bounds."""
    wrong = problems(plans, schema("plans"))
    if not wrong:
        there, back = plans["transpose_forward"], plans["transpose_backward"]
        if [there[axis] for axis in back] != [0, 1, 2]:
            wrong.append(f"transpose_backward {back} does not undo transpose_forward {there}")
        for name, settings in plans["configurations"].items():
            patch = settings.get("patch_size", [])
            if math.prod(patch) > MOST_VOXELS:
                wrong.append(
                    f"configurations.{shown(name)}: a patch of {' x '.join(map(str, patch))} "
                    f"voxels; at most {MOST_VOXELS:,} are allowed"
                )
    _refuse("plans.json", wrong)


def check_dataset(dataset: Mapping[str, Any]) -> None:
    """Raise ModelError unless ``dataset.json`` names labels that make a label map."""
    _refuse("dataset.json", problems(dataset, schema("dataset")))
    local_labels(dataset)


def _refuse(name: str, wrong: list[str]) -> None:
    if wrong:
        lines = "".join(f"\n  {line}" for line in wrong[:MOST_PROBLEMS])
        raise ModelError(f"{name} cannot be used{f': {wrong[0]}' if len(wrong) == 1 else lines}")


def local_labels(dataset: Mapping[str, Any]) -> dict[int, str]:
    """Label index to name from ``dataset.json``, in label order, without background.

    Of a network trained by regions, their numbers from 1, in the order of its outputs.

    Raises
    ------
    ModelError
        If the labels are not 1, 2, ..., or regions that make no label map; see `regions_of`.
    """
    if regions := regions_of(dataset):
        return dict(enumerate(regions, start=1))
    labels: dict[int, str] = {}
    for name, index in dataset["labels"].items():
        if name not in ("background", "ignore"):
            (label,) = index if isinstance(index, list) else (index,)
            if label in labels:
                raise ModelError(
                    f"dataset.json has label {label} twice: {labels[label]} and {name}"
                )
            labels[int(label)] = str(name)
    if not labels:
        raise ModelError("dataset.json names no label")
    if sorted(labels) != list(range(1, len(labels) + 1)):
        found = shown(", ".join(map(str, sorted(labels))))
        raise ModelError(f"dataset.json has labels {found}; they must be 1, 2, ...")
    return dict(sorted(labels.items()))


def regions_of(dataset: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name to the labels that a region is made of, in the order of the network's outputs.

    Empty where no label of ``dataset.json`` is made of two, which is when nnU-Net trains by labels.

    Raises
    ------
    ModelError
        If nnU-Net's map, written in ``regions_class_order``, does not show every region.
    """
    labels = {
        str(name): tuple(label) if isinstance(label, list) else (int(label),)
        for name, label in dataset["labels"].items()
        if name not in ("background", "ignore")
    }
    if empty := [name for name, label in labels.items() if not label]:
        raise ModelError(f"dataset.json has no label for {shown(empty[0])!r}")
    if all(len(label) == 1 for label in labels.values()):
        return {}
    order = dataset.get("regions_class_order") or ()
    if len(order) != len(labels):
        raise ModelError(
            f"dataset.json has {len(labels)} regions and {len(order)} labels in "
            "regions_class_order: the label map that nnU-Net makes of them does not follow"
        )
    for written, (name, label) in zip(order, labels.items(), strict=True):
        if 0 in label:
            raise ModelError(f"dataset.json has background in the region {shown(name)!r}")
        if written not in label:
            raise ModelError(
                f"dataset.json has the region {shown(name)!r} of the labels {list(label)[:8]}, and "
                f"regions_class_order writes it as {written}, which is none of them"
            )
    return labels
