# One fold, then what it says of the cases it has not seen. Killed, or at its time limit, the next
# try goes on from the last checkpoint.
rule train_fold:
    input:
        steps_before,
        recipe=SETTINGS["recipe"] or [],
    output:
        "<work>/{model}/{part}/done/{step}.json",
    log:
        "<work>/logs/train_fold/{model}_{part}_{step}.log",
    retries: engine.retries(workflow, 5)
    conda:
        "../../../envs/segment.yaml"
    threads: SETTINGS["threads"]
    resources:
        gpu=int(SETTINGS["device"] == "cuda"),
        mem_mb=lambda wildcards, attempt: 32000 * attempt,
        runtime=SETTINGS["runtime"],
    params:
        options=common_options,
        folder=f"{SETTINGS['work']}/{{model}}",
        out=f"{SETTINGS['models_dir']}/{{model}}",
        device=SETTINGS["device"],
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
