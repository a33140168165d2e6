"""What the rules of Snakemake need to know: settings, jobs, what runs again and why."""
