"""Write docs/settings.md from config/config.yaml: ``python docs/settings.py``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

CONFIG = Path(__file__).resolve().parents[1] / "config" / "config.yaml"
PAGE = Path(__file__).with_name("settings.md")

HEAD = """\
# Settings

Every setting with its default, as `config/config.yaml` explains it; written from there by `make
docs`. An unknown or misspelt name is an error that names the right one. On the command line:
`snakemake --config model=total_mr 'segment={profile: fast}'`.
"""
_LINE = re.compile(r"( *)(?:# ?(.*)|(\w+): ?(.*))")


def settings(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Name, default and explanation of each setting; a section has no default."""
    section, said = "", list[str]()
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if not found:
            said = []
            continue
        indent, comment, name, default = found.groups()
        if name is None:
            said.append(comment)
            continue
        section = section if indent else name
        yield (f"{section}.{name}" if indent else name), default, said
        said = []


def page() -> str:
    """The whole page, a heading for each setting."""
    parts = [HEAD]
    for name, default, said in settings(CONFIG.read_text(encoding="utf-8")):
        title = f"`{name}`" if default else f"`{name}:`"
        value = f"Default: `{default}`\n\n" if default else ""
        level = "###" if "." in name else "##"
        parts.append(f"\n{level} {title}\n\n{value}{_paragraphs(said)}\n")
    return "".join(parts)


def _paragraphs(said: list[str]) -> str:
    """Comment lines as text; those that are set in are lists of values."""
    lines = []
    for line in said:
        inset = re.fullmatch(r"  (\w+)  +(.*)", line)
        lines.append(f"- `{inset[1]}`: {inset[2]}" if inset else line.strip())
    return "\n".join(lines).replace("<", "\\<")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
