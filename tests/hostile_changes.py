"""One change to a sound model: what is odd, and how a file is edited, linked or left out."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def rehash(folder: Path) -> None:
    """Let the card name the sha256 that its files have now."""

    def change(card: Any) -> None:
        for part in card["parts"]:
            part["files"] = {
                name: sha256_of(folder / name) if (folder / name).is_file() else digest
                for name, digest in part["files"].items()
            }

    edit(folder, change)


def linked_out(name: str) -> Change:
    def change(folder: Path) -> None:
        outside = folder.parent / "outside"
        outside.mkdir(exist_ok=True)
        shutil.move(folder / name, outside / "moved")
        (folder / name).symlink_to(outside / "moved")

    return change


def removed(name: str) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def a_pipe(name: str) -> Change:
    def change(folder: Path) -> None:
        removed(name)(folder)
        os.mkfifo(folder / name)

    return change


CONFIGURATION = ("configurations", "3d_fullres")
NETWORK = (*CONFIGURATION, "architecture", "arch_kwargs")
