"""Active learning: choose what to label next."""

from datasetops.active_learning.rounds import Round, load_round, rounds
from datasetops.active_learning.select import STRATEGIES, select

__all__ = ["STRATEGIES", "Round", "load_round", "rounds", "select"]
