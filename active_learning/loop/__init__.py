"""The full loop as one command that goes on where it was: select, push, wait, pull, audit, train, report."""

from datasetops.active_learning.loop.config import Config, load_config
from datasetops.active_learning.loop.run import LoopResult, run_loop

__all__ = ["Config", "LoopResult", "load_config", "run_loop"]
