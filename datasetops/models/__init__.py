"""Models by reference, and embeddings of images."""

from datasetops.models.cache import EmbeddingCache
from datasetops.models.embed import embed_images
from datasetops.models.reference import Embedder, open_embedder

__all__ = ["Embedder", "EmbeddingCache", "embed_images", "open_embedder"]
