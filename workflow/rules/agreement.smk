# Label maps beside those of another model on the same scans, where agreement.model names one.
rule agreement:
    input:
        segment=by_record("agreement", "<results>/segment/<model>/{shard}.parquet"),
        measure=by_record("agreement", "<results>/measure/<model>/{shard}.parquet"),
        other=by_record("agreement", other_tables),
    output:
        "<results>/agreement/<model>/{shard}.parquet",
    log:
        "<logs>/agreement/{shard}.log",
    conda:
        "../../envs/cohortvol.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        results=results_folder,
        model=MODEL.id,
        other=options(
            {
                "other_model": OTHER,
                "other_results": config["agreement"]["results"],
            }
        ),
        record=record_of("agreement"),
    shell:
        """
        exec cohortvol agreement \
            --results {params.results:q} \
            --model {params.model:q} \
            --shard {wildcards.shard:q} \
            {params.other:q} \
            --record {params.record:q} \
            >{log:q} 2>&1
        """
