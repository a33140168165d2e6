"""How anything is written, read, hidden and removed."""
