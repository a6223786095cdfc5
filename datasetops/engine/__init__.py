"""Engines: a model over many images, on one machine or on a cluster."""

from datasetops.engine.base import Engine, Fault, Item, Worker, engine_of, open_engine

__all__ = ["Engine", "Fault", "Item", "Worker", "engine_of", "open_engine"]
