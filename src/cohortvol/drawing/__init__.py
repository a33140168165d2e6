"""How figures look and how pages are put together, for every page this package makes."""
