from snakemake.utils import min_version

min_version("9.21")


configfile: "config/config.yaml"


include: "workflow/rules/common.smk"


if config["container"]:

    container: config["container"]


include: "workflow/rules/manifest.smk"
include: "workflow/rules/ingest.smk"
include: "workflow/rules/segment.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/agreement.smk"
include: "workflow/rules/assemble.smk"
include: "workflow/rules/analyse.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        "<results>/report/index.html",
        "<results>/report/files.sha256",
        "<results>/analyse/files.sha256",
        "<results>/files.sha256",
        "<results>/manifest/index.tsv",
        shard_tables,
