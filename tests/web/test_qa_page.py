"""Blind checks over HTTP: what reviewers are told, what is kept of their answers, and who is asked what."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from review_site import CLASSES, Dataset, Serve, Site, class_row, photo, sample

from datasetops.manifest import Change, Repository
from datasetops.qa.plan import QaPlan, make_plan
from datasetops.qa.verdicts import load_verdicts
from datasetops.schema import LabelSchema
from datasetops.web.users import Users

pytestmark = pytest.mark.server

Labels = dict[str, str]


@pytest.fixture
def labeled(tmp_path: Any) -> tuple[Repository, Labels]:
    """A repository of 20 samples with one class each, by mia."""
    schema = LabelSchema.model_validate(
        {
            "name": "pets",
            "version": 1,
            "tasks": [{"kind": "classification"}],
            "classes": [{"id": number, "name": name} for number, name in enumerate(CLASSES)],
        }
    )
    repository = Repository.init(tmp_path / "labeled", schema)
    labels = {f"s{number:03}": CLASSES[number % 3] for number in range(20)}
    rows = [sample(repository, f"{name}.jpg", photo(number)) for number, name in enumerate(labels)]
    annotations = [class_row(name, label) for name, label in labels.items()]
    repository.commit(Change(samples=rows, annotations=annotations), message="labeled")
    return repository, labels


@pytest.fixture
def check(labeled: tuple[Repository, Labels], serve: Serve, users_file: Any) -> tuple[Site, QaPlan, Labels]:
    """A plan that asks for all 20, and a server for the people of the users file."""
    repository, labels = labeled
    plan = make_plan(repository, repository.version(), size=20, stages=1, second=0.2, seed="a")
    return serve(repository, Users.from_file(users_file)), plan, labels


def answer(client: httpx.Client, item: str, number: int = 1, **said: Any) -> httpx.Response:
    return client.post("/api/qa/q1/verdicts", json={"decision_id": f"{item}-{number}", "sample_id": item, **said})


def verdicts(site: Site, plan: QaPlan) -> dict[tuple[str, str], str]:
    repository = Repository.open(str(site.app.state.desk.repository.root))
    return {(item.sample_id, item.reviewer): item.verdict for item in load_verdicts(repository, plan)}


def test_a_reviewer_goes_through_the_plan_and_sees_no_label(check: tuple[Site, QaPlan, Labels]) -> None:
    site, plan, labels = check
    ann = site.browser("ann")
    seen = []
    while (told := ann.get("/api/qa/q1/next").json())["sample_id"]:
        assert set(told) == {"sample_id", "left", "done", "own", "with_others"}
        assert (told["left"], told["done"]) == (20 - len(seen), len(seen))
        item = told["sample_id"]
        wrong = len(seen) % 4 == 0
        label = CLASSES[(CLASSES.index(labels[item]) + wrong) % 3]
        kept = answer(ann, item, label=label)
        assert kept.json() == {"kept": True, "words": ""}  # not whether it is right
        seen.append(item)
    assert seen == plan.to_review(0)
    assert verdicts(site, plan) == {
        (item, "ann"): "wrong" if number % 4 == 0 else "right" for number, item in enumerate(seen)
    }
    events = [entry.event for entry in site.app.state.desk.repository.ledger.backwards()]
    assert {event.actor for event in events if event.kind == "qa-verdicts"} == {"ann"}
    second = site.browser("bob").get("/api/qa/q1/next").json()
    assert second["sample_id"] in plan.second
    assert second["left"] == len(plan.second)


def test_the_page_asks_and_tells_nothing(check: tuple[Site, QaPlan, Labels]) -> None:
    site, plan, _ = check
    page = site.browser("ann").get("/v/v1/qa/q1")
    assert page.status_code == 200
    assert plan.to_review(0)[0] in page.text
    assert f"{plan.to_review(0)[0]}/label" not in page.text
    assert "mia" not in page.text
    assert site.browser("ann").get("/v/v1/qa/").headers["location"] == "/v/v1/qa/q1"


def test_who_labeled_an_item_is_not_asked_about_it(check: tuple[Site, QaPlan, Labels]) -> None:
    site, plan, labels = check
    mia = site.browser("mia")
    told = mia.get("/api/qa/q1/next").json()
    assert (told["sample_id"], told["left"], told["own"]) == (None, 0, 20)
    item = plan.to_review(0)[0]
    refused = answer(mia, item, label=labels[item]).json()
    assert refused["kept"] is False
    assert "You labeled this item yourself" in refused["words"]
    assert verdicts(site, plan) == {}


def test_two_reviewers_are_asked_about_different_items(check: tuple[Site, QaPlan, Labels]) -> None:
    site, plan, labels = check
    ann, bob = site.browser("ann"), site.browser("bob")
    first, other = (client.get("/api/qa/q1/next").json()["sample_id"] for client in (ann, bob))
    assert first != other
    answer(ann, first, label=labels[first])
    assert bob.get("/api/qa/q1/next").json()["sample_id"] in (other, first)

    def work(name: str) -> int:
        client, count = site.browser(name), 0
        while item := client.get("/api/qa/q1/next").json()["sample_id"]:
            count += answer(client, item, label=labels[item]).json()["kept"]
        return count

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, ["ann", "bob", "r0", "r1"]))
    said = [item for item, _ in verdicts(site, plan)]
    assert set(said) == set(plan.to_review(0))
    assert sorted(item for item in set(said) if said.count(item) > 1) == sorted(plan.second)


def test_the_same_answer_sent_twice_is_kept_once(check: tuple[Site, QaPlan, Labels]) -> None:
    site, plan, labels = check
    ann, item = site.browser("ann"), plan.to_review(0)[3]
    for _ in range(3):
        assert answer(ann, item, label=labels[item]).json()["kept"]
    kinds = [entry.event.kind for entry in site.app.state.desk.repository.ledger.backwards()]
    assert kinds.count("qa-verdicts") == 1
    assert answer(ann, item, 2, unsure=True, note="blurred").json()["kept"]
    assert verdicts(site, plan) == {(item, "ann"): "unsure"}
    assert load_verdicts(site.app.state.desk.repository, plan)[0].note == "blurred"


@pytest.mark.parametrize(
    ("said", "status", "words"),
    [
        ({"label": "cta"}, 400, "label: there is no 'cta'. Did you mean 'cat'?"),
        ({}, 400, "expected one of label, labels, regions and unsure"),
        ({"label": "cat", "unsure": True}, 400, "expected one of label, labels, regions and unsure"),
        ({"labels": ["cat", "dog"]}, 400, "has one class an image"),
        ({"regions": [{"label": "cat"}]}, 400, "kind: missing"),
        ({"regions": [{"kind": "box", "label": "cat"}]}, 400, "kind: there is no 'box'"),
        ({"verdict": "right"}, 422, "verdict"),
        ({"reviewer": "bob"}, 422, "reviewer"),
    ],
)
def test_answers_that_cannot_be(
    check: tuple[Site, QaPlan, Labels], said: dict[str, Any], status: int, words: str
) -> None:
    site, plan, _ = check
    refused = answer(site.browser("ann"), plan.to_review(0)[0], **said)
    assert refused.status_code == status
    assert words in refused.json()["error"]
    assert verdicts(site, plan) == {}


def test_items_that_were_not_drawn_and_plans_that_are_not_there(
    labeled: tuple[Repository, Labels], serve: Serve
) -> None:
    repository, labels = labeled
    plan = make_plan(repository, repository.version(), size=5, stages=1, second=0, seed="a")
    client = serve(repository).browser("ann")
    stranger = next(item for item in labels if item not in plan.to_review(0))
    assert answer(client, stranger, label="cat").status_code == 404
    assert client.get("/api/qa/q2/next").status_code == 404
    repository.commit(Change(samples=[sample(repository, "new.jpg", photo(77))]), message="one more")
    assert "is about v1, not v2" in client.get("/v/v2/qa/q1").text


def test_boxes_are_compared_as_they_lie(dataset: Dataset, serve: Serve) -> None:
    plan = make_plan(dataset.repository, dataset.version, size=24, stages=1, second=0, seed="a")
    site = serve(dataset.repository)
    ann = site.browser("ann")
    wanted = dict(zip((f"s{number:03}" for number in range(24)), CLASSES * 8, strict=True))
    for number, item in enumerate(plan.to_review(0)[:3]):
        label = wanted[item]
        box = {"kind": "box", "label": label, "x1": 10 + 20 * (number == 1), "y1": 11, "x2": 41, "y2": 30}
        regions = [{"kind": "classification", "label": label}, box][: 1 if number == 2 else 2]
        assert answer(ann, item, regions=regions).json()["kept"]
    said = verdicts(site, plan)
    assert [said[item, "ann"] for item in plan.to_review(0)[:3]] == ["right", "wrong", "wrong"]
