"""Erasure: items are taken out of every version and every record, and what was done is certified."""
