"""Which samples a model learned from, as its record says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasetops.manifest import Repository
from datasetops.records import sha256_hex
from datasetops.training.record import SAMPLES, ModelRecord, model_file


@dataclass(frozen=True)
class Learned:
    """`table` has sample_id and part (train, validation), as they are stored now; `sha256` is that of the list's file."""

    table: pa.Table
    sha256: str

    def get(self, sample_id: str) -> str | None:
        """The part that a sample was in, None where it was in none."""
        parts = self.table.filter(pc.equal(self.table["sample_id"], sample_id))["part"].to_pylist()
        return str(parts[0]) if parts else None

    @property
    def ids(self) -> pa.Array:
        return self.table["sample_id"].combine_chunks()

    def counts(self, ids: pa.Array | None = None) -> Mapping[str, int]:
        """How many samples each part has, of some alone where they are named."""
        rows = self.table if ids is None else self.table.filter(pc.is_in(self.table["sample_id"], value_set=ids))
        found = {item["values"]: item["counts"] for item in pc.value_counts(rows["part"]).to_pylist()}
        return {"train": found.get("train", 0), "validation": found.get("validation", 0)}


def learned(repository: Repository, record: ModelRecord) -> Learned:
    """Raises DamagedError where the list is missing or is not what the record says."""
    data = model_file(repository, record, SAMPLES)
    rows = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read(use_threads=False)
    part = rows["part"].cast(pa.string())
    return Learned(rows.set_column(rows.column_names.index("part"), "part", part), sha256_hex(data))
