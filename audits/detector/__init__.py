"""A detector that learns from the given boxes alone, and judges those that it has not seen."""
