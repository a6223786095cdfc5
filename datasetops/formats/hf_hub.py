"""Data sets of the Hugging Face Hub: fetched by `datasets`, and kept as files of this machine."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from datasetops.errors import DatasetOpsError, FormatError, MissingDependencyError, NotFoundError
from datasetops.store.source_local import LocalTree

_NAME: Final = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubSet:
    """`tree` holds the files, `revision` is the commit that they are of; `address` names the set, whatever the commit."""

    tree: LocalTree
    address: str
    revision: str


def is_hub_name(source: str) -> bool:
    """Whether it is no file or folder, and has the form NAME[:CONFIG][@REVISION]."""
    return _NAME.fullmatch(source) is not None and not Path(source).exists()


def fetched_set(source: str, cache: Path) -> HubSet:
    """The set NAME[:CONFIG][@REVISION], fetched below `cache` unless that very commit is there.

    Raises MissingDependencyError, NotFoundError where the Hub has none, FormatError where a configuration is to be named,
    DatasetOpsError where the Hub cannot be reached.
    """
    match = _NAME.fullmatch(source)
    if match is None:
        raise ValueError(f"expected NAME[:CONFIG][@REVISION]; got {source!r}")
    if find_spec("datasets") is None:
        raise MissingDependencyError("datasets", extra="datasets", purpose="Reading from the Hugging Face Hub")
    name, config, revision = match["name"], match["config"], match["revision"]
    address = f"hf://datasets/{name}" + (f":{config}" if config else "")
    place = cache / "hub" / re.sub(r"\W+", "-", address.removeprefix("hf://datasets/"))
    commit = revision if revision and _COMMIT.fullmatch(revision) else None
    if commit is None or not (place / commit).is_dir():
        commit = _commit(source, name, revision)
        if not (place / commit).is_dir():
            _fetch(source, name, config, commit, place / commit)
    return HubSet(LocalTree(Path(os.path.realpath(place / commit))), address, commit)


def _commit(source: str, name: str, revision: str | None) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        found = HfApi().dataset_info(name, revision=revision)
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise NotFoundError(
            f"{source} is no file or folder here, and no data set of the Hub: {_first_line(error)}",
            remedy="Check the spelling. A private set needs a token: hf auth login",
        ) from None
    except (HfHubHTTPError, OSError, RuntimeError) as error:
        raise _away(source, error) from None
    except Exception as error:  # of the HTTP library, which is not this project's
        raise _away(source, error) from None
    return str(found.sha)


def _fetch(source: str, name: str, config: str | None, commit: str, target: Path) -> None:
    """Saved beside its place first: what is there is whole."""
    import datasets

    partial = target.with_name(f"{commit}.{os.getpid()}.part")
    try:
        loaded: Any = datasets.load_dataset(name, config, revision=commit)
        loaded.save_to_disk(str(partial))
        partial.rename(target)
    except ValueError as error:
        if "config" not in str(error).lower():
            raise FormatError(
                f"{source} cannot be read: {_first_line(error)}", remedy="Look at its page on the Hub."
            ) from None
        raise FormatError(
            f"{source} holds several data sets: {' '.join(str(error).split())[:300]}",
            remedy="Name one of them: NAME:CONFIG",
        ) from None
    except OSError as error:
        raise _away(source, error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _away(source: str, error: Exception) -> DatasetOpsError:
    return DatasetOpsError(
        f"{source} is no file or folder here, and the Hugging Face Hub cannot be reached: {_first_line(error)}",
        remedy="Check the network. Where there is one, `hf download --repo-type dataset NAME --local-dir DIR` fetches it: "
        "then ingest DIR.",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") + "." if str(error).strip() else type(error).__name__
