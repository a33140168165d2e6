"""Fitting: arrays in, numbers out. Least squares, robust, mixed, LMS and quantile regression."""
