"""The page: its first answer, its tables, its checklists, and the one HTML file."""
