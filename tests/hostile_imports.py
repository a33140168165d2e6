"""Trained folders and zips that are broken or mean harm, to be imported; harmless in themselves."""

from __future__ import annotations

import stat
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hostile_changes import (
    CONFIGURATION,
    DEEP,
    ESCAPED,
    NETWORK,
    Case,
    Change,
    a_pipe,
    edit,
    linked_out,
    put,
)


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
        yield Case(f"folder/{name} links out", linked_out(name))
        yield Case(f"folder/{name} is a pipe", a_pipe(name))


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
