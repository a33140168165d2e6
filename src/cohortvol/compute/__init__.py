"""Where the work is done: processor, memory, GPU, cluster, and what is installed there."""
