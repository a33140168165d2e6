"""Every figure of a report, one module each, on shared panels and rows."""
