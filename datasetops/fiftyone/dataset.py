"""One dataset of FiftyOne: found by its name or made, its fields, its samples as documents, its saved views."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from datasetops.errors import ConflictError
from datasetops.fiftyone.labels import FIELDS, Document
from datasetops.fiftyone.merge import DIGESTS
from datasetops.fiftyone.values import Type
from datasetops.schema import LabelSchema

INFO: Final = "dsops"  # key of what is kept in the dataset's `info`
_DETAILS: Final[dict[str, Type]] = {
    **dict.fromkeys(("finding_id", "check", "severity", "message", "annotation_id", "given", "suggested"), "text"),
    "score": "number",
}


class Target:
    """A dataset that belongs to one repository. `info` is what the last export left: version, audit, label keys, …"""

    def __init__(self, fiftyone: Any, name: str, owner: Mapping[str, Any]) -> None:
        """Opens or makes it. `owner` says whose it is. Raises ConflictError where it is somebody else's."""
        self._fo = fiftyone
        self.name = name
        self.created = not fiftyone.dataset_exists(name)
        self._dataset = fiftyone.Dataset(name, persistent=True) if self.created else fiftyone.load_dataset(name)
        if self.created:
            self._dataset.media_type = fiftyone.core.media.IMAGE
            self.keep_info(dict(owner))
        self.info: dict[str, Any] = dict(self._dataset.info.get(INFO) or {})
        for key, value in owner.items():
            if self.info.get(key) != value:
                raise ConflictError(_not_ours(name, key, self.info), remedy="Choose another name with --name NAME.")
        # Written as the database holds them: its own objects take about seven times as long.
        self._samples = self._dataset._sample_collection

    def keep_info(self, info: Mapping[str, Any]) -> None:
        self._dataset.info[INFO] = self.info = dict(info)
        self._dataset.save()

    def describe(self, schema: LabelSchema, label_fields: Iterable[str]) -> None:
        """Classes of each label field, and names and lines of keypoints."""
        self._dataset.classes = {name: list(schema.class_names) for name in sorted(label_fields)}
        task = schema.task("keypoints")
        if task is not None:
            edges = [[task.keypoints.index(point) for point in line] for line in task.skeleton]
            skeleton = self._fo.KeypointSkeleton(labels=list(task.keypoints), edges=edges)
            self._dataset.skeletons = {"keypoints": skeleton}
        self._dataset.save()

    # --- fields -----------------------------------------------------------------------------------------------------

    def reserved(self) -> set[str]:
        """Names that a plain field cannot have: FiftyOne's own, and fields that others made."""
        there = set(self._dataset.get_field_schema())
        return {name for name in dir(self._fo.Sample) if not name.startswith("_")} | (
            {"pk", "findings", "finding_rank", DIGESTS, *FIELDS, *there} - set(self.info.get("fields", ()))
        )

    def declare(
        self, plain: Mapping[str, Type | None], labels: Mapping[str, Mapping[str, Type]], checks: Sequence[str]
    ) -> None:
        """Fields of samples, of labels by field, and of findings; a plain type of None is a time."""
        fields = self._fo.core.fields
        of_type = {
            "boolean": fields.BooleanField,
            "integer": fields.IntField,
            "number": fields.FloatField,
            "text": fields.StringField,
            None: fields.DateTimeField,
        }
        wanted = {name: self._field(name, of_type[kind]) for name, kind in plain.items()}
        for name, attributes in labels.items():
            label_class, within = FIELDS[name]
            wanted[name] = self._document(name, getattr(self._fo, label_class))
            for key, kind in attributes.items():
                path = ".".join(part for part in (name, within, key) if part)
                wanted[path] = self._field(path, of_type[kind])
        if checks:
            document = self._fo.DynamicEmbeddedDocument
            listed = {"subfield": fields.EmbeddedDocumentField, "embedded_doc_type": document}
            about = "What audits found, worst first"
            wanted["findings"] = self._field("findings", fields.ListField, description=about, **listed)
            for key, kind in _DETAILS.items():
                wanted[f"findings.{key}"] = self._field(key, of_type[kind])
            wanted["findings.related"] = self._field("related", fields.ListField, subfield=fields.StringField)
            about = "Place of the worst finding in the order of review, from 0: among all, and among those of a check"
            wanted["finding_rank"] = self._document("finding_rank", document, description=about)
            wanted |= {f"finding_rank.{check}": self._field(check, fields.IntField) for check in checks}
        about = "Of labels as dsops wrote them: tells what was changed here"
        wanted[DIGESTS] = self._field(DIGESTS, fields.DictField, description=about)
        for name in sorted(set(self.info.get("fields", ())) - plain.keys()):
            self._dataset.delete_sample_field(name)
        self._add(wanted)

    def _field(self, path: str, kind: Any, **details: Any) -> Any:
        return self._fo.core.odm.create_field(path.rpartition(".")[2], kind, **details)

    def _document(self, name: str, document: Any, **details: Any) -> Any:
        kind = self._fo.core.fields.EmbeddedDocumentField
        return self._field(name, kind, embedded_doc_type=document, **details)

    def _add(self, wanted: Mapping[str, Any]) -> None:
        """Fields that are not there yet, those of another type in place of what is there."""
        missing = {}
        for path, field in wanted.items():
            there = self._dataset.get_field(path)
            if there is not None and type(there) is type(field):
                continue
            if there is not None and "." in path:
                self._dataset.remove_dynamic_sample_field(path)  # from the schema: values stay
            elif there is not None:
                self._dataset.delete_sample_field(path)
            missing[path] = field
        for nested in (False, True):
            # All at once: one by one, FiftyOne reads all fields anew after each.
            self._dataset._merge_sample_field_schema({p: f for p, f in missing.items() if ("." in p) == nested})

    # --- samples ----------------------------------------------------------------------------------------------------

    def find(self, ids: Sequence[Any]) -> dict[Any, Document]:
        """Samples by the id of the database, of those that are there."""
        return {document["_id"]: document for document in self._samples.find({"_id": {"$in": list(ids)}})}

    def written(self) -> Iterator[Any]:
        """The database's ids of all samples that were written from here."""
        for document in self._samples.find({DIGESTS: {"$exists": True}}, {"_id": 1}):
            yield document["_id"]

    def count(self) -> int:
        """All samples, those that others added too."""
        return int(self._dataset.count())

    def other_label_fields(self) -> list[str]:
        """Fields with labels that others made."""
        schema = self._dataset.get_field_schema(embedded_doc_type=self._fo.Label)
        return sorted(schema.keys() - FIELDS.keys())

    def write(self, new: Sequence[Document], changed: Mapping[Any, tuple[Document, Sequence[str]]]) -> None:
        """Insert samples; set and remove fields of others, by the database's id."""
        from pymongo import UpdateOne

        now = datetime.now(UTC).replace(tzinfo=None)
        if new:
            stamp = {"created_at": now, "last_modified_at": now, "_media_type": "image"}
            own = {"_dataset_id": self._dataset._doc.id}
            self._samples.insert_many([document | stamp | own for document in new], ordered=False)
        steps = []
        for name, (values, gone) in changed.items():
            change = {"$set": values | {"last_modified_at": now}}
            steps.append(UpdateOne({"_id": name}, change | ({"$unset": dict.fromkeys(gone, "")} if gone else {})))
        if steps:
            self._samples.bulk_write(steps, ordered=False)

    def remove(self, ids: Sequence[Any]) -> None:
        self._dataset.delete_samples([str(name) for name in ids])

    # --- views ------------------------------------------------------------------------------------------------------

    def save_views(self, wanted: Mapping[str, tuple[str, str, str]]) -> list[str]:
        """Views by name: (the tag of their samples, the field that they are sorted by, description).

        Views that an earlier export made and that are no longer wanted go. Returns names that are taken by others' views.
        """
        self._dataset.reload()
        there, ours = set(self._dataset.list_saved_views()), set(self.info.get("views", ()))
        for name in sorted(there & ours - wanted.keys()):
            self._dataset.delete_saved_view(name)
        taken = sorted((there & wanted.keys()) - ours)
        made = sorted(wanted.keys() - set(taken))
        self.keep_info(self.info | {"views": made})
        for name in made:
            tag, order, description = wanted[name]
            view = self._dataset.match_tags(tag).sort_by(order)
            self._dataset.save_view(name, view, description=description, overwrite=True)
        return taken


def _not_ours(name: str, key: str, info: Mapping[str, Any]) -> str:
    if not info:
        return f"FiftyOne has a dataset {name!r} that was not made by dsops."
    if key == "where":
        chosen = f"the samples where {info[key]}" if info.get(key) else "all samples"
        return f"The dataset {name!r} in FiftyOne holds {chosen}; another choice would take samples out of it."
    return f"The dataset {name!r} in FiftyOne holds another repository's samples."
