"""Who is analysed: the tables that come in, which volumes count, settings, groups and bands."""
