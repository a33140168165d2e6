"""Write docs/tables.md from the schemas in the code: ``python docs/tables.py``."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from cohortvol.stages import analyse
from cohortvol.store import schemas
from cohortvol.tools import evaluate

PAGE = Path(__file__).with_name("tables.md")

HEAD = """\
# Tables

Every table below a results folder, with every column. Written by `make docs` from the schemas
in `src/cohortvol/store/schemas.py`, the `schemas.py` of the rooms of `stages/analyse`, and
`tools/evaluate/outputs.py`; a test holds it to them.

- Parquet, with page checksums. Equal tables are equal files, byte for byte.
- Unknown is null, never 0. Units stand in the names: `_mm`, `_ml`, `_years`, `_cm`, `_kg`.
- Rows are sorted by `scan_id`; `manifest/scans` and `scans` keep the order of the manifest.
- Tables of `analyse/` and of `evaluate/`, which `cohortvol evaluate --out` makes, are written as
  `.csv` besides.
- `<shard>` is a number such as `0000`, `<model>` a model id such as `embedded-v2`.

The manifest itself, which you write, is described in `config/README.md`.
"""

INTRODUCTIONS = {
    "manifest/scans": "One row per row of the manifest, unusable ones too.",
    "manifest/shards": "Which shard each scan was put in. Rows are only ever added.",
    "manifest/shards/<shard>": "The scans of one shard. Rewritten only when one of them changes.",
    "ingest/<shard>": "Whether each scan can be used, and what it looks like.",
    "ingest/series/<shard>": "Every series of the DICOM folders of a shard, if there are any.",
    "segment/<model>/<shard>": "Which scans have a label map, and how it came about.",
    "measure/<model>/<shard>": "Volumes of one shard; the columns of `volumes`.",
    "agreement/<model>/<shard>": "Agreement of one shard; the columns of `agreement`.",
    "agreement": "Overlap with the label maps of another model or profile, where it was asked for.",
    "measure/<model>/previews/<shard>": "A small picture of each scan that was measured.",
    "measure/<model>/kept/<shard>": "With `keep_label_maps: false`, volumes that stand in for "
    "label maps: the columns of `volumes`, and these. Their pictures are in `previews/` beside it.",
    "volumes": "One row per scan and structure, in the order of the model's labels, sums last.",
    "companions": "Values of other images of the session in the structures, where the config names "
    "`companions`: one row per row of `volumes` of a scan that was measured, and companion.",
    "scans": "One row per row of the manifest, with the state each scan ended in.",
    "contact_sheet": "Which scan each tile of the report's contact sheets is: a CSV, "
    "outside `report/`, as the page is passed on and this is not.",
    "analyse/slopes": "Change of volume with age, per structure and sex.",
    "analyse/interactions": "Whether the change with age differs between the sexes.",
    "analyse/correlations": "Rank and linear correlation of volume with age.",
    "analyse/curves": "Volume against age as fitted, for the figures.",
    "analyse/summary": "Distribution of the volumes used.",
    "analyse/dropped": "Who is not in the trends of a structure, and why.",
    "analyse/table1": "Who is in the cohort.",
    "evaluate/pairs": "One row per model, scan and structure; all that was measured of it.",
    "evaluate/summary": "Averages of each model, over everything and by group.",
    "evaluate/comparisons": "Every two models, on the people that both have.",
    "evaluate/published": "The Dice that publishers give of a model beside the one found here.",
    "evaluate/reader_pairs": "With `--second-reader`: models against the second reader, and that "
    "reader against the expert; the columns of `pairs`.",
    "evaluate/readers": "With `--second-reader`: model against expert, model against second reader "
    "and reader against reader, on the same scans.",
    "analyse/flow": "From rows of the manifest to scans usable for trends.",
    "analyse/nonlinearity": "Whether the change with age bends, per structure and sex.",
    "analyse/slopes_at_age": "Change at 35, 50, 65 and 80 years, where the trend bends.",
    "analyse/peaks": "Age at which a trend that bends is highest.",
    "analyse/body_size": "How volumes go with height and BMI, and the slope unadjusted, adjusted "
    "and as a ratio, on the same scans.",
    "analyse/diagnostics": "What to look at before a slope is believed.",
    "analyse/influence": "The scans that move each structure's model most. Holds scan ids.",
    "analyse/quartiles": "Box plots by quartile of age, as published studies draw them.",
    "analyse/age_bands": "Distribution of the volumes by age and sex.",
    "analyse/centiles": "Centile curves by age and sex, by LMS and by quantile regression.",
    "analyse/calibration": "How many subjects lie below each centile, by age band.",
    "analyse/worms": "Worm plots: how far the subjects' scores are from standard normal, by age.",
    "analyse/within_between": "Slopes within people and between them, where people were rescanned.",
    "analyse/site_slopes": "Slopes within sites and between them; empty where there is one site.",
    "analyse/sensitivity": "The slopes, each time with one decision taken differently.",
    "analyse/missingness": "Who has no usable volume of a structure.",
    "analyse/literature": "The slopes beside published values, one row each.",
    "analyse/published_centiles": "Published centiles beside the people here of the same ages.",
    "analyse/suspected": "How many volumes are so far outside the rest that they may be remnants, "
    "what surgery left, or organs of a disease. None is left out for it.",
    "analyse/suspected_scans": "Which volumes these are. Holds scan ids.",
    "analyse/tipping": "Drift of the measurement with age that would cancel each slope.",
    "analyse/asymmetry": "Left against right of paired structures.",
    "analyse/time_of_day": "How volumes go with the time of day, where M2 adjusts for it; empty "
    "otherwise.",
    "analyse/companion_slopes": "Change with age of what companions show, such as the fat fraction "
    "of the liver; empty unless `analyse --companions` was given.",
    "analyse/two_models": "How another segmentation model differs, by age, sex and height; empty "
    "unless `analyse --agreement` was given.",
}

TYPES = {
    pa.string(): "text",
    pa.float64(): "real",
    pa.int64(): "integer",
    pa.bool_(): "true/false",
    pa.binary(): "bytes",
    pa.list_(pa.float64()): "list of real",
    pa.list_(pa.int64()): "list of integer",
}


def page() -> str:
    """docs/tables.md as it should be."""
    parts = [HEAD]
    for name, columns in (schemas.SCHEMAS | analyse.SCHEMAS | evaluate.SCHEMAS).items():
        parts.append(f"\n## `{name}`\n\n{INTRODUCTIONS[name]}\n")
        if name in ("measure/<model>/<shard>", "agreement/<model>/<shard>"):
            continue
        if columns is schemas.KEPT:
            columns = {name: columns[name] for name in columns if name not in schemas.VOLUMES}
        parts.append("| column | type | meaning |\n|---|---|---|")
        parts += [
            f"| `{column}` | {TYPES[about.type]} | {about.meaning.replace('|', chr(92) + '|')} |"
            for column, about in columns.items()
        ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
