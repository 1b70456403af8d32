"""Sets of known hashes: reading files, validating rows, and the only writer to the store."""
