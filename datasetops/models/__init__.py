"""Models by reference, and embeddings of images."""

from datasetops.models.cache import EmbeddingCache
from datasetops.models.embed import elsewhere, embed_images, embed_stored
from datasetops.models.reference import Embedder, open_embedder

__all__ = ["Embedder", "EmbeddingCache", "elsewhere", "embed_images", "embed_stored", "open_embedder"]
