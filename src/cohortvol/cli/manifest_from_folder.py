"""`cohortvol manifest-from-folder`: a first manifest of the images below a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def manifest_from_folder(
    folder: Annotated[
        Path, typer.Argument(help="Folder of images: .nii, .nii.gz, .zip, .tar, .tar.gz.")
    ],
    out: Annotated[Path, typer.Option(help="Manifest to write, CSV.")],
    covariates: Annotated[
        Path | None, typer.Option(help="Table with scan_id, age_years, sex, ... to join.")
    ] = None,
) -> None:
    """Make a manifest out of a folder of images.

    Example:
    [dim]cohortvol manifest-from-folder data/images --out scans.csv[/]
    """
    from cohortvol.stages.manifest import write_from_folder

    write_from_folder(folder, out, covariates)
