"""Organ volumes and age trends from population-scale abdominal MRI.

The house, from the roof down. A part imports what stands on a floor below its own; parts of one
floor, stages among themselves and tools among themselves do not know each other:

    cli             one file per subcommand: parse, call one stage or tool, print errors
    workflow        what the rules of Snakemake ask: settings, jobs, what runs again and why
    stages  tools   the flow, in its order; what stands beside it and reads what a stage wrote
    models          cards, catalogue, weights, intervals, networks
    drawing         how figures look and pages are put together
    anatomy         structures, grids, label maps
    compute         processor, GPU, cluster, what is installed
    store           how anything is written, read, hidden and removed
    config          settings and their schema
    errors  ranges  reasons  shipped

One tool uses the network of ``stages.segment``: ``judge``.
"""

__version__ = "0.1.0"
