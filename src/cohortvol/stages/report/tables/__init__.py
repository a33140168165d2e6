"""What a report reads, and what of it may leave the house."""
