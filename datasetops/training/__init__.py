"""Training: recipes, models that are trained by them on a version, and records of what was trained on what."""
