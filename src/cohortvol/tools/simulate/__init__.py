"""Synthetic cohorts with known truth: subjects, organ volumes, anatomies and MR images."""
