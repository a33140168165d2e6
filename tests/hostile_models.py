"""Model folders that are broken or mean harm, made from a sound one by one change.

Harmless in themselves: nothing here runs, and what would be written elsewhere is an empty name in
the folder of the trial. `tests/test_hostile_models.py` tries a sample of them,
``benchmarks/hostile_models.py`` all, in every way that a model gets in.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hostile_changes import (
    CONFIGURATION,
    DEEP,
    ESCAPED,
    IDS,
    NAMES,
    NETWORK,
    PARTS,
    PATHS,
    SIZES,
    TEXTS,
    WRONG_KINDS,
    Case,
    Change,
    a_pipe,
    edit,
    linked_out,
    put,
    rehash,
    removed,
)


def model_cases() -> Iterator[Case]:
    """Changes of a copy of the embedded model; sha256 put right where files were changed."""
    yield Case("card/as it is", lambda folder: None, sound=True)
    for model_id in IDS:
        yield Case(f"card/id {model_id!r:.40}", card_with(model_id, "id"))
    for name in NAMES:
        yield Case(f"card/label {name!r:.40}", _both_labels(name))
    for path in PATHS:
        yield Case(f"card/file {path!r}", card_with("0" * 64, "parts", 0, "files", path))
    for key in (*TEXTS, "profiles", "labels", "parts", "spacing_mm"):
        for value in WRONG_KINDS:
            if not (key == "spacing_mm" and value is None):
                yield Case(f"card/{key} {value!r:.30}", card_with(value, key))
    for key in ("name", "configuration", "trainer", "folds", "labels", "files", "canary", "layer"):
        for value in WRONG_KINDS[:6]:
            if (key, value) not in (("files", {}), ("layer", True)):
                yield Case(f"card/part {key} {value!r:.30}", card_with(value, "parts", 0, key))
    for key in ("id", *TEXTS, "profiles", "labels", "parts"):
        yield Case(f"card/without {key}", _without(key))
    for step in (0, -1, 2, "0.5", []):
        yield Case(f"card/tile_step {step!r}", card_with(step, "parts", 0, "tile_step"))
    for edges in ([0, 1, 1], [1, 1], [1, 1, 1e9], [-1, 1, 1], ["1", 1, 1]):
        yield Case(f"card/spacing_mm {edges}", card_with(edges, "spacing_mm"))
    for channels in ("x", ["a"], ["a", "a"], ["a", "b"], ["../a", "b"], ["a;b", "c"], [1, 2]):
        yield Case(f"card/channels {channels!r}", card_with(channels, "channels"))
    for regions in ("x", [[]], [[0]], [[1], [2], [3], [4]], [[1, 2]], [[10**9]]):
        yield Case(f"card/regions {regions!r}", card_with(regions, "parts", 0, "regions"))
    yield Case("card/label index 70000", card_with("x", "labels", "70000"))
    yield Case("card/label index 01", card_with("x", "labels", "01"))
    yield Case("card/an unknown field of a part", card_with(1, "parts", 0, "postprocess"))
    yield Case(
        "card/two parts of one name", lambda f: edit(f, lambda c: c["parts"].append(c["parts"][0]))
    )
    yield Case("card/fold twice", card_with(["all", "all"], "parts", 0, "folds"))
    yield Case("card/consistency", card_with({"profile": "nnunet"}, "consistency"))
    yield Case(
        "card/interval",
        card_with({"source": "x", "profile": "y", "structures": {}}, "volume_interval"),
    )
    yield from _texts("card", "card.json")
    yield from _texts("plans", f"{PARTS}/plans.json")
    yield from _texts("dataset", f"{PARTS}/dataset.json")
    for name in ("card.json", f"{PARTS}/plans.json", f"{PARTS}/fold_all.safetensors", PARTS):
        yield Case(f"files/{name} links out", linked_out(name))
        yield Case(f"files/{name} is missing", removed(name))
        yield Case(f"files/{name} is a pipe", a_pipe(name))
    yield Case("files/plans.json links to itself", _a_loop)
    yield from _plans_cases()
    yield from _dataset_cases()
    yield from _weights_cases()


def card_with(new: Any, *place: Any) -> Change:
    """A card with one value changed."""
    return lambda folder: edit(folder, lambda card: put(card, place, new))


def _without(key: str) -> Change:
    return lambda folder: edit(folder, lambda card: card.pop(key) and None)


def _both_labels(name: Any) -> Change:
    def change(card: Any) -> None:
        card["labels"]["1"] = card["parts"][0]["labels"]["1"] = name

    return lambda folder: edit(folder, change)


def _texts(kind: str, name: str) -> Iterator[Case]:
    texts: dict[str, bytes] = {
        "empty": b"", "no JSON": b"<html>", "a list": b"[]", "a text": b'"x"', "null": b"null",
        "cut": b'{"id": ', "NaN": b'{"id": NaN}', "1e999": b'{"id": 1e999}',
        "a key twice": b'{"id": "a", "id": "b"}', "200,000 deep": DEEP.encode(),
        "100 deep": ('{"id": ' * 100 + "1" + "}" * 100).encode(),
        "half a character": b'{"id": "\\ud800"}', "UTF-16": '{"id": "a"}'.encode("utf-16"),
        "bytes": bytes(range(256)), "a number of 5,000 digits": b'{"id": ' + b"9" * 5000 + b"}",
        "9 MB": b'{"id": "' + b"a" * 9_000_000 + b'"}',
    }  # fmt: skip

    def write(content: bytes) -> Change:
        def change(folder: Path) -> None:
            (folder / name).write_bytes(content)
            if kind != "card":
                rehash(folder)

        return change

    for what, content in texts.items():
        yield Case(f"{kind}/{what}", write(content))


def _a_loop(folder: Path) -> None:
    path = folder / PARTS / "plans.json"
    path.unlink()
    path.symlink_to(path.name)


ODD_RESAMPLING = ({"order": 999}, {"device": "cuda:99"}, {"is_seg": "x"}, {"order": 3}, [], None)
ODD_NORM = ({"eps": 0}, {"eps": -1e-5}, {"affine": "yes"}, {"device": "meta"}, {"num": 1}, 3)


def _plans_cases() -> Iterator[Case]:
    changes: list[tuple[tuple[Any, ...], Any]] = [
        *(((*CONFIGURATION, "patch_size", 0), size) for size in SIZES),
        ((*CONFIGURATION, "patch_size"), [1024, 1024, 1024]),
        ((*CONFIGURATION, "patch_size"), [64, 80]), ((*CONFIGURATION, "patch_size"), [65, 80, 96]),
        ((*CONFIGURATION, "patch_size"), [64] * 100_000),
        *(((*NETWORK, "features_per_stage", 0), size) for size in SIZES),
        ((*NETWORK, "features_per_stage"), [16] * 100_000),
        *(((*NETWORK, "n_stages"), size) for size in SIZES),
        *(((*NETWORK, "n_conv_per_stage", 0), size) for size in SIZES),
        *(((*NETWORK, "kernel_sizes", 0), [size, 3, 3]) for size in (*SIZES, 2)),
        *(((*NETWORK, "strides", 1), [size, 2, 2]) for size in (*SIZES, 31)),
        *(((*CONFIGURATION, "spacing", 0), value) for value in (0, -4, 1e9, "4", None, [4])),
        ((*CONFIGURATION, "spacing"), [4.0, 4.0]),
        *((("transpose_forward",), value) for value in ([0, 0, 0], [0, 1], [2, 1, 0], "012", None)),
        *(((*CONFIGURATION, "resampling_fn_data_kwargs"), value) for value in ODD_RESAMPLING),
        *(((*NETWORK, "norm_op_kwargs"), value) for value in ODD_NORM),
        *(((*NETWORK, "nonlin_kwargs"), value) for value in ({"inplace": 2}, {"x": 1}, "x")),
        ((*NETWORK, "conv_op"), "os.system"),
        ((*NETWORK, "conv_op"), "torch.nn.modules.conv.Conv2d"),
        ((*NETWORK, "block"), "os.system"), ((*NETWORK, "input_channels"), 7),
        ((*CONFIGURATION, "architecture", "network_class_name"), "os.system"),
        ((*CONFIGURATION, "architecture", "_kw_requires_import"), ["norm_op_kwargs"]),
        ((*CONFIGURATION, "preprocessor_name"), "../x"),
        ((*CONFIGURATION, "resampling_fn_seg"), "eval"),
        ((*CONFIGURATION, "normalization_schemes"), []),
        ((*CONFIGURATION, "normalization_schemes"), ["CTNormalization" * 100]),
        ((*CONFIGURATION, "use_mask_for_norm"), ["x"]),
        ((*CONFIGURATION, "previous_stage"), "3d_lowres"),
        ((*CONFIGURATION, "inherits_from"), "3d_fullres"),
        ((*CONFIGURATION, "inherits_from"), "nowhere"), ((*CONFIGURATION, "architecture"), {}),
        (CONFIGURATION, {}), (CONFIGURATION, None), (("configurations",), {}),
        (("configurations",), [1, 2]), (("label_manager",), "subprocess.run"),
    ]  # fmt: skip
    for place, value in changes:
        yield Case(
            f"plans/{'.'.join(map(str, place[-2:]))} {value!r:.30}",
            _json_with(value, place, "plans.json"),
        )
    for key in ("patch_size", "spacing", "use_mask_for_norm", "resampling_fn_probabilities_kwargs"):
        yield Case(f"plans/without {key}", _plans_without(key))


def _json_with(new: Any, place: tuple[Any, ...], name: str) -> Change:
    def change(folder: Path) -> None:
        edit(folder, lambda value: put(value, place, new), f"{PARTS}/{name}")
        rehash(folder)

    return change


def _plans_without(key: str) -> Change:
    def change(folder: Path) -> None:
        edit(
            folder,
            lambda plans: plans["configurations"]["3d_fullres"].pop(key) and None,
            f"{PARTS}/plans.json",
        )
        rehash(folder)

    return change


def _dataset_cases() -> Iterator[Case]:
    labels: list[Any] = [
        {}, [], None, "x", {"background": 0}, {"liver": 2}, {"liver": 1, "spleen": 1},
        {"liver": [1, 2]}, {"liver": 1.0}, {"liver": -1}, {"liver": 10**9}, {"liver": True},
        {"liver": "1"}, {"\x1b[2J": 1}, {"": 1}, {"liver": 1},
        {"background": 0, "liver": 2, "kidney_right": 1, "kidney_left": 3, "spleen": 4},
        {f"s{i}": i + 1 for i in range(6000)},
    ]  # fmt: skip
    for value in labels:
        yield Case(f"dataset/labels {value!r:.40}", _json_with(value, ("labels",), "dataset.json"))
    for order in ([1], [1, 2], [0, 1], ["1"], [1.5, 2], [10**9, 1], {}, "12"):
        yield Case(f"dataset/regions {order!r}", _regions(order))
    for channels in ({}, {"0": "a", "1": "b"}, [], {"0": 5}, {"a": "b"}, None):
        yield Case(
            f"dataset/channels {channels!r}",
            _json_with(channels, ("channel_names",), "dataset.json"),
        )


def _regions(order: Any) -> Change:
    """Regions that the network was not trained for, or that make no label map."""

    def change(dataset: Any) -> None:
        dataset["labels"] = {"background": 0, "liver": [1, 2], "cyst": 2}
        dataset["regions_class_order"] = order

    def act(folder: Path) -> None:
        edit(folder, change, f"{PARTS}/dataset.json")
        rehash(folder)

    return act


def _weights_cases() -> Iterator[Case]:
    def written(change: Callable[[dict[str, Any]], Any]) -> Change:
        def act(folder: Path) -> None:
            import torch
            from safetensors.torch import load_file, save_file

            path = folder / PARTS / "fold_all.safetensors"
            arrays = load_file(path)
            with torch.inference_mode():
                change(arrays)
            save_file(arrays, path)
            rehash(folder)

        return act

    def first(arrays: dict[str, Any]) -> str:
        return sorted(arrays)[0]

    changes: dict[str, Callable[[dict[str, Any]], Any]] = {
        "one is missing": lambda a: a.pop(first(a)),
        "one more": lambda a: a.update({f"../{ESCAPED}": a[first(a)].clone()}),
        "another shape": lambda a: a.update({first(a): a[first(a)].flatten()[:-1].clone()}),
        "one axis more": lambda a: a.update({first(a): a[first(a)][None].clone()}),
        "half precision": lambda a: a.update({first(a): a[first(a)].half()}),
        "whole numbers": lambda a: a.update({first(a): a[first(a)].int()}),
        "double precision": lambda a: a.update({name: value.double() for name, value in a.items()}),
        "not finite": lambda a: a[first(a)].view(-1).fill_(float("nan")),
        "no array": lambda a: a.clear(),
    }  # fmt: skip
    for what, change in changes.items():
        yield Case(f"weights/{what}", written(change))
    raw: dict[str, Callable[[bytes], bytes]] = {
        "empty": lambda content: b"", "cut": lambda content: content[: len(content) // 2],
        "longer": lambda content: content + b"x",
        "a header of 2**60 bytes": lambda content: struct.pack("<Q", 2**60) + content[8:],
        "an array of 2**60 bytes": lambda content: _header(a=(2**58, 2**60)),
        "arrays that overlap": lambda content: _header(a=(1, 4), b=(1, 4)) + bytes(4),
        "a header 200,000 deep": lambda content: struct.pack("<Q", len(DEEP)) + DEEP.encode(),
        "a zip": lambda content: b"PK\x03\x04" + content,
    }  # fmt: skip
    for what, of in raw.items():
        yield Case(f"weights/{what}", _bytes_of(of))


def _header(**arrays: tuple[int, int]) -> bytes:
    """The beginning of a safetensors file: length and bytes of arrays that all begin at 0."""
    value = {
        name: {"dtype": "F32", "shape": [n], "data_offsets": [0, n_bytes]}
        for name, (n, n_bytes) in arrays.items()
    }
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text


def _bytes_of(change: Callable[[bytes], bytes]) -> Change:
    def act(folder: Path) -> None:
        path = folder / PARTS / "fold_all.safetensors"
        path.write_bytes(change(path.read_bytes()))
        rehash(folder)

    return act
