"""What is found: slopes, curves, bends, centiles, correlations, sides, published values."""
