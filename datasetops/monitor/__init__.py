"""Monitoring: samples of production against the version that a model was trained on."""
