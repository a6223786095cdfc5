"""Tracking: trainings and evaluations told to MLflow, Weights & Biases or another tracker, when they are done."""
