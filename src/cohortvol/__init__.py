"""Organ volumes and age trends from population-scale abdominal MRI."""

__version__ = "0.1.0"
