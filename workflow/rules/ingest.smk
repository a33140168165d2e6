# Is each scan usable: every byte read once, header, grid and voxels checked.
rule ingest:
    input:
        shard=by_record("ingest", shard_list),
    output:
        "<results>/ingest/{shard}.parquet",
    log:
        "<logs>/ingest/{shard}.log",
    conda:
        "../../envs/cohortvol.yaml"
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        rules=options(RUN.flow.ingest),
        record=record_of("ingest"),
    shell:
        """
        exec cohortvol ingest \
            --shard {input.shard:q} \
            --out {output:q} \
            --threads {threads} \
            {params.rules:q} \
            --record {params.record:q} \
            2>{log:q}
        """
