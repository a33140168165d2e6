# Scan to label map, one model in memory for the whole shard. Label maps and receipts are not
# declared as outputs: Snakemake would delete them before it runs a shard again. Label maps made
# elsewhere are read and checked instead: no network, no GPU, less of all else.
ELSEWHERE = bool(MODEL.elsewhere)


rule segment:
    input:
        ingest=by_record("segment", "<results>/ingest/{shard}.parquet"),
    output:
        table="<results>/segment/<model>/{shard}.parquet",
    log:
        "<logs>/segment/{shard}.log",
    retries: RUN.retries
    conda:
        "../../envs/cohortvol.yaml" if ELSEWHERE else "../../envs/segment.yaml"
    threads: config["segment"]["threads"] or (2 if ELSEWHERE else 8)
    resources:
        gpu=0,
        mem_mb=lambda wildcards, attempt: (4000 if ELSEWHERE else 16000) * attempt,
        runtime=lambda wildcards, attempt: (60 if ELSEWHERE else 120) * attempt,
        attempts_left=lambda wildcards, attempt: max(0, ATTEMPTS - attempt),
    params:
        model=str(MODEL.folder),
        folder=subpath(output.table, strip_suffix=".parquet"),
        choice=options(
            {
                "profile": config["segment"]["profile"],
                "workers": config["segment"]["workers"],
                "roi": config["roi"],
                "store": config["store"],
            }
        ),
        kept=RUN.kept_options,
        device=config["segment"]["device"],
        record=record_of("segment"),
    shell:
        """
        exec cohortvol segment \
            --ingest {input.ingest:q} \
            --model {params.model:q} \
            --folder {params.folder:q} \
            --out {output.table:q} \
            --threads {threads} \
            --device {params.device:q} \
            --attempts-left {resources.attempts_left} \
            {params.choice:q} \
            {params.kept:q} \
            --record {params.record:q} \
            2>{log:q}
        """
