"""Active learning: choose what to label next."""

from datasetops.active_learning.candidates import labeled_by_people
from datasetops.active_learning.rounds import Round, load_round, rounds
from datasetops.active_learning.select import select
from datasetops.active_learning.strategies import STRATEGIES

__all__ = ["STRATEGIES", "Round", "labeled_by_people", "load_round", "rounds", "select"]
