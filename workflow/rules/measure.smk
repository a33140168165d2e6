# Label map to volumes, on the grid of the scan, and a small picture of each scan.
rule measure:
    input:
        ingest="<results>/ingest/{shard}.parquet",
        segment="<results>/segment/<model>/{shard}.parquet",
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
        previews=lambda wildcards, output: options({"previews": output.get("previews")}),
        version=cohortvol.__version__,
    shell:
        """
        exec cohortvol measure \
            --segment {input.segment:q} \
            --ingest {input.ingest:q} \
            --model {params.model:q} \
            --results {params.results:q} \
            --out {output.volumes:q} \
            {params.roi:q} \
            {params.previews:q} \
            2>{log:q}
        """
