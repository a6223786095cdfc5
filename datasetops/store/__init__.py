"""Stores: where a repository keeps its objects."""

from __future__ import annotations

from pathlib import Path

from datasetops.store.base import KeyExistsError, Store

__all__ = ["KeyExistsError", "Store", "open_store"]


def open_store(url: str, *, cache: Path) -> Store:
    """The store at a local path or an address like s3://bucket/prefix; `cache` may hold copies of remote objects.

    Schemes are plugins (entry-point group `datasetops.stores`, a callable of url and cache). Raises StoreError for an
    unknown scheme.
    """
    from datasetops.plugins import load_plugin

    scheme, separator, _ = url.partition("://")
    store: Store = load_plugin("stores", scheme if separator else "file")(url, cache)
    return store
