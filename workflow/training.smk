# Training: cases to a model folder, each fold of each part a GPU job of its own. An entry beside
# Snakefile, so that no cohort waits for its graph:
#   snakemake --snakefile workflow/training.smk --profile slurm --config recipe=my/recipe.yaml
from snakemake.utils import min_version

from cohortvol.workflow import engine
from cohortvol.workflow.training import Training
from cohortvol.workflow.versions import check_rules

min_version("9.21")
check_rules(of="0.1.0")

TRAINING = Training(config)
SETTINGS = TRAINING.settings


onstart:
    TRAINING.hold()


pathvars:
    work=SETTINGS["work"],


wildcard_constraints:
    model="[A-Za-z0-9][A-Za-z0-9_.-]*",
    part="[A-Za-z0-9][A-Za-z0-9_-]*",
    step="pretrain|[0-9]+|all",


def common_options(wildcards):
    """Options of `cohortvol train` that all steps of a model share."""
    return TRAINING.options(wildcards.model)


def steps_before(wildcards):
    """What a fold starts from."""
    before = TRAINING.steps_before(wildcards.model, wildcards.step)
    return expand("<work>/{{model}}/{{part}}/done/{step}.json", step=before)


def steps_of(model):
    """Every step of every part of a model."""
    _, recipe = TRAINING.recipes[model]
    return expand(
        "<work>/{model}/{part}/done/{step}.json",
        model=model,
        part=recipe.parts,
        step=recipe.steps,
    )


def all_steps(wildcards):
    return steps_of(wildcards.model)


include: "rules/training/prepare_part.smk"
include: "rules/training/train_fold.smk"
include: "rules/training/import_parts.smk"


rule all_models:
    default_target: True
    input:
        expand("<work>/{model}/done/import.json", model=TRAINING.recipes),
        [steps_of(model) for model in TRAINING.recipes],
