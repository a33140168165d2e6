"""Structures, the grids that images stand on, and label maps on them."""
