# The rules of a cohort, on whatever settings the Snakefile that takes them has read.
from snakemake.utils import min_version

from cohortvol.workflow.versions import check_rules

min_version("9.21")
check_rules(of="0.1.0")


include: "rules/common.smk"


if config["container"]:

    container: config["container"]


include: "rules/manifest.smk"
include: "rules/ingest.smk"
include: "rules/segment.smk"
include: "rules/measure.smk"
include: "rules/agreement.smk"
include: "rules/assemble.smk"
include: "rules/analyse.smk"
include: "rules/report.smk"


# What `rule all` of a Snakefile wants. It stands there, as no included file has a default target.
COHORT = [
    "<results>/report/index.html",
    "<results>/report/files.sha256",
    "<results>/analyse/files.sha256",
    "<results>/files.sha256",
    "<results>/manifest/index.tsv",
    shard_tables,
]
