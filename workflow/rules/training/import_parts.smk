# All parts as one model, in the order of the recipe: the later part wins. The model folder is not
# declared as an output: a run must not delete a model of the same name.
rule import_parts:
    input:
        all_steps,
        recipe=SETTINGS["recipe"] or [],
    output:
        "<work>/{model}/done/import.json",
    log:
        "<work>/logs/import_parts/{model}.log",
    conda:
        "../../../envs/segment.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
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
            --only import \
            {params.options:q} \
            >{log:q} 2>&1
        """
