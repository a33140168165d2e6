# Which scans exist, and which shard each is in. A shard keeps its scans when others are added.
checkpoint manifest:
    input:
        manifest=config["manifest"],
    output:
        scans=update("<results>/manifest/scans.parquet"),
        shards=update("<results>/manifest/shards.parquet"),
        index=update("<results>/manifest/index.tsv"),
    log:
        "<logs>/manifest/manifest.log",
    localrule: True
    conda:
        "../../envs/cohortvol.yaml"
    params:
        results=results_folder,
        shard_size=config["shard_size"],
        bad_rows=config["bad_rows"],
        sex_codes=json.dumps(config["sex_codes"]),
        age_range_years=config["age_range_years"],
    shell:
        """
        exec cohortvol manifest \
            --manifest {input.manifest:q} \
            --results {params.results:q} \
            --shard-size {params.shard_size:q} \
            --bad-rows {params.bad_rows:q} \
            --sex-codes {params.sex_codes:q} \
            --age-range-years {params.age_range_years:q} \
            2>{log:q}
        """
