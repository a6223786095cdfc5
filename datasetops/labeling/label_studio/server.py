"""Tasks to a Label Studio project and answers back: nothing twice, nothing lost, whatever breaks in between."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from datasetops.errors import ConflictError, NotFoundError
from datasetops.labeling.base import Address, Answer, AnsweredTask, Pulled, PushCount, Sizes, Task
from datasetops.labeling.batch import Project
from datasetops.labeling.label_studio.connection import SLOW, Connection, LabelServerError, UnansweredError
from datasetops.labeling.label_studio.images import expires_at, image_addresses
from datasetops.labeling.label_studio.project import hand_edits
from datasetops.labeling.label_studio.regions import regions_of
from datasetops.labeling.label_studio.results import results_of
from datasetops.progress import Progress
from datasetops.schema import LabelSchema

_CHUNK: Final = 2_000  # tasks of one request: all of them are made, or none
_ATTEMPTS: Final = 3  # at one request whose answers are lost
_CHUNK_BYTES: Final = 32 << 20
_SETTLE: Final = 20.0  # seconds after a lost answer for which its tasks may still appear
_EXPORT: Final = 900  # tasks of one export: the server takes at most 1,000 fields in a query
_RENEWED: Final = 24 * 3600  # seconds before its end from which an address is renewed
_PAGE: Final = 10_000
_WINDOW: Final = 5  # seconds before the newest change that the next pull looks at again


class LabelStudioServer:
    """See `labeling.base.LabelServer`."""

    name = "label-studio"

    def __init__(self, connection: Connection, project: Project, schema: LabelSchema) -> None:
        self._connection = connection
        self._project = project
        self._schema = schema

    @property
    def version(self) -> str:
        return self._connection.version

    def image_addresses(self, places: Sequence[str], read: Callable[[int], bytes], how: str) -> tuple[Address, str]:
        return image_addresses(self._connection, self._project.id, places, read, how)

    # --- push -------------------------------------------------------------------------------------------------------

    def push(self, batch: str, names: Sequence[str], make: Callable[[int], Task], *, progress: Progress) -> PushCount:
        """See LabelServer. Each request makes all of its tasks or none; after a lost answer the tasks are counted."""
        known = dict(self._tasks_of(batch)) if self._count(batch) else {}
        missing = [row for row, name in enumerate(names) if name not in known]
        done = iter(progress(range(len(missing)), len(missing), "Pushing tasks"))
        models: dict[str, None] = {}
        chunks = self._chunks(make(row) for row in missing)
        with ThreadPoolExecutor(1) as preparing:  # the next request is made up while the server works on this one
            following = preparing.submit(next, chunks, None)
            while chunk := following.result():
                following = preparing.submit(next, chunks, None)
                tasks, body = chunk
                self._import(batch, {task.sample_id for task in tasks}, body)
                models |= {task.model: None for task in tasks if task.annotations and task.model}
                for _ in tasks:
                    next(done, None)
        next(done, None)
        self._show_predictions(next(iter(models), None))
        renewed = self._renew(known, names, make, progress)
        removed = self._remove_doubles(batch) if self._count(batch) > len(names) else 0
        return PushCount(len(missing), len(names) - len(missing), removed, renewed)

    def _renew(
        self, known: Mapping[str, dict[str, Any]], names: Sequence[str], make: Callable[[int], Task], progress: Progress
    ) -> int:
        """Give tasks that are still to be done new addresses where theirs expire within a day."""
        soon = time.time() + _RENEWED
        rows = [
            row
            for row, name in enumerate(names)
            if (task := known.get(name)) and not _is_answered(task)
            if (expiry := expires_at(task["data"]["image"])) is not None and expiry < soon
        ]
        for row in progress(rows, len(rows), "Renewing addresses"):
            task = known[names[row]]
            body = {"data": task["data"] | {"image": make(row).image}}
            self._connection.call("PATCH", f"api/tasks/{task['id']}/", body=body, again=True)
        return len(rows)

    def _chunks(self, tasks: Iterable[Task]) -> Iterator[tuple[list[Task], list[orjson.Fragment]]]:
        chunk: list[Task] = []
        body: list[orjson.Fragment] = []
        size = 0
        for task in tasks:
            data = orjson.dumps(self._as_json(task))
            if chunk and (len(chunk) == _CHUNK or size + len(data) > _CHUNK_BYTES):
                yield chunk, body
                chunk, body, size = [], [], 0
            chunk.append(task)
            body.append(orjson.Fragment(data))
            size += len(data)
        if chunk:
            yield chunk, body

    def _as_json(self, task: Task) -> dict[str, Any]:
        data = {"image": task.image, "sample_id": task.sample_id, "batch": task.batch}
        results = results_of(task.annotations, self._schema, task.size)
        if not results:
            return {"data": data}
        return {
            "data": data,
            "predictions": [{"model_version": task.model, "score": task.score, "result": results}],
        }

    def _import(self, batch: str, names: set[str], body: list[orjson.Fragment]) -> None:
        path = f"api/projects/{self._project.id}/import"
        for attempt in range(_ATTEMPTS):
            try:
                self._connection.call("POST", path, body=body, params={"return_task_ids": "false"}, timeout=SLOW)
                return
            except UnansweredError:
                if self._arrived(batch, names):
                    return
                if attempt == _ATTEMPTS - 1:
                    raise

    def _arrived(self, batch: str, names: set[str]) -> bool:
        """Whether a request whose answer was lost has made its tasks, once the server answers again."""
        deadline = time.monotonic() + _SETTLE
        while True:
            there = {sample for sample, _ in self._tasks_of(batch)}
            if names <= there:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(1.0)

    def _remove_doubles(self, batch: str) -> int:
        """Delete tasks that a late request made twice; of each sample the one with answers, or the first, stays."""
        of_sample: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for sample, task in self._tasks_of(batch):
            of_sample[sample].append(task)
        doubles = []
        for tasks in of_sample.values():
            tasks.sort(key=lambda task: (not _is_answered(task), task["id"]))
            doubles += [task["id"] for task in tasks[1:] if not _is_answered(task)]
        self._delete(doubles)
        return len(doubles)

    def remove(self, batch: str, names: Sequence[str]) -> int:
        """See LabelServer."""
        wanted = set(names)
        found = [task["id"] for sample, task in self._tasks_of(batch) if sample in wanted]
        self._delete(found)
        return len(found)

    def _delete(self, ids: Sequence[int]) -> None:
        for start in range(0, len(ids), _CHUNK):  # without a list of tasks the server would delete them all
            selected = {"selectedItems": {"all": False, "included": ids[start : start + _CHUNK]}}
            params = {"id": "delete_tasks", "project": self._project.id}
            self._connection.call("POST", "api/dm/actions", body=selected, params=params, timeout=SLOW, again=True)

    def prepare(self, *, overlap: int) -> None:
        """See LabelServer. How many annotators are asked is a setting of the whole project."""
        project = self._settings()
        if project["maximum_annotations"] == overlap:
            return
        if project["task_number"]:
            raise ConflictError(
                f"The project {self._project.name!r} asks {project['maximum_annotations']} annotators for each item, "
                f"not {overlap}; Label Studio would change that for the items it has, too.",
                remedy="Use a project of its own for this batch: --project NAME, made by dsops label setup.",
            )
        self._connection.call(
            "PATCH", f"api/projects/{self._project.id}/", body={"maximum_annotations": overlap}, again=True
        )

    def _show_predictions(self, model: str | None) -> None:
        """Annotators see the predictions of one model version, which has to be named."""
        if model and self._settings()["model_version"] != model:
            body = {"model_version": model}
            self._connection.call("PATCH", f"api/projects/{self._project.id}/", body=body, again=True)

    # --- pull -------------------------------------------------------------------------------------------------------

    def pull(self, cursor: Mapping[str, Any], sizes: Sizes, *, expected: int, again: Sequence[str] = ()) -> Pulled:
        """See LabelServer. The cursor has the server's own time of the newest change seen, and the tasks around it."""
        with ThreadPoolExecutor(1) as other:  # each request waits some hundredths of a second
            listed = other.submit(self._changed, cursor)
            settings = self._settings()
            changed = listed.result()
        edits = hand_edits(self._project, settings["label_config"])
        warnings = [f"The interface was edited in Label Studio: {edit}." for edit in edits]
        recent: dict[str, str] = cursor.get("recent", {})
        fresh = [task for task in changed if recent.get(str(task["id"])) != task["updated_at"]]
        wanted = [task["id"] for task in fresh if _is_answered(task)]
        wanted += [int(name) for name in again if int(name) not in set(wanted)]
        exported = [
            task for start in range(0, len(wanted), _EXPORT) for task in self._export(wanted[start : start + _EXPORT])
        ]
        known = sizes([str(task["data"].get("sample_id")) for task in exported])
        people = self._people(exported, cursor.get("people", {}))
        tasks = [
            self._answered(task, known, people) for task in exported if str(task["data"].get("sample_id")) in known
        ]
        tasks += [_task(task) for task in fresh if not _is_answered(task)]
        missing = max(expected - settings["task_number"], 0)
        present = None
        if missing > cursor.get("missing", 0):
            present = frozenset((task.sample_id, task.batch) for task in map(_task, self._list([])))
            warnings.append(f"{missing} of the tasks that were pushed were deleted in Label Studio.")
        newest = max((task["updated_at"] for task in changed), default=cursor.get("updated_at"))
        kept = {
            str(task["id"]): task["updated_at"] for task in changed if newest and task["updated_at"] >= _earlier(newest)
        }
        following = {**cursor, "missing": missing, "people": people} | (
            {"updated_at": newest, "recent": kept} if newest else {}
        )
        return Pulled(tuple(tasks), following, present, tuple(warnings))

    def _changed(self, cursor: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Tasks that changed since the cursor, those with answers where there is none yet."""
        if since := cursor.get("updated_at"):
            return list(self._list([_filter("updated_at", "greater", "Datetime", _earlier(since))]))
        answered = ("total_annotations", "cancelled_annotations")  # one query cannot ask for either
        found = [task for name in answered for task in self._list([_filter(name, "greater", "Number", 0)])]
        return list({task["id"]: task for task in found}.values())

    def _answered(self, task: Mapping[str, Any], known: Mapping[str, Any], people: Mapping[str, str]) -> AnsweredTask:
        size = known[str(task["data"]["sample_id"])]
        answers = []
        for raw in task["annotations"]:
            regions, unread, problems = regions_of(raw.get("result") or [], self._schema, size)
            who = raw.get("completed_by")
            skipped = bool(raw.get("was_cancelled"))
            answers.append(
                Answer(
                    answer_id=str(raw.get("unique_id") or f"{task['id']}-{raw['id']}"),
                    actor=people.get(str(who), f"user {who}"),
                    status="skipped" if skipped else "done",
                    regions=() if skipped else tuple(regions),
                    lead_time=raw.get("lead_time"),
                    created_at=raw.get("created_at"),
                    updated_at=raw.get("updated_at"),
                    unread=() if skipped else tuple(unread),
                    problems=() if skipped else tuple(problems),
                )
            )
        return _task(task, tuple(answers))

    def _export(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        path = f"api/projects/{self._project.id}/export"
        params = {"exportType": "JSON", "download_all_tasks": "true", "ids[]": list(ids)}
        return list(self._connection.call("GET", path, params=params, timeout=SLOW, again=True))

    def _people(self, tasks: Sequence[Mapping[str, Any]], known: Mapping[str, str]) -> Mapping[str, str]:
        """Mail addresses by user id; asked for when somebody is new."""
        if {str(answer["completed_by"]) for task in tasks for answer in task["annotations"]} <= known.keys():
            return known
        return {str(person["id"]): person["email"] for person in self._connection.get("api/users/")}

    # --- both -------------------------------------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        try:
            return dict(self._connection.get(f"api/projects/{self._project.id}/"))
        except NotFoundError:
            raise NotFoundError(
                f"The project {self._project.name!r} ({self._project.url}/projects/{self._project.id}) is not there: "
                "it was deleted, or the token's owner may not see it.",
                remedy="What was pulled is safe. Make a new one: dsops label setup --project OTHER-NAME",
            ) from None

    def _tasks_of(self, batch: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for task in self._list([_filter("data.batch", "equal", "String", batch)]):
            yield str(task["data"].get("sample_id")), task

    def _count(self, batch: str) -> int:
        filters = [_filter("data.batch", "equal", "String", batch)]
        return int(self._page(filters, "id", 1)["total"])

    def _list(self, filters: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Tasks that fulfil all filters, by id.

        Pages start after the last id seen, so that work going on meanwhile moves none out of sight.
        """
        include = "id,data,updated_at,total_annotations,cancelled_annotations"
        last = 0
        while True:
            page = self._page([*filters, _filter("id", "greater", "Number", last)], include, _PAGE)["tasks"]
            yield from page
            if len(page) < _PAGE:
                return
            last = page[-1]["id"]

    def _page(self, filters: list[dict[str, Any]], include: str, size: int) -> dict[str, Any]:
        query = {"filters": {"conjunction": "and", "items": filters}, "ordering": ["tasks:id"]}
        answer = self._connection.get(
            "api/tasks/",
            timeout=SLOW,
            project=self._project.id,
            query=json.dumps(query),
            fields="task_only",
            include=include,
            resolve_uri="false",
            page_size=size,
        )
        if not isinstance(answer, dict) or "tasks" not in answer:
            raise LabelServerError(
                "The server's list of tasks is not understood.", remedy="Is it Label Studio 1.20 or newer?"
            )
        return answer


def _filter(column: str, operator: str, type_: str, value: Any) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": type_, "value": value}


def _is_answered(task: Mapping[str, Any]) -> bool:
    return bool(task["total_annotations"] or task["cancelled_annotations"])


def _task(task: Mapping[str, Any], answers: tuple[Answer, ...] = ()) -> AnsweredTask:
    data = task["data"]
    return AnsweredTask(str(task["id"]), str(data.get("sample_id")), str(data.get("batch")), answers)


def _earlier(moment: str) -> str:
    """A time of the server, some seconds before: clocks of several of its processes may differ."""
    value = datetime.fromisoformat(moment) - timedelta(seconds=_WINDOW)
    return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
