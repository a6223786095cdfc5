"""Audits: find what is wrong with a version's labels, images and splits."""
