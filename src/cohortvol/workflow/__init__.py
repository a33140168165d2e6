"""What the rules of Snakemake need to know: settings, jobs, what runs again and why.

`run` is what ``workflow/rules/common.smk`` calls; `settings` reads the config, `flow` says what
each job reads and makes, `plan` which must run, `engine` asks Snakemake, `training` serves
``workflow/training.smk``.
"""
