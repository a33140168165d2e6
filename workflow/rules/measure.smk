# Label map to volumes, on the grid of the scan, and a small picture of each scan.
rule measure:
    input:
        ingest=by_record("measure", "<results>/ingest/{shard}.parquet"),
        segment=by_record("measure", "<results>/segment/<model>/{shard}.parquet"),
        plausible=by_record("measure", config["measure"]["plausible_ml"] or []),
    output:
        **PREVIEWS,
        volumes="<results>/measure/<model>/{shard}.parquet",
    log:
        "<logs>/measure/{shard}.log",
    conda:
        "../../envs/cohortvol.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        results=results_folder,
        model=str(MODEL.folder),
        roi=options({"roi": config["roi"]}),
        thresholds=options(
            {
                **config["measure"],
                "expected": config["measure"]["expected"] or ["none"],
            }
        ),
        previews=lambda wildcards, output: options({"previews": output.get("previews")}),
        kept=RUN.kept_options,
        record=record_of("measure"),
    shell:
        """
        exec cohortvol measure \
            --segment {input.segment:q} \
            --ingest {input.ingest:q} \
            --model {params.model:q} \
            --results {params.results:q} \
            --out {output.volumes:q} \
            {params.roi:q} \
            {params.thresholds:q} \
            {params.previews:q} \
            {params.kept:q} \
            --record {params.record:q} \
            2>{log:q}
        """
