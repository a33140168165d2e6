# Attempts are jobs: the Snakemake inside a job of a cluster starts it once.
# Preprocessed cases and checkpoints are not declared as outputs: Snakemake would delete them
# before it runs a job again.
rule prepare_part:
    input:
        recipe=SETTINGS["recipe"] or [],
    output:
        "<work>/{model}/{part}/done/prepare.json",
    log:
        "<work>/logs/prepare_part/{model}_{part}.log",
    retries: engine.retries(workflow, 1)
    conda:
        "../../../envs/segment.yaml"
    threads: SETTINGS["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 32000 * attempt,
        runtime=lambda wildcards, attempt: 360 * attempt,
    params:
        options=common_options,
        folder=f"{SETTINGS['work']}/{{model}}",
        out=f"{SETTINGS['models_dir']}/{{model}}",
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
