"""Label maps that were made elsewhere: their bytes, by which a change of them is seen.

Whether one can be used is for segment to say, and only where the model is one of such label maps.
"""

from __future__ import annotations

from pathlib import Path

from cohortvol.errors import ScanError
from cohortvol.stages.ingest.source import is_inside
from cohortvol.store.label_maps import digest_of_files, files_of
from cohortvol.store.storage import is_fault, of_scan


def digest_of_label_map(dseg: str, allow_roots: tuple[str, ...] = ()) -> str | None:
    """sha256 of a label map; None where there is none, or it may not be read.

    Parameters
    ----------
    dseg : str
        Path as the manifest gives it, see `cohortvol.store.label_maps`.
    allow_roots : tuple of str
        Folders in which its files must lie, links followed; empty for anywhere.

    Raises
    ------
    ScanError
        ``SRC_OUTSIDE_ROOT`` or ``IO_READ_ERROR``.
    TemporaryError
        If the storage fails, and not for these files alone.
    """

    def read() -> str | None:
        if not all(is_inside(file, allow_roots) for _, file in files_of(dseg)):
            raise ScanError("SRC_OUTSIDE_ROOT", "its label map")
        return digest_of_files(dseg)

    try:
        return of_scan(Path(dseg), read)
    except OSError as error:
        if is_fault(error):
            raise
        return None
