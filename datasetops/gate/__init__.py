"""The gate: what a version must show before it is accepted, and who accepted it."""
