"""Models: their cards and files, the catalogue of published ones, and their networks.

Only `cohortvol.models.networks` imports torch.
"""
