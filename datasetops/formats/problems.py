"""Faults found while a source is read, as findings of the check "ingest"."""

from __future__ import annotations

from dataclasses import dataclass, field

from datasetops.records import Finding
from datasetops.schema import LabelSchema
from datasetops.store.tree import SourceTree

_SCORES = {"high": 0.0, "medium": 0.3, "low": 0.7}  # 1 = clean


@dataclass
class Problems:
    """Collects findings about the files of one source; `rejected` counts the images and annotations left out."""

    source: SourceTree
    findings: list[Finding] = field(default_factory=list)
    rejected: int = 0

    def reject(
        self, message: str, *, path: str, given: str | None = None, suggested: str | None = None, count: int = 1
    ) -> None:
        """Something that cannot be taken in. `path`: the file that says so; `count`: images or annotations lost."""
        self.rejected += count
        self._add("high", message, path, given, suggested)

    def warn(self, message: str, *, path: str, severity: str = "medium", given: str | None = None) -> None:
        """Something that was taken in all the same."""
        self._add(severity, message, path, given, None)

    def unknown_class(self, name: str, schema: LabelSchema, *, path: str, where: str, count: int = 1) -> None:
        """One finding for a class name that the schema does not have; its `count` annotations are left out."""
        nearest = schema.nearest(name)
        hint = f"; did you mean {nearest!r}?" if nearest else ""
        left_out = f" ({count} annotations left out)" if count > 1 else ""
        self.reject(
            f"{where}: the schema {schema.name} has no class {name!r}{hint}{left_out}",
            path=path,
            given=name,
            suggested=nearest,
            count=count,
        )

    def _add(self, severity: str, message: str, path: str, given: str | None, suggested: str | None) -> None:
        uri = self.source.uri(path) if path else self.source.url
        self.findings.append(
            Finding("ingest", severity, _SCORES[severity], message, uri=uri, given=given, suggested=suggested)
        )
