# Volumes against age: slopes, correlations, curves, and the account of who is in each.
rule analyse:
    input:
        volumes=by_record("analyse", "<results>/volumes.parquet"),
        scans=by_record("analyse", "<results>/scans.parquet"),
        literature=by_record("analyse", config["analyse"]["literature"] or []),
    output:
        "<results>/analyse/analyse.json",
        "<results>/analyse/files.sha256",
        multiext("<results>/analyse/slopes", ".parquet", ".csv"),
    log:
        "<logs>/analyse/analyse.log",
    conda:
        "../../envs/cohortvol.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        folder=subpath(output[0], parent=True),
        cut="--exclude-cut" if config["analyse"]["exclude_cut"] else "--keep-cut",
        settings=options(
            {k: v for k, v in config["analyse"].items() if k != "exclude_cut"}
        ),
        ages=config["age_range_years"],
        covariates=json.dumps(config["covariates"], sort_keys=True),
        record=record_of("analyse"),
    shell:
        """
        exec cohortvol analyse \
            --volumes {input.volumes:q} \
            --scans {input.scans:q} \
            --out {params.folder:q} \
            {params.cut} \
            {params.settings:q} \
            --age-range-years {params.ages:q} \
            --covariates {params.covariates:q} \
            --threads {threads} \
            --record {params.record:q} \
            2>{log:q}
        """
