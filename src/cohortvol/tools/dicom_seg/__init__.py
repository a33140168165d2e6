"""Label maps of scans that came as DICOM as DICOM SEG, and their volumes as a structured report."""

from cohortvol.tools.dicom_seg.run import Counts, run

__all__ = ["Counts", "run"]
