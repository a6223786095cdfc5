"""Buckets of Google Cloud Storage and containers of Azure Blob Storage by obstore, and its errors as ours.

Credentials and endpoints come from the environment or from the files it names, as the clouds' own tools have it:
GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_SERVICE_ACCOUNT, GOOGLE_BEARER_TOKEN, GOOGLE_BASE_URL;
AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or AZURE_TENANT_ID,
AZURE_CLIENT_ID and AZURE_CLIENT_SECRET; AZURE_STORAGE_ENDPOINT.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

from datasetops.errors import FormatError, MissingDependencyError, NotFoundError, StoreError
from datasetops.store.base import KeyExistsError

SCHEMES: Final = ("gs", "az")
_NOUNS: Final = {"gs": "bucket", "az": "container"}
_ENDPOINTS: Final = {"gs": ("GOOGLE_BASE_URL",), "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")}
_CREDENTIALS: Final = {
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS to a service account's key file, or run: gcloud auth application-default login",
    "az": "Set AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN.",
}
_NO_BUCKET: Final = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist|no bucket named", re.IGNORECASE)
_CODE: Final = re.compile(r"<Code>([A-Za-z]+)</Code>")
_STATUS: Final = re.compile(r"status code: (\d{3}(?: [A-Z][A-Za-z]+)*)")


def is_cloud(url: str) -> bool:
    return url.partition("://")[0] in SCHEMES and "://" in url


def split_url(url: str) -> tuple[str, str, str]:
    """`gs://bucket/some/prefix/` → ("gs", "bucket", "some/prefix"). Raises StoreError."""
    scheme, _, rest = url.partition("://")
    bucket, _, path = rest.partition("/")
    if scheme not in SCHEMES or not bucket:
        noun = _NOUNS.get(scheme, "bucket")
        raise StoreError(
            f"{url}: the {noun}'s name is missing.", remedy=f"Write it as {scheme or 'gs'}://{noun}/prefix."
        )
    return scheme, bucket, path.strip("/")


@lru_cache(maxsize=64)
def _client(scheme: str, bucket: str, endpoint: str, environment: tuple[tuple[str, str], ...]) -> Any:
    try:
        from obstore.store import AzureStore, GCSStore
    except ImportError:
        raise MissingDependencyError("obstore", extra="clouds", purpose=f"{scheme}://") from None
    options: dict[str, Any] = {
        "retry_config": {"max_retries": 4, "retry_timeout": timedelta(seconds=60)},
        "client_options": {
            "connect_timeout": timedelta(seconds=10),
            "read_timeout": timedelta(seconds=60),
            "timeout": timedelta(minutes=10),  # of a whole request: a part of a large file on a slow line
            "allow_http": endpoint.startswith("http://"),
        },
    }
    return GCSStore(bucket, **options) if scheme == "gs" else AzureStore(bucket, **options)


def open_bucket(scheme: str, bucket: str) -> Any:
    """obstore's client of a bucket, for the settings in the environment. Raises StoreError, MissingDependencyError."""
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith(("GOOGLE_", "AZURE_"))))
    with talking(f"{scheme}://{bucket}"):
        return _client(scheme, bucket, _endpoint(scheme), settings)


@contextmanager
def talking(url: str) -> Iterator[None]:
    """Turns obstore's errors about `url` into NotFoundError, KeyExistsError and StoreError.

    obstore's own messages quote addresses, which may hold a signature: only status and code are taken from them.
    """
    try:
        yield
    except ImportError:
        raise
    except FileNotFoundError as error:
        if _NO_BUCKET.search(str(error)):
            raise _no_bucket(url) from None
        raise NotFoundError(f"{url} does not exist.", remedy="Check the address's spelling.") from None
    except ValueError:
        raise FormatError(f"{url}: this name cannot be used in a bucket.", remedy="Leave out // and ..") from None
    except OSError as error:
        raise StoreError(f"{url}: {error.strerror or error}.", remedy="Check free space and permissions.") from None
    except Exception as error:
        if not type(error).__module__.startswith("obstore"):
            raise
        raise _explained(error, url) from None


def _explained(error: Exception, url: str) -> Exception:
    scheme, kind, text = url.partition("://")[0], type(error).__name__, str(error)
    where = _endpoint(scheme) or f"the network, and {_ENDPOINTS[scheme][0]} if it is set"
    told = _CODE.search(text) or _STATUS.search(text)
    code = f": {told.group(1)}" if told else ""
    if kind in ("AlreadyExistsError", "PreconditionError"):
        return KeyExistsError(url)
    if _NO_BUCKET.search(text):
        return _no_bucket(url)
    if kind == "InvalidPathError":
        return StoreError(
            f"{url} cannot be listed: an object below it has a name with // or .. in it.",
            remedy="Rename or delete that object, or name a prefix without it.",
        )
    if kind in ("PermissionDeniedError", "UnauthenticatedError"):
        return StoreError(
            f"{url}: access denied{code}.",
            remedy=f"Nothing was changed. Check the credentials and their rights to list, read and write. {_CREDENTIALS[scheme]}",
        )
    if any(word in text for word in ("token request", "MissingAccount", "Credential", "InvalidAccessKey", "metadata")):
        return StoreError(f"{url}: there are no credentials, or they cannot be used.", remedy=_CREDENTIALS[scheme])
    reason = code.removeprefix(": ") or "no answer"
    return StoreError(
        f"{url}: {reason}.", remedy=f"Nothing was changed. Check the connection ({where}), then run it again."
    )


def _no_bucket(url: str) -> StoreError:
    parts = urlsplit(url)
    noun = _NOUNS[parts.scheme]
    return StoreError(f"The {noun} {parts.netloc!r} does not exist.", remedy="Create it, or correct the address.")


def _endpoint(scheme: str) -> str:
    return next((os.environ[name] for name in _ENDPOINTS.get(scheme, ()) if os.environ.get(name)), "")
