"""How a sample's image reaches the annotator's browser: from S3, through Label Studio's file serving, or in the task."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit

from datasetops.errors import DatasetOpsError, NotFoundError
from datasetops.images import read_header
from datasetops.labeling.base import Address
from datasetops.labeling.label_studio.connection import Connection, LabelServerError

HOW: Final = ("auto", "s3", "local", "inline")
_EXPIRES: Final = 7 * 24 * 3600  # seconds, the longest that S3 signs for
_INLINE_BYTES: Final = 50 << 20
_FOLDERS: Final = 20  # local storages that are made at most
_SERVED: Final = "/data/local-files/?d="


def image_addresses(
    connection: Connection, project: int, places: Sequence[str], read: Callable[[int], bytes], how: str
) -> tuple[Address, str]:
    """See LabelServer.image_addresses. Raises LabelServerError where a way was asked for that does not work."""
    if how not in HOW:
        raise ValueError(f"images: expected one of {', '.join(HOW)}; got {how!r}")
    in_s3 = [place.startswith("s3://") for place in places]
    if how == "s3" or (how == "auto" and places and all(in_s3)):
        if not all(in_s3):
            raise LabelServerError("Not all images are in S3.", remedy="Leave --images out, or choose local or inline.")
        days = _EXPIRES // 86400
        return _signed(
            places
        ), f"Images come from S3 by signed addresses that hold for {days} days; push again to renew them."
    reason = "some images are in a bucket that Label Studio cannot be sent to"
    if how == "local" or (how == "auto" and not any("://" in place for place in places)):
        try:
            return _served(connection, project, places, read), "Images come through Label Studio's local file serving."
        except LabelServerError as error:
            if how == "local":
                raise
            reason = error.message
    return _inline(places, read, how, reason)


def expires_at(address: str) -> float | None:
    """When a signed address stops to work, in seconds since 1970; None where it does not."""
    fields = {name.lower(): values[0] for name, values in parse_qs(urlsplit(address).query).items()}
    if "signature" in fields and fields.get("expires", "").isdigit():
        return float(fields["expires"])
    if "x-amz-date" in fields and fields.get("x-amz-expires", "").isdigit():
        signed = datetime.strptime(fields["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return signed.timestamp() + float(fields["x-amz-expires"])
    return None


def _signed(places: Sequence[str]) -> Address:
    from datasetops.store.s3 import s3_client, split_url

    client = s3_client()

    def address(row: int) -> str:
        bucket, key = split_url(places[row])
        return str(
            client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=_EXPIRES)
        )

    return address


def _served(connection: Connection, project: int, places: Sequence[str], read: Callable[[int], bytes]) -> Address:
    """Addresses below the folder that the server may serve. Raises LabelServerError where it serves none of it."""
    common = Path(os.path.commonpath([str(Path(place).parent) for place in places]))
    try:
        _share(connection, project, [common])
    except LabelServerError:
        below = sorted({common / Path(place).relative_to(common).parts[0] for place in places})
        if any(not folder.is_dir() for folder in below) or len(below) > _FOLDERS:
            raise
        _share(connection, project, below)
    root = _root(connection, places[0], read(0))
    return lambda row: _SERVED + quote(PurePosixPath(places[row]).relative_to(root).as_posix())


def _share(connection: Connection, project: int, folders: Sequence[Path]) -> None:
    """Let the server serve these folders: a storage in the project for each, never synchronized."""
    there: list[dict[str, Any]] = connection.get("api/storages/localfiles", project=project)
    for folder in folders:
        if any(Path(str(storage["path"])) in (folder, *folder.parents) for storage in there):
            continue
        body = {"project": project, "path": str(folder), "title": "dsops images", "use_blob_urls": True}
        connection.call("POST", "api/storages/localfiles", body=body)


def _root(connection: Connection, place: str, data: bytes) -> PurePosixPath:
    """The folder that the server's file addresses are relative to, found by asking for one image."""
    path = PurePosixPath(place)
    for folder in reversed(path.parents):
        if connection.fetch(_SERVED + quote(path.relative_to(folder).as_posix())) == data:
            return folder
    raise LabelServerError(
        "Label Studio does not serve the images' folder.",
        remedy="Start it with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
        f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={path.parent.parent}.",
    )


def _inline(places: Sequence[str], read: Callable[[int], bytes], how: str, reason: str) -> tuple[Address, str]:
    addresses: list[str] = []
    size = 0
    for row, place in enumerate(places):
        try:
            data = read(row)
        except NotFoundError:
            raise DatasetOpsError(f"{place} is missing.", remedy="Put the image back, or leave it out.") from None
        size += len(data)
        if size > _INLINE_BYTES:
            raise LabelServerError(
                f"{len(places):,} images are too much to put into the tasks (50 MB at most), and there is no other way: "
                f"{reason}",
                remedy="Start Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
                "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT set to a folder above the images, or keep them in S3.",
            )
        addresses.append(f"data:{read_header(data).media_type};base64,{base64.b64encode(data).decode()}")
    why = "" if how == "inline" else f", because other ways do not work: {reason}"
    return addresses.__getitem__, f"Images are part of the tasks ({size / 1e6:.1f} MB){why}"
