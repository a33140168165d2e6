"""Settings of a training run, its recipes by the id of their model, and its lock."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from cohortvol.errors import ConfigError, did_you_mean
from cohortvol.store.files import keep_from_others, make_folder
from cohortvol.store.locks import IN_USE, lock
from cohortvol.tools.train.recipe import Recipe, read_recipe, variants_of
from cohortvol.workflow import engine
from cohortvol.workflow.run import use_commands_beside_python
from cohortvol.workflow.told import told_without_traceback

SETTINGS: dict[str, Any] = {
    "recipe": None,
    "pairs": None,
    "work": "training",
    "models_dir": "models",
    "device": "cuda",
    "threads": 8,
    "runtime": 1440,
}
"""What --config takes: the recipe; the folder of images and label maps of a recipe that names no
datasets; the folder for checkpoints; where models are made; cuda or cpu; cores of a job; the
minutes that Slurm gives to one try of a fold, which the next try goes on from."""


class Training:
    """What the rules of a training ask.

    Attributes
    ----------
    settings : dict
        `SETTINGS` with what was given.
    recipes : dict of str to (str or None, Recipe)
        Variant and recipe by the id of the model.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        """Check the settings and read the recipes; a problem ends the process with a message."""
        use_commands_beside_python()
        keep_from_others()
        with told_without_traceback():
            self.settings = checked(given)
            self.recipes = recipes_of(self.settings["recipe"])
        self._held: IO[str] | None = None

    def hold(self) -> None:
        """Keep others out of the folder until this process ends: two at work on one fold would
        write over each other's checkpoints.
        """
        work = Path(self.settings["work"])
        with told_without_traceback():
            self._held = lock(
                make_folder(work) / IN_USE,
                f"{work}: {{owner}} is training in this folder\n"
                "  Wait until it has finished, or end it, then run the same command again.",
            )

    def options(self, model: str) -> list[str]:
        """Options of `cohortvol train` that all steps of a model share."""
        variant, _ = self.recipes[model]
        pairs = self.settings["pairs"]
        return [
            *(["--pairs", pairs] if pairs else []),
            *(["--variant", variant] if variant else []),
        ]

    def steps_before(self, model: str, step: str) -> list[str]:
        """What a fold starts from."""
        _, recipe = self.recipes[model]
        return ["prepare", "pretrain"] if recipe.pretrain and step != "pretrain" else ["prepare"]


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with their defaults.

    Raises
    ------
    ConfigError
        Naming every setting that cannot be used.
    """
    wrong = [
        f"--config {name}: no such setting{did_you_mean(name, SETTINGS)}"
        for name in given
        if name not in SETTINGS
    ]
    settings = {**SETTINGS, **given}
    if settings["recipe"] is None and not engine.lints():
        wrong.append("--config recipe=FILE: name the recipe to train")
    if settings["device"] not in ("cuda", "cpu"):
        wrong.append(f"--config device={settings['device']}: it is cuda or cpu")
    if wrong:
        raise ConfigError("\n".join(wrong))
    return settings


def recipes_of(file: str | None) -> dict[str, tuple[str | None, Recipe]]:
    """Every variant of a recipe by the id of its model; none without a file."""
    if file is None:
        return {}
    path = Path(file)
    variants: list[str | None] = [*variants_of(path)] or [None]
    recipes = [(variant, read_recipe(path, variant)) for variant in variants]
    return {recipe.id: (variant, recipe) for variant, recipe in recipes}
