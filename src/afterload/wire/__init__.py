"""How blocks are encoded: one codec a file."""
