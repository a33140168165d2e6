"""Whether it holds: other analyses, who is missing, error of segmentation, diagnostics."""
