# Which scans exist, and which shard each is in. A shard keeps its scans when others are added. Of a
# BIDS dataset the tables of the whole are inputs. The index is no update(): where a job failed
# it is gone, and nothing reads an old one.
checkpoint manifest:
    input:
        by_record("manifest", manifest_files),
        withdrawals=by_record("manifest", config["withdrawals"] or []),
    output:
        scans=update("<results>/manifest/scans.parquet"),
        shards=update("<results>/manifest/shards.parquet"),
        index="<results>/manifest/index.tsv",
    log:
        "<logs>/manifest/manifest.log",
    localrule: True
    conda:
        "../../envs/cohortvol.yaml"
    params:
        manifest=manifest_path,
        results=results_folder,
        shard_size=config["shard_size"],
        bad_rows=config["bad_rows"],
        sex_codes=json.dumps(config["sex_codes"]),
        age_range_years=config["age_range_years"],
        covariates=json.dumps(config["covariates"], sort_keys=True),
        bids=json.dumps(config["bids"]),
        ids="--hash-ids" if config["hash_ids"] else "--plain-ids",
        salt=options({"salt_file": config["salt_file"]}),
        withdrawals=options({"withdrawals": config["withdrawals"]}),
        record=record_of("manifest"),
    shell:
        """
        exec cohortvol manifest \
            --manifest {params.manifest:q} \
            --results {params.results:q} \
            --shard-size {params.shard_size:q} \
            --bad-rows {params.bad_rows:q} \
            --sex-codes {params.sex_codes:q} \
            --age-range-years {params.age_range_years:q} \
            --covariates {params.covariates:q} \
            --bids {params.bids:q} \
            {params.ids} \
            {params.salt:q} \
            {params.withdrawals:q} \
            --as-job \
            --record {params.record:q} \
            2>{log:q}
        """
