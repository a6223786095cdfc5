"""A tree of files to read from: a local folder or a prefix in a bucket, the same for every format."""

from __future__ import annotations

import os
from pathlib import Path

from datasetops.errors import FormatError, NotFoundError
from datasetops.store.cloud_client import is_cloud
from datasetops.store.source_dvc import open_dvc
from datasetops.store.source_local import LocalTree
from datasetops.store.tree import SourceTree


def open_source(url: str | Path) -> SourceTree:
    """The tree at a local path or an s3://, gs:// or az:// URL. Naming one file opens its folder, with `single_file` set.

    S3 follows the AWS_* environment variables, AWS_ENDPOINT_URL included; the others see `cloud_client`. Raises
    NotFoundError where there is nothing, StoreError where a cloud refuses or cannot be reached, FormatError for other
    kinds of URL. What DVC tracks, or a .dvc file names, is as DVC has it (`source_dvc`).
    """
    text = str(url)
    if text.startswith("s3://"):
        from datasetops.store.source_s3 import open_s3

        return open_s3(text)
    if is_cloud(text):
        from datasetops.store.source_cloud import open_cloud_source

        return open_cloud_source(text)
    if "://" in text:
        raise FormatError(
            f"{text}: this kind of address cannot be read.",
            remedy="Name a local folder or file, or s3://, gs:// or az://bucket/prefix; download anything else first.",
        )
    path = Path(text).expanduser()
    tracked = open_dvc(path)
    if tracked is not None:
        return tracked
    if not path.exists():
        raise NotFoundError(f"{text}: there is no such file or folder.", remedy="Check the path's spelling.")
    root = Path(os.path.realpath(path))
    if root.is_dir():
        return LocalTree(root)
    # A link to a file stands for the file: its folder is where the link points, and so are the files beside it.
    return LocalTree(root.parent, single_file=root.name)
