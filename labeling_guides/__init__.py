"""Labeling guides that come with dsops, one for each packaged label schema."""
