"""Fitting: arrays in, numbers out. Least squares, robust, mixed, centiles, quantiles."""
