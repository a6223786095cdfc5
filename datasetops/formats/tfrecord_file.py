"""TFRecord files of tf.train.Example messages, written without TensorFlow.

A record is its length (8 bytes), a masked CRC-32C of the length, the message, and a masked CRC-32C of the message, all
little-endian; a message is protobuf's wire format of tensorflow/core/example/example.proto and feature.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from datasetops.errors import MissingDependencyError, StoreError

Feature = Sequence[bytes] | Sequence[float] | Sequence[int]
SHARD_BYTES: Final = 128 << 20


def example(features: Mapping[str, Feature]) -> bytes:
    """A serialized tf.train.Example: lists of bytes, floats (32 bits) or integers by name, in the order of the names.

    Empty lists are written as empty features. Raises TypeError for other values.
    """
    entries = (_field(1, _field(1, name.encode()) + _field(2, _feature(features[name]))) for name in sorted(features))
    return _field(1, b"".join(entries))


def _feature(values: Feature) -> bytes:
    if not values:
        return b""
    if all(isinstance(value, bytes) for value in values):
        return _field(1, b"".join(_field(1, value) for value in values))  # type: ignore[arg-type]
    if all(isinstance(value, float) for value in values):
        return _field(2, _field(1, struct.pack(f"<{len(values)}f", *values)))
    if all(isinstance(value, int) for value in values):
        return _field(3, _field(1, b"".join(_varint(value) for value in values)))  # type: ignore[arg-type]
    raise TypeError(f"features: expected bytes, floats or integers; got {values!r}")


def _field(number: int, data: bytes) -> bytes:
    """A field of the wire type that has its length before it."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers as two's complement
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class Shards:
    """Files `NAME.tfrecord-00000-of-00003`, a new one where one has `limit` bytes; whole when the block ends without error.

    Raises StoreError where they cannot be written, MissingDependencyError without google-crc32c.
    """

    def __init__(self, folder: Path, name: str, limit: int = SHARD_BYTES) -> None:
        try:
            import google_crc32c
        except ImportError:
            raise MissingDependencyError("google-crc32c", extra="tfrecord", purpose="Writing TFRecord files") from None
        self._crc = google_crc32c.value
        self._folder, self._name, self._limit = folder, name, limit
        self._files: list[Path] = []
        self._open: IO[bytes] | None = None

    def __enter__(self) -> Shards:
        return self

    def write(self, message: bytes) -> None:
        try:
            if self._open is None or self._open.tell() >= self._limit:
                self._next()
            if self._open is not None:
                length = struct.pack("<Q", len(message))
                self._open.write(length + self._masked(length) + message + self._masked(message))
        except OSError as error:
            raise _failed(self._files[-1], error) from error

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if self._open is not None:
                self._open.close()
            for number, file in enumerate(self._files):
                if kind is not None:
                    file.unlink(missing_ok=True)
                else:
                    file.rename(self._folder / f"{self._name}.tfrecord-{number:05}-of-{len(self._files):05}")
        except OSError as error:
            raise _failed(self._folder, error) from error

    def __len__(self) -> int:
        return len(self._files)

    def _next(self) -> None:
        if self._open is not None:
            self._open.close()
        self._files.append(self._folder / f"{self._name}.tfrecord-{len(self._files):05}.part")
        self._open = self._files[-1].open("wb")

    def _masked(self, data: bytes) -> bytes:
        crc = self._crc(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _failed(file: Path, error: OSError) -> StoreError:
    return StoreError(f"{file} cannot be written: {error.strerror}.", remedy="Free space, or name another folder.")
