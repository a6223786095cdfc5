"""Ed25519 signatures on the decisions that matter: accepting, rejecting, promoting, taking back, erasing.

A signature stands in an event's outputs, `signature: {key, value}`, both in hexadecimal. It is over the canonical JSON of
the event's kind, actor, inputs, outputs (without the signature), parameters, event_id and time. Keys are made known to a
repository by events of the kind `key`, and withdrawn by `key-revoke`: RFC 8032.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from datasetops.errors import DatasetOpsError, MissingDependencyError, NotFoundError
from datasetops.ledger import Entry, Event
from datasetops.records import canonical_json
from datasetops.secret_files import secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNED: Final = ("accept", "reject", "promote", "rollback", "erased", "key-revoke")
KEY, REVOKE = "key", "key-revoke"
_FIELD: Final = "signature"
_PASSWORD: Final = "DSOPS_KEY_PASSWORD"  # noqa: S105 (the variable's name)


class KeyFileError(DatasetOpsError):
    """A private key cannot be read or made."""


@dataclass(frozen=True)
class KnownKey:
    """A public key (64 hex digits), who made it known and when; `revoked` and `reason` where it was withdrawn."""

    key: str
    name: str
    actor: str
    time: str
    revoked: str | None = None
    reason: str = ""


def make_key(file: Path) -> str:
    """Write a new private key (PEM, for its owner's eyes only), encrypted where DSOPS_KEY_PASSWORD is set.

    Returns the public key. Raises KeyFileError where the file exists or cannot be written.
    """
    ed25519, serialization = _cryptography()
    key = ed25519.Ed25519PrivateKey.generate()
    password = (secret(_PASSWORD) or "").encode()
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    data = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
    try:
        file.touch(mode=0o600, exist_ok=False)
        file.write_bytes(data)
    except FileExistsError:
        raise KeyFileError(
            f"{file} exists.", remedy="Name another file: a key that is lost cannot be made again."
        ) from None
    except OSError as error:
        raise KeyFileError(f"{file} cannot be written: {error.strerror}.", remedy="Name another place.") from None
    return public_key(key)


def load_key(file: Path) -> Ed25519PrivateKey:
    """Raises KeyFileError."""
    ed25519, serialization = _cryptography()
    password = secret(_PASSWORD)
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), password.encode() if password else None)
    except OSError as error:
        raise KeyFileError(
            f"The key {file} cannot be read: {error.strerror}.", remedy="Check the setting key."
        ) from None
    except (ValueError, TypeError) as error:
        raise KeyFileError(
            f"{file}: {error}", remedy=f"Give its password by {_PASSWORD}, or name another key."
        ) from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise KeyFileError(f"{file} is no Ed25519 key.", remedy="Make one with: dsops keys make FILE")
    private: Ed25519PrivateKey = key
    return private


def public_key(key: Ed25519PrivateKey) -> str:
    return str(key.public_key().public_bytes_raw().hex())


def signer(file: Path | None) -> Callable[[Event], Event] | None:
    """What signs events with the key in a file; it is read when the first is to be signed. None without a file."""
    if file is None:
        return None
    kept: list[Ed25519PrivateKey] = []

    def sign(event: Event) -> Event:
        if event.kind not in SIGNED:
            return event
        if not kept:
            kept.append(load_key(file))
        value = kept[0].sign(signed_bytes(event)).hex()
        return replace(event, outputs={**event.outputs, _FIELD: {"key": public_key(kept[0]), "value": value}})

    return sign


def signed_bytes(event: Event) -> bytes:
    told = {name: getattr(event, name) for name in ("kind", "actor", "inputs", "parameters", "event_id", "time")}
    return canonical_json({**told, "outputs": {k: v for k, v in event.outputs.items() if k != _FIELD}})


def signature_of(event: Event) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = event.outputs.get(_FIELD)
    return found


def known_keys(entries: Iterable[Entry]) -> dict[str, KnownKey]:
    """Public keys by what they are, from entries oldest first."""
    found: dict[str, KnownKey] = {}
    for entry in entries:
        event = entry.event
        if event.kind == KEY:
            key = str(event.outputs["key"])
            found[key] = KnownKey(key, str(event.parameters.get("name", "")), event.actor, event.time)
        elif event.kind == REVOKE and event.parameters["key"] in found:
            key = str(event.parameters["key"])
            found[key] = replace(found[key], revoked=event.time, reason=str(event.parameters.get("reason", "")))
    return found


def check_signatures(entries: Iterable[Entry], rewritten: Iterable[int] = ()) -> Iterator[tuple[int, str]]:
    """(number of the entry, what is wrong) for each signature that does not hold; entries oldest first.

    Entries that an erasure has rewritten are left out: their signature was over what stood there before.
    """
    known: set[str] = set()
    left = set(rewritten)
    for entry in entries:
        event = entry.event
        if event.kind == KEY:
            known.add(str(event.outputs["key"]))
        told = signature_of(event)
        if told is None or entry.number in left:
            continue
        if not _holds(str(told.get("key", "")), str(told.get("value", "")), signed_bytes(event)):
            yield entry.number, "its signature does not fit what it says"
        elif told["key"] not in known:
            yield entry.number, f"it is signed by a key that nobody had made known: {str(told['key'])[:16]}…"
        if event.kind == REVOKE:
            known.discard(str(event.parameters["key"]))


def _holds(key: str, value: str, data: bytes) -> bool:
    ed25519, _ = _cryptography()
    from cryptography.exceptions import InvalidSignature

    try:
        ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(value), data)
    except (InvalidSignature, ValueError):
        return False
    return True


def find_key(keys: Mapping[str, KnownKey], name: str) -> KnownKey:
    """A key by its name or the beginning of its digits. Raises NotFoundError."""
    found = [one for one in keys.values() if one.name == name or one.key.startswith(name)]
    if len(found) != 1:
        raise NotFoundError(f"There is no single key {name!r}.", remedy="List them: dsops keys list")
    return found[0]


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise MissingDependencyError("cryptography", extra="keys", purpose="Signing") from None
    return ed25519, serialization
