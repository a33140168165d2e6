"""`cohortvol dicom-seg`: label maps as DICOM SEG, volumes as structured reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortvol.cli.options import Results
from cohortvol.errors import FINISHED_WITH_PROBLEMS


def dicom_seg(
    results: Results,
    out: Annotated[Path, typer.Option(help="Folder to write, one per model.")],
    identified: Annotated[
        bool,
        typer.Option(
            "--identified",
            help="Write though ids are hashed: the objects bear the names and ids that the images "
            "have, beside the keys.",
        ),
    ] = False,
) -> None:
    r"""Write label maps and volumes of scans that came as DICOM back as DICOM.

    Each scan becomes a segmentation (DICOM SEG, one for each layer of the model) on its images,
    with SNOMED CT codes, and a structured report (TID 1500) of its volumes, for a viewer or an
    archive. The images must still lie where the manifest says. Volumes that quality control
    excludes are in no report, and scans that it excludes are left out. Run again, it writes what
    is new or changed, and takes away what is not done any more. Ends with 3 where a label map or
    images are gone or changed. Needs highdicom: pip install 'cohortvol\[dicom-seg]'.

    Example:
    [dim]cohortvol dicom-seg --results results/mine --out exported[/]
    """
    from cohortvol.tools.dicom_seg import run

    counts = run(results, out, identified=identified)
    typer.echo(f"{out}: {counts.written} scans written, {counts.as_they_were} as they were")
    for number, what in (
        (counts.not_dicom, "did not come as DICOM"),
        (counts.excluded, "excluded by quality control"),
        (counts.empty, "with an empty label map"),
        (counts.without_label_map, "whose label map is gone or changed"),
        *((n, f"whose images could not be found again ({code})")
          for code, n in sorted(counts.without_images.items())),
        (counts.removed, "files removed of scans that are not written any more"),
    ):  # fmt: skip
        if number:
            typer.echo(f"  {number} {what}")
    if counts.problems:
        raise typer.Exit(FINISHED_WITH_PROBLEMS)
