# Tables to figures and one page. Changing a caption, a template or the title runs this alone.
rule report:
    input:
        analyse=by_record("report", "<results>/analyse/analyse.json"),
        volumes=by_record("report", "<results>/volumes.parquet"),
        scans=by_record("report", "<results>/scans.parquet"),
        planted=by_record("report", config["report"]["planted"] or []),
        previews=by_record("report", preview_tables),
    output:
        **CONTACT_SHEET,
        page=report(
            "<results>/report/index.html",
            caption="../../reports/snakemake/page.rst",
            category="Report",
        ),
        flow=report(
            "<results>/report/figures/flow.png",
            caption="../../reports/snakemake/flow.rst",
            category="Figures",
        ),
        slopes=report(
            "<results>/report/tables/slopes.csv",
            caption="../../reports/snakemake/slopes.rst",
            category="Tables",
        ),
        digests="<results>/report/files.sha256",
    log:
        "<logs>/report/report.log",
    conda:
        "../../envs/cohortvol.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        analyse=subpath(input.analyse, parent=True),
        folder=subpath(output.page, parent=True),
        model=options({"model": str(MODEL.folder), "roi": config["roi"]}),
        pictures=lambda wildcards, output: options(
            {"previews": PREVIEW_FOLDER, "contact_sheet": output.get("contact_sheet")}
        ),
        settings=options({k: v for k, v in config["report"].items() if k != "public"}),
        public=["--public"] if config["report"]["public"] else [],
        record=record_of("report"),
    shell:
        """
        exec cohortvol report \
            --analyse {params.analyse:q} \
            --volumes {input.volumes:q} \
            --scans {input.scans:q} \
            --out {params.folder:q} \
            {params.model:q} \
            {params.settings:q} \
            {params.pictures:q} \
            {params.public:q} \
            --record {params.record:q} \
            2>{log:q}
        """
