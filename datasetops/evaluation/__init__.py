"""How good a model is on a version: metrics, calibration, slices, comparison of two models, and their reports."""
