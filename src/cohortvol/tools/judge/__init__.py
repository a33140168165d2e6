"""Judging a model: its error without labels, and intervals around its volumes.

These run the worker of `cohortvol.stages.segment` on labelled scans or on changed copies of scans.
"""
