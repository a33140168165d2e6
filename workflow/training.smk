# Training: cases to a model folder, each fold of each part a GPU job of its own. An entry beside
# Snakefile, so that no cohort waits for its graph:
#   snakemake --snakefile workflow/training.smk --profile slurm --config recipe=my/recipe.yaml
import os
import sys
from pathlib import Path

from snakemake.utils import min_version

from cohortvol.errors import CohortvolError, ConfigError, did_you_mean
from cohortvol.store.files import (keep_from_others, make_folder)
from cohortvol.store.locks import (IN_USE, lock)
from cohortvol.tools.train.recipe import read_recipe, variants_of

min_version("9.21")

# The rules call the `cohortvol` beside the Python that runs Snakemake, activated or not.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
)

keep_from_others()

SETTINGS = {
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


def checked(given):
    """The settings with their defaults, and every recipe by the id of its model."""
    wrong = [
        f"--config {name}: no such setting{did_you_mean(name, SETTINGS)}"
        for name in given
        if name not in SETTINGS
    ]
    settings = {**SETTINGS, **given}
    if settings["recipe"] is None and "--lint" not in sys.argv:
        wrong.append("--config recipe=FILE: name the recipe to train")
    if settings["device"] not in ("cuda", "cpu"):
        wrong.append(f"--config device={settings['device']}: it is cuda or cpu")
    if wrong:
        raise ConfigError("\n".join(wrong))
    if settings["recipe"] is None:
        return settings, {}
    path = Path(settings["recipe"])
    variants = variants_of(path) or [None]
    recipes = {
        recipe.id: (variant, recipe)
        for variant in variants
        for recipe in [read_recipe(path, variant)]
    }
    return settings, recipes


try:
    CHOSEN, RECIPES = checked(config)
except CohortvolError as error:
    print(f"cohortvol: {error}", file=sys.stderr)
    sys.exit(error.exit_code)

PAIRS = ["--pairs", CHOSEN["pairs"]] if CHOSEN["pairs"] else []


# Held until this process ends; two at work on one fold would write over each other's checkpoints.
onstart:
    global HELD
    work = Path(CHOSEN["work"])
    try:
        HELD = lock(
            make_folder(work) / IN_USE,
            f"{work}: {{owner}} is training in this folder\n"
            "  Wait until it has finished, or end it, then run the same command again.",
        )
    except CohortvolError as error:
        print(f"cohortvol: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


pathvars:
    work=CHOSEN["work"],


wildcard_constraints:
    model="[A-Za-z0-9][A-Za-z0-9_.-]*",
    part="[A-Za-z0-9][A-Za-z0-9_-]*",
    step="pretrain|[0-9]+|all",


def common_options(wildcards):
    """Options of `cohortvol train` that all steps of a model share."""
    variant, _ = RECIPES[wildcards.model]
    return [*PAIRS, *(["--variant", variant] if variant else [])]


def steps_before(wildcards):
    """What a fold starts from."""
    _, recipe = RECIPES[wildcards.model]
    before = ["prepare"]
    if recipe.pretrain and wildcards.step != "pretrain":
        before.append("pretrain")
    return expand("<work>/{{model}}/{{part}}/done/{step}.json", step=before)


def steps_of(model):
    """Every step of every part of a model."""
    _, recipe = RECIPES[model]
    return expand(
        "<work>/{model}/{part}/done/{step}.json",
        model=model,
        part=recipe.parts,
        step=recipe.steps,
    )


def all_steps(wildcards):
    return steps_of(wildcards.model)


rule all_models:
    default_target: True
    input:
        expand("<work>/{model}/done/import.json", model=RECIPES),
        [steps_of(model) for model in RECIPES],


# Attempts are jobs: the Snakemake inside a job of a cluster starts it once.
# Preprocessed cases and checkpoints are not declared as outputs: Snakemake would delete them
# before it runs a job again.
rule prepare_part:
    input:
        recipe=CHOSEN["recipe"] or [],
    output:
        "<work>/{model}/{part}/done/prepare.json",
    log:
        "<work>/logs/prepare_part/{model}_{part}.log",
    retries: 1 if workflow.is_main_process else 0
    conda:
        "../envs/segment.yaml"
    threads: CHOSEN["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 32000 * attempt,
        runtime=lambda wildcards, attempt: 360 * attempt,
    params:
        options=common_options,
        folder=f"{CHOSEN['work']}/{{model}}",
        out=f"{CHOSEN['models_dir']}/{{model}}",
    shell:
        """
        exec cohortvol train \
            --recipe {input.recipe:q} \
            --work {params.folder:q} \
            --out {params.out:q} \
            --part {wildcards.part} \
            --only prepare \
            --processes {threads} \
            {params.options:q} \
            >{log:q} 2>&1
        """


# One fold, then what it says of the cases it has not seen. Killed, or at its time limit, the next
# try goes on from the last checkpoint.
rule train_fold:
    input:
        steps_before,
        recipe=CHOSEN["recipe"] or [],
    output:
        "<work>/{model}/{part}/done/{step}.json",
    log:
        "<work>/logs/train_fold/{model}_{part}_{step}.log",
    retries: 5 if workflow.is_main_process else 0
    conda:
        "../envs/segment.yaml"
    threads: CHOSEN["threads"]
    resources:
        gpu=int(CHOSEN["device"] == "cuda"),
        mem_mb=lambda wildcards, attempt: 32000 * attempt,
        runtime=CHOSEN["runtime"],
    params:
        options=common_options,
        folder=f"{CHOSEN['work']}/{{model}}",
        out=f"{CHOSEN['models_dir']}/{{model}}",
        device=CHOSEN["device"],
    shell:
        """
        exec cohortvol train \
            --recipe {input.recipe:q} \
            --work {params.folder:q} \
            --out {params.out:q} \
            --part {wildcards.part} \
            --only {wildcards.step} \
            --device {params.device:q} \
            --processes {threads} \
            {params.options:q} \
            >{log:q} 2>&1
        """


# All parts as one model, in the order of the recipe: the later part wins. The model folder is not
# declared as an output: a run must not delete a model of the same name.
rule import_parts:
    input:
        all_steps,
        recipe=CHOSEN["recipe"] or [],
    output:
        "<work>/{model}/done/import.json",
    log:
        "<work>/logs/import_parts/{model}.log",
    conda:
        "../envs/segment.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        options=common_options,
        folder=f"{CHOSEN['work']}/{{model}}",
        out=f"{CHOSEN['models_dir']}/{{model}}",
    shell:
        """
        exec cohortvol train \
            --recipe {input.recipe:q} \
            --work {params.folder:q} \
            --out {params.out:q} \
            --only import \
            {params.options:q} \
            >{log:q} 2>&1
        """
