# Which scans exist, and which shard each is in. A shard keeps its scans when others are added. Of a
# BIDS dataset the tables of the whole are inputs. A digest of all that is read is a param: a table
# that was replaced by one with an older date is noticed. The index is no update(): Snakemake takes
# such outputs for made when a job has failed, and the index that is gone has the job run again.
checkpoint manifest:
    input:
        manifest_files,
        withdrawals=config["withdrawals"] or [],
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
        content=manifest_digest,
        withdrawn=withdrawals_digest,
        results=results_folder,
        shard_size=config["shard_size"],
        bad_rows=config["bad_rows"],
        sex_codes=json.dumps(config["sex_codes"]),
        age_range_years=config["age_range_years"],
        bids=json.dumps(config["bids"]),
        ids="--hash-ids" if config["hash_ids"] else "--plain-ids",
        salt=options({"salt_file": config["salt_file"]}),
        withdrawals=options({"withdrawals": config["withdrawals"]}),
    shell:
        """
        exec cohortvol manifest \
            --manifest {params.manifest:q} \
            --results {params.results:q} \
            --shard-size {params.shard_size:q} \
            --bad-rows {params.bad_rows:q} \
            --sex-codes {params.sex_codes:q} \
            --age-range-years {params.age_range_years:q} \
            --bids {params.bids:q} \
            {params.ids} \
            {params.salt:q} \
            {params.withdrawals:q} \
            --as-job \
            2>{log:q}
        """
