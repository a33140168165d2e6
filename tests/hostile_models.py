"""Model folders, zips and ids that are broken or mean harm, made from a sound model by one change.

Harmless in themselves: nothing here runs, and what would be written elsewhere is an empty name in
the folder of the trial. `tests/test_hostile_models.py` tries a sample of them,
``benchmarks/hostile_models.py`` all, in every way that a model gets in.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import stat
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cohortvol.cli import run
from cohortvol.store.files import sha256_of

EMBEDDED = Path(__file__).resolve().parents[1] / "models" / "embedded-v2"
DEEP = "[" * 200_000 + "]" * 200_000
PARTS = "parts/main"
ESCAPED = "ESCAPED"
"""What would be written elsewhere bears this name."""

Change = Callable[[Path], None]

IDS: list[Any] = [
    f"../../../{ESCAPED}", "..", ".", "", "/", f"/{ESCAPED}", "a/b", "a/../../b", "a\\b", "~",
    "~root", "a b;touch X", "$(touch X)", "`touch X`", "a|b", "a&b", "a>b", "a'b", 'a"b', "a b",
    "-x", "--help", "<b>x</b>", "<results>", "a{b}c", "{shard}", "{{}}", "%s", "a\nb", "a\n",
    "a\tb", "a\x00b", "\x1b[31m", "\u202egnp", "m\u00f6del", "\u0661", "_a", ".hidden", "a" * 65,
    "a" * 5000, "con*", "a?", "[a]", None, 5, 1.5, True, [], ["a"], {}, {"a": 1},
]  # fmt: skip
NAMES: list[Any] = [
    "", "a\tb", "a\nb", "liver\n", "<script>", "a,b;c", "=1+1", "../liver", "a/b", "{x}", "$(x)",
    "a\x00", "\x1b[2J", "-liver", "none", "background", "ignore", "l\u00edver", "a" * 101, None, 3,
    [], {}, "spleen",
]  # fmt: skip
PATHS = [
    f"/{ESCAPED}", f"../{ESCAPED}", f"parts/../../{ESCAPED}", "parts\\main\\x",
    "parts/main/plans.json/x", "parts/other/plans.json", "parts/main/fold_9.safetensors",
    "card.json", "", "parts/main/", "a\nb", "parts/main/notes.txt",
]  # fmt: skip
WRONG_KINDS: list[Any] = [None, True, -1, 10**30, "\x1b[2J\n" * 9, [], {}, ["x", ["y"]], {"x": {}}]
TEXTS = ("title", "licence", "source", "citation", "orientation", "default_profile")
SIZES: list[Any] = [0, -1, 10**6, 10**12, 1.5, "64", None, [], {}]


@dataclass(frozen=True)
class Case:
    """A folder or zip, how it is made of a sound one, and whether it may be taken."""

    name: str
    change: Change
    sound: bool = False


# --- model folders


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
        yield Case(f"files/{name} links out", _linked_out(name))
        yield Case(f"files/{name} is missing", _removed(name))
        yield Case(f"files/{name} is a pipe", _a_pipe(name))
    yield Case("files/plans.json links to itself", _a_loop)
    yield from _plans_cases()
    yield from _dataset_cases()
    yield from _weights_cases()


def edit(folder: Path, change: Callable[[Any], Any], name: str = "card.json") -> None:
    """Change the value of a JSON file in place, or put what `change` returns in its place."""
    path = folder / name
    value = json.loads(path.read_text(encoding="utf-8"))
    changed = change(value)
    path.write_text(json.dumps(value if changed is None else changed), encoding="utf-8")


def put(value: Any, place: tuple[Any, ...], new: Any) -> None:
    """Set an item deep in lists and objects."""
    for key in place[:-1]:
        value = value[key]
    value[place[-1]] = new


def card_with(new: Any, *place: Any) -> Change:
    """A card with one value changed."""
    return lambda folder: edit(folder, lambda card: put(card, place, new))


def _without(key: str) -> Change:
    return lambda folder: edit(folder, lambda card: card.pop(key) and None)


def _both_labels(name: Any) -> Change:
    def change(card: Any) -> None:
        card["labels"]["1"] = card["parts"][0]["labels"]["1"] = name

    return lambda folder: edit(folder, change)


def rehash(folder: Path) -> None:
    """Let the card name the sha256 that its files have now."""

    def change(card: Any) -> None:
        for part in card["parts"]:
            part["files"] = {
                name: sha256_of(folder / name) if (folder / name).is_file() else digest
                for name, digest in part["files"].items()
            }

    edit(folder, change)


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


def _linked_out(name: str) -> Change:
    def change(folder: Path) -> None:
        outside = folder.parent / "outside"
        outside.mkdir(exist_ok=True)
        shutil.move(folder / name, outside / "moved")
        (folder / name).symlink_to(outside / "moved")

    return change


def _removed(name: str) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def _a_pipe(name: str) -> Change:
    def change(folder: Path) -> None:
        _removed(name)(folder)
        os.mkfifo(folder / name)

    return change


def _a_loop(folder: Path) -> None:
    path = folder / PARTS / "plans.json"
    path.unlink()
    path.symlink_to(path.name)


CONFIGURATION = ("configurations", "3d_fullres")
NETWORK = (*CONFIGURATION, "architecture", "arch_kwargs")


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


# --- what is imported


def import_cases() -> Iterator[Case]:
    """Changes of a results folder of nnU-Net, and of a zip of it, made beside it."""
    yield Case("zip/as it is", zipped(lambda archive, folder: None), sound=True)
    slips = (
        f"../{ESCAPED}/plans.json",
        f"/{ESCAPED}/plans.json",
        f"a/../../{ESCAPED}/dataset.json",
        "a\\b/plans.json",
        f"..\\{ESCAPED}/plans.json",
    )
    for name in slips:
        yield Case(f"zip/member {name!r}", zipped(_member(name)))
    for name in ("plans.json", "dataset.json", "fold_0/checkpoint_final.pth"):
        yield Case(f"zip/{name} twice", zipped(_twice(name)))
        link = _member(f"T/{name}", mode=stat.S_IFLNK | 0o777)
        yield Case(f"zip/{name} is a link", zipped(link, leave_out=name))
        yield Case(f"zip/{name} is missing", zipped(lambda archive, folder: None, leave_out=name))
    yield Case("zip/two trainings", zipped(_second_training))
    yield Case(
        "zip/plans.json 200,000 deep",
        zipped(_member("T/plans.json", DEEP.encode()), leave_out="plans.json"),
    )
    yield Case(
        "zip/plans.json of 100 MB of zeros",
        zipped(_member("T/plans.json", bytes(10**8)), leave_out="plans.json"),
    )
    for name in ("n" * 300 + "/plans.json", "d/" * 500 + "plans.json", "T/plans.json/plans.json"):
        yield Case(f"zip/beside it {name[:20]}", zipped(_member(name)), sound=True)
    yield Case("zip/more than it says", zipped(lambda archive, folder: None, lie=True))
    yield Case("zip/a password", zipped(lambda archive, folder: None, password=True))
    yield Case("zip/empty", lambda folder: _empty_zip(folder))
    yield Case("zip/cut", _cut_zip)
    for name, value in (
        ("plans.json", DEEP),
        ("plans.json", '{"a": NaN}'),
        ("plans.json", "[]"),
        ("dataset.json", DEEP),
        ("dataset.json", '{"labels": {"a\\tb": 1, "background": 0}}'),
        (
            "dataset.json",
            '{"labels": {"../liver": 1, "background": 0}, "channel_names": {"0": "MR"}}',
        ),
        ("fold_0/checkpoint_final.pth", "not a checkpoint"),
    ):
        yield Case(f"folder/{name} {value[:30]!r}", _text_of(name, value))
    for place, value in (
        ((*CONFIGURATION, "patch_size"), [10**6] * 3),
        ((*NETWORK, "features_per_stage"), [10**9] * 3),
        ((*NETWORK, "n_stages"), 10**9),
        ((*NETWORK, "conv_op"), "os.system"),
        ((*CONFIGURATION, "patch_size"), [17, 24, 24]),
    ):
        yield Case(
            f"folder/plans {'.'.join(map(str, place[-1:]))} {value!r:.30}", _plans_of(place, value)
        )
    for what in (
        "no weights",
        "weights of another kind",
        "a list",
        "a training of an odd name",
        "half precision",
    ):
        yield Case(f"folder/checkpoint: {what}", _checkpoint(what))
    for name in ("plans.json", "fold_0/checkpoint_final.pth"):
        yield Case(f"folder/{name} links out", _linked_out(name))
        yield Case(f"folder/{name} is a pipe", _a_pipe(name))


ZIP = "weights.zip"


def zipped(
    more: Callable[[zipfile.ZipFile, Path], None],
    leave_out: str = "",
    lie: bool = False,
    password: bool = False,
) -> Change:
    """The folder as a zip with something more in it; the import is given the zip."""

    def change(folder: Path) -> None:
        archive = folder.with_name(ZIP)
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(folder.rglob("*.*")):
                name = path.relative_to(folder).as_posix()
                if name != leave_out and path.is_file():
                    file.write(path, f"T/{name}")
            more(file, folder)
        content = bytearray(archive.read_bytes())
        begins = content.index(b"PK\x01\x02")  # the list of members
        if lie:
            content[begins + 24 : begins + 28] = struct.pack("<I", 10)
        if password:
            content[begins + 8] |= 1
            content[6] |= 1
        archive.write_bytes(content)

    return change


def _member(name: str, content: bytes = b"/etc/hostname", mode: int = 0o644) -> Callable[..., None]:
    def more(archive: zipfile.ZipFile, folder: Path) -> None:
        info = zipfile.ZipInfo("x")
        info.filename = name  # as it is: the constructor would put a backslash right
        info.external_attr = mode << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(info, content)

    return more


def _twice(name: str) -> Callable[..., None]:
    def more(archive: zipfile.ZipFile, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Duplicate name"
            archive.write(folder / name, f"T/{name}")

    return more


def _second_training(archive: zipfile.ZipFile, folder: Path) -> None:
    for path in sorted(folder.rglob("*.*")):
        archive.write(path, f"U/{path.relative_to(folder).as_posix()}")


def _empty_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder.with_name(ZIP), "w"):
        pass


def _cut_zip(folder: Path) -> None:
    zipped(lambda archive, folder: None)(folder)
    archive = folder.with_name(ZIP)
    archive.write_bytes(archive.read_bytes()[:2000])


def _text_of(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8") and None


def _plans_of(place: tuple[Any, ...], new: Any) -> Change:
    return lambda folder: edit(folder, lambda plans: put(plans, place, new), "plans.json")


def _checkpoint(what: str) -> Change:
    def change(folder: Path) -> None:
        import torch

        import nnunet_fixture

        content: Any = nnunet_fixture.checkpoint(nnunet_fixture.network())
        if what == "no weights":
            content["network_weights"] = None
        elif what == "weights of another kind":
            content["network_weights"] = {3: "x"}
        elif what == "a training of an odd name":
            content["trainer_name"] = f"../{ESCAPED}"
        elif what == "half precision":
            content["network_weights"] = {
                k: v.half() for k, v in content["network_weights"].items()
            }
        content = [1] if what == "a list" else content
        torch.save(content, folder / "fold_0" / "checkpoint_final.pth")

    return change


# --- a trial


@dataclass(frozen=True)
class Outcome:
    """What a trial came to; `wrong` is empty where all is as it should be."""

    case: str
    way: str
    code: int
    said: str
    wrong: str


def verify(case: Case, place: Path) -> Outcome:
    """``cohortvol models verify`` of a changed copy of the embedded model, in an empty folder."""
    folder = shutil.copytree(EMBEDDED, place / "models" / "mine")
    case.change(folder)
    return _tried(case, place, ["models", "verify", str(folder)], "verify")


def imported(case: Case, place: Path, trained: Path) -> Outcome:
    """``cohortvol models import`` of a changed copy of a trained folder, or of the zip of it."""
    source = shutil.copytree(trained, place / "trained")
    case.change(source)
    given = place / ZIP if (place / ZIP).exists() else source
    words = ["models", "import", str(given), "--id", "mine", "--licence", "CC0-1.0"]
    return _tried(case, place, [*words, "--models-dir", str(place / "models")], "import")


def imported_as(model_id: str, place: Path, trained: Path) -> Outcome:
    """The same of a sound folder under an odd id."""
    source = shutil.copytree(trained, place / "trained")
    words = ["models", "import", str(source), f"--id={model_id}", "--licence", "CC0-1.0"]
    case = Case(f"option/--id {model_id!r:.40}", lambda folder: None)
    return _tried(case, place, [*words, "--models-dir", str(place / "models")], "import")


def _tried(case: Case, place: Path, words: list[str], way: str) -> Outcome:
    before = contents(place)
    spare = place / "spare"
    spare.mkdir()
    said = io.StringIO()
    with (
        _temporary_folder(spare),
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(said),
    ):
        try:
            code = run(words)
        except BaseException as error:  # what the command line lets through
            code, _ = 70, said.write(f"{type(error).__name__}: {error}")
    left = sorted(contents(place) - before - {"spare", *(_made(place) if case.sound else ())})
    return Outcome(
        case.name, way, code, said.getvalue(), judged(case.sound, code, said.getvalue(), left)
    )


def _made(place: Path) -> set[str]:
    return {name for name in contents(place) if name.startswith("models")}


@contextlib.contextmanager
def _temporary_folder(folder: Path) -> Iterator[None]:
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def contents(place: Path) -> set[str]:
    """Every name below a folder."""
    return {path.relative_to(place).as_posix() for path in place.rglob("*")}


MOST_LINES, LONGEST_LINE = 12, 500


def judged(sound: bool, code: int, said: str, left: list[str]) -> str:
    """What is wrong with how a command ended, or nothing."""
    lines = said.strip().splitlines()
    if left:
        return f"left behind: {', '.join(left[:5])}"
    if "Traceback" in said or "this is a bug" in said or "Exception" in said:
        return f"an exception: {lines[-1][:200] if lines else ''}"
    if sound != (code == 0):
        return f"ended with {code}"
    if code not in (0, 64):
        return f"ended with {code}"
    if not sound and (not lines or len(lines) > MOST_LINES or max(map(len, lines)) > LONGEST_LINE):
        return f"{len(lines)} lines, the longest of {max(map(len, lines), default=0)} characters"
    if any(not (one.isprintable() or one == "\n") for one in said):
        return "control characters in the message"
    return ""
