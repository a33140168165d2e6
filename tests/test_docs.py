"""What pages tell people to type is understood, and those written from the code are up to date."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from typer.main import get_command

from cohortvol.cli import app

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "config" / "README.md", *sorted(DOCS.glob("*.md"))]
SETTINGS = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
BLOCK = re.compile(r"^ *```(\S*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
USAGE_ERROR = typer.BadParameter.__base__
COMMAND = re.compile(r" *(?:\.venv/bin/)?((?:cohortvol|snakemake) .*)")


def commands(page: Path) -> list[list[str]]:
    """The words of every command of cohortvol and of Snakemake in the blocks of a page."""
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    text = "\n".join(block for kind, block in blocks if kind in ("", "sh", "console"))
    lines = text.replace("\\\n", " ").splitlines()
    found = [COMMAND.fullmatch(line) for line in lines]
    return [shlex.split(command[1], comments=True) for command in found if command]


def understood(words: list[str]) -> None:
    """Raises where a subcommand or one of its options is not there, or too much is given."""
    command, parent = get_command(app), None
    while hasattr(command, "commands"):
        name, *words = words
        assert name in command.commands, name
        parent = command.context_class(command, parent=parent, info_name=name)
        command = command.commands[name]
    command.make_context(command.name, words, parent=parent)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_every_command_of_a_page_is_understood(page):
    for words in commands(page):
        if words[0] == "cohortvol":
            understood(words[1:])
        elif "--config" in words and "workflow/training.smk" not in words:
            given = words[words.index("--config") + 1 :]
            names = {word.partition("=")[0] for word in given if not word.startswith("-")}
            assert names <= set(SETTINGS), page


def test_a_command_that_is_not_there_is_found():
    for wrong in ("cohortvol status --result R", "cohortvol look", "cohortvol models fetch"):
        with pytest.raises((AssertionError, USAGE_ERROR)):
            understood(shlex.split(wrong)[1:])


@pytest.mark.parametrize("name", ["tables", "settings", "reasons"])
def test_a_page_is_what_its_source_says(name):
    page = runpy.run_path(str(DOCS / f"{name}.py"))["page"]()
    assert (DOCS / f"{name}.md").read_text(encoding="utf-8") == page, "run `make docs`"


def test_every_setting_is_explained():
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    for name, value in SETTINGS.items():
        inside = value if isinstance(value, dict) else {}
        for setting in (name, *(f"{name}.{key}" for key in inside)):
            [said] = re.findall(
                rf"^##+ `{re.escape(setting)}:?`\n\n(.*?)(?=^##|\Z)", page, re.M | re.S
            )
            assert len(re.sub(r"Default: .*", "", said).split()) >= 2, setting


def test_every_page_is_reached_from_the_first():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        assert page.stem == "index" or re.search(rf"^{page.stem}$", index, re.M), page.name
