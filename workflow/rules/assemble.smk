# One cohort table, and an account of every row of the manifest. The shard tables are found below
# the results folder: hundreds of paths do not fit on a command line.
rule assemble:
    input:
        by_record("assemble", "<results>/manifest/scans.parquet"),
        by_record("assemble", ingest_tables),
        by_record("assemble", segment_tables),
        by_record("assemble", measure_tables),
        by_record("assemble", agreement_tables),
        decisions=by_record("assemble", config["decisions"] or []),
    output:
        volumes="<results>/volumes.parquet",
        scans="<results>/scans.parquet",
        settings="<results>/assemble.json",
        digests="<results>/files.sha256",
    log:
        "<logs>/assemble/assemble.log",
    localrule: True
    conda:
        "../../envs/cohortvol.yaml"
    params:
        results=results_folder,
        model=MODEL.id,
        settings=options(
            {
                **config["assemble"],
                "min_dice": config["agreement"]["min_dice"] if OTHER else None,
                "age_range_years": config["age_range_years"],
            }
        ),
        decisions=options({"decisions": config["decisions"]}),
        unknown=["--skip-unknown"] if config["withdrawals"] else [],
        record=record_of("assemble"),
    shell:
        """
        exec cohortvol assemble \
            --results {params.results:q} \
            --model {params.model:q} \
            {params.settings:q} \
            {params.decisions:q} \
            {params.unknown:q} \
            --record {params.record:q} \
            2>{log:q}
        """
