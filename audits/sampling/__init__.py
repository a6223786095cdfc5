"""Statistics of random samples: plans, bounds, estimates."""
