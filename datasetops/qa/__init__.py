"""Sampled QA: plan, draw, have people review, and say what the answers prove."""
