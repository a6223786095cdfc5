"""The scorecard: the figures that a vision team is judged by, per version and model, read from what commands recorded."""
