"""The review server over HTTP: queue, decisions by several people, what is kept when it is killed, the command."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from review_site import PASSWORD, Dataset, Refusing, Serve, Site, audited, box_row, class_row, photo, sample

from datasetops.audits.decisions import Decision, decisions
from datasetops.audits.decisions import decide as keep
from datasetops.cli.review import _listen
from datasetops.errors import ConflictError
from datasetops.manifest import Change, Repository
from datasetops.records import Finding, findings_table
from datasetops.web.holds import SECONDS, Holds

pytestmark = pytest.mark.server

MAIN = (
    "import typer; from datasetops.cli import review; app = typer.Typer(); app.callback()(lambda: None); "
    "review.register(app); app()"
)


def decide(client: httpx.Client, ids: list[str], action: str, number: str = "1", **more: Any) -> httpx.Response:
    body = {"decision_id": f"{action}-{number}-{ids[0]}", "finding_ids": ids, "action": action, **more}
    return client.post("/api/v/v1/decisions", json=body)


def standing(dataset: Dataset) -> dict[tuple[str, str], Decision]:
    """As another process reads them."""
    again = Repository.open(str(dataset.repository.root))
    return {(item.finding_id, item.actor): item for item in decisions(again)}


def test_the_first_page_leads_to_the_newest_version(site: Site) -> None:
    client = site.browser("ann")
    assert client.get("/").headers["location"] == "/v/v1/"
    assert client.get("/v/v1").headers["location"] == "/v/v1/"
    page = client.get("/v/main/review")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")


def test_the_queue_is_filtered_by_the_address(site: Site, dataset: Dataset) -> None:
    client = site.browser("ann")
    everything = client.get("/api/v/v1/queue").json()
    assert everything["total"] == 23
    assert everything["query"] == ""
    assert {row["finding_id"] for row in everything["rows"]} == {*dataset.noise, *dataset.boxes}
    assert dict(everything["facets"]["check"]) == {"label_noise": 20, "swapped_box": 3}
    some = client.get("/api/v/v1/queue?check=label_noise&severity=high&size=3&start=2").json()
    assert (some["total"], len(some["rows"]), some["start"], some["size"]) == (7, 3, 2, 3)
    page = client.get("/v/v1/review?check=label_noise&severity=high&view=grid&page=1")
    assert page.status_code == 200
    assert all(row["finding_id"] in page.text for row in some["rows"])
    assert dataset.boxes[0] not in page.text


def test_findings_about_no_image_are_told_until_they_are_decided(serve: Serve, repository: Repository) -> None:
    version = repository.commit(
        Change(samples=[sample(repository, "s", photo(1))], annotations=[class_row("s", "cat")]), message="one"
    ).version
    left_out = Finding("ingest", "high", 0.0, "truncated; the sample is left out", uri="cut.png")
    audited(repository, version, [left_out])
    client = serve(repository).browser("ann")
    page = client.get("/v/v1/review").text
    assert "1 finding is about no image of v1" in page
    assert f"dsops decide v1 {left_out.finding_id[:8]}" in page
    assert "cut.png" in page
    keep(repository, version, findings_table([left_out]), [{"finding_id": left_out.finding_id, "verdict": "fine"}])
    assert "cut.png" not in client.get("/v/v1/review").text


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/v/v1/queue?colour=red", 400, "colour"),
        ("/api/v/v1/queue?min_score=many", 400, "min_score"),
        ("/api/v/v1/queue?size=0", 400, "size: expected a whole number from 1 to 500"),
        ("/api/v/v1/queue?start=-1", 400, "start: expected"),
        ("/api/v/v9/queue", 404, "There is no version or branch 'v9'"),
        ("/api/v/v1/findings/0123456789abcdef", 404, "0123456789abcdef"),
        ("/api/v/v1/findings/..%2F..%2Fetc", 404, ""),
        ("/api/qa/q7/next", 404, "There is no QA plan 'q7'"),
        ("/api/nothing", 404, "There is no such page"),
    ],
)
def test_what_is_not_there_is_told(refusing: Refusing, path: str, status: int, words: str) -> None:
    answer = refusing.client.get(path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "remedy"}
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    "path", ["/v/v9/", "/v/v1/review?colour=red", "/v/v1/review/0123456789abcdef", "/nothing", "/v/v1/qa/q1"]
)
def test_pages_that_are_not_there_say_so_in_words(refusing: Refusing, path: str) -> None:
    answer = refusing.client.get(path)
    assert answer.status_code in (400, 404)
    assert answer.headers["content-type"].startswith("text/html")
    assert "Traceback" not in answer.text


def test_a_version_without_an_audit_says_how_to_make_one(serve: Serve, repository: Repository) -> None:
    rows = [sample(repository, "a.jpg", photo(1))]
    version = repository.commit(Change(samples=rows, annotations=[class_row("a", "cat")]), message="one").version
    client = serve(repository).browser("ann")
    answer = client.get("/api/v/v1/queue")
    assert answer.status_code == 404
    assert "dsops audit v1" in answer.json()["remedy"]
    assert "dsops audit v1" in client.get("/v/v1/review").text
    audited(repository, version, [Finding("label_noise", "high", 0.1, "Looks otherwise.", sample_id="a")])
    assert client.get("/api/v/v1/queue").json()["total"] == 1


def test_each_action_is_the_verdict_and_the_fix_that_it_means(site: Site, dataset: Dataset) -> None:
    client = site.browser("ann")
    noise = dataset.noise
    moved = {"annotation_id": "s020#box0", "x1": 5, "y1": 6, "x2": 30, "y2": 31.5}
    asked: list[tuple[str, str, dict[str, Any]]] = [
        (noise[0], "keep", {"note": " it is a cat "}),
        (noise[1], "suggestion", {"seconds": 3.5}),
        (noise[2], "label", {"label": "cat"}),
        (noise[3], "exclude", {}),
        (noise[4], "relabel", {}),
        (noise[5], "unsure", {}),
        (dataset.boxes[0], "edit", {"fix": {"kind": "edit", "put": [moved], "remove": []}}),
        (dataset.boxes[1], "edit", {"fix": {"remove": ["s021#box0"]}}),
    ]
    for finding, action, more in asked:
        answer = decide(client, [finding], action, **more)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["kept"], answer.json()["refused"]) == ([finding], [])
    kept = {finding: item for (finding, _), item in standing(dataset).items()}
    assert {item.actor for item in kept.values()} == {"ann"}
    assert {item.commit for item in kept.values()} == {dataset.version.digest}
    verdicts = [kept[finding].verdict for finding, _, _ in asked]
    assert verdicts == ["fine", "error", "error", "error", "error", "unsure", "error", "error"]
    assert (kept[noise[0]].note, kept[noise[0]].fix) == ("it is a cat", None)
    assert kept[noise[1]].seconds == 3.5
    fixes = [kept[finding].fix for finding, _, _ in asked]
    assert [fix.kind if fix else None for fix in fixes] == [
        None, "edit", "edit", "exclude", "relabel", None, "edit", "edit"
    ]  # fmt: skip
    assert [dict(row) for row in fixes[1].put] == [{"annotation_id": "s001/label", "label": "bird"}]
    assert [dict(row) for row in fixes[2].put] == [{"annotation_id": "s002/label", "label": "cat"}]
    assert [dict(row) for row in fixes[6].put] == [moved]
    assert fixes[7].remove == ("s021#box0",)
    assert client.get("/api/v/v1/queue").json()["total"] == 23 - 7


@pytest.mark.parametrize(
    ("action", "more", "words"),
    [
        ("label", {"label": "cta"}, "label: there is no 'cta'. Did you mean 'cat'?"),
        ("edit", {}, "fix: an edit is of one finding"),
        ("edit", {"fix": {"put": [{"annotation_id": "s001#box0", "x1": 1}]}}, "box: expected x1, y1, x2 and y2"),
        ("edit", {"fix": {"put": [{"annotation_id": None, "label": "cat"}]}}, "needs a kind"),
        ("edit", {"fix": {"put": [{"annotation_id": "s000#box0", "x1": 200, "y1": 1, "x2": 300, "y2": 9}]}}, "inside"),
        ("edit", {"fix": {"put": [{"annotation_id": "s000#box0", "actor": "me"}]}}, "'actor' is no field"),
        ("edit", {"fix": {"put": [{"annotation_id": "s000#box0", "x1": "1", "y1": 1, "x2": 3, "y2": 9}]}}, "a number"),
        ("edit", {"fix": {"kind": "exclude"}}, "fix: expected put and remove"),
        ("edit", {"fix": {"remove": ["s001#box0"]}}, "This sample has no annotation 's001#box0'"),
        ("sell", {}, "action"),
        ("keep", {"seconds": -1}, "seconds"),
        ("keep", {"actor": "bob"}, "actor"),
    ],
)
def test_choices_that_cannot_be(refusing: Refusing, action: str, more: dict[str, Any], words: str) -> None:
    answer = decide(refusing.client, [refusing.dataset.noise[0]], action, **more)
    assert answer.status_code in (400, 404, 422)
    assert words in answer.json()["error"]
    assert standing(refusing.dataset) == {}


def test_what_somebody_else_decided_is_refused_and_the_rest_kept(team: Site, dataset: Dataset) -> None:
    ann, bob = team.browser("ann"), team.browser("bob")
    first, *others = dataset.noise[:3]
    assert decide(ann, [first], "keep").status_code == 200
    partly = decide(bob, [first, *others], "suggestion")
    assert (partly.status_code, partly.json()["kept"]) == (200, others)
    assert [(item["finding_id"], item["by"]) for item in partly.json()["refused"]] == [(first, "ann")]
    assert "right as it is" in partly.json()["refused"][0]["words"]
    wholly = decide(bob, [first], "suggestion", "2")
    assert (wholly.status_code, wholly.json()["kept"]) == (409, [])
    assert decide(bob, [first], "suggestion", "3", second=True).status_code == 200
    assert {actor for finding, actor in standing(dataset) if finding == first} == {"ann", "bob"}
    mine = decide(ann, [first], "unsure", "4")
    assert mine.status_code == 200
    assert standing(dataset)[first, "ann"].verdict == "unsure"


def test_the_same_decision_sent_twice_is_kept_once(site: Site, dataset: Dataset) -> None:
    client = site.browser("ann")
    before = dataset.repository.ledger.tail().number
    answers = [decide(client, dataset.noise[:4], "keep") for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    assert all(answer.json()["kept"] == dataset.noise[:4] for answer in answers)
    assert Repository.open(str(dataset.repository.root)).ledger.tail().number == before + 1


def test_undo_takes_back_the_last_of_ones_own(team: Site, dataset: Dataset) -> None:
    ann, bob = team.browser("ann"), team.browser("bob")
    decide(ann, dataset.noise[:2], "keep")
    decide(ann, dataset.noise[2:5], "exclude")
    decide(bob, [dataset.noise[6]], "keep")
    assert sorted(ann.post("/api/v/v1/undo", json={}).json()["withdrawn"]) == sorted(dataset.noise[2:5])
    assert ann.post("/api/v/v1/undo", json={"finding_ids": [dataset.noise[0], dataset.noise[6]]}).json()[
        "withdrawn"
    ] == [dataset.noise[0]]
    assert set(standing(dataset)) == {(dataset.noise[1], "ann"), (dataset.noise[6], "bob")}
    assert ann.get("/api/v/v1/queue").json()["total"] == 23 - 2


def test_two_people_are_never_given_the_same_sample(team: Site) -> None:
    ann, bob = team.browser("ann"), team.browser("bob")
    mine = ann.get("/api/v/v1/next").json()["finding_id"]
    assert bob.get("/api/v/v1/next").json()["finding_id"] == mine  # nobody looks at it yet
    item = ann.get(f"/api/v/v1/findings/{mine}").json()
    assert item["held_by"] is None
    theirs = bob.get("/api/v/v1/next").json()["finding_id"]
    assert theirs != mine
    assert bob.get(f"/api/v/v1/findings/{mine}").json()["held_by"] == "ann"
    assert bob.get("/api/v/v1/since").json()["holding"] == {item["sample"]["sample_id"]: "ann"}
    assert ann.get("/api/v/v1/since").json()["holding"] == {}
    holds = team.app.state.desk.holds
    clock = holds._clock
    holds._clock = lambda: clock() + SECONDS
    assert bob.get("/api/v/v1/next").json()["finding_id"] == mine


def test_a_person_holds_few_items_and_those_looked_at_last() -> None:
    now = [0.0]
    holds = Holds(clock=lambda: now[0])
    assert [holds.take("v1", item, "ann") for item in "abacd"] == [None] * 5
    assert set(holds.of_others("v1", "bob")) == {"a", "c", "d"}
    assert holds.take("v1", "a", "bob") == "ann"
    assert holds.take("v2", "a", "bob") is None
    holds.release("v1", "a", "bob")  # not his
    holds.release("v1", "d", "ann")
    assert set(holds.of_others("v1", "bob")) == {"a", "c"}
    now[0] = SECONDS
    assert holds.take("v1", "a", "bob") is None
    assert holds.of_others("v1", "ann") == {"a": "bob"}


def test_others_hear_of_decisions(team: Site, dataset: Dataset) -> None:
    ann, bob = team.browser("ann"), team.browser("bob")
    entry = bob.get("/api/v/v1/since").json()["entry"]
    decide(ann, dataset.noise[:2], "keep")
    news = bob.get(f"/api/v/v1/since?entry={entry}").json()
    assert {(item["finding_id"], item["actor"], item["verdict"]) for item in news["decided"]} == {
        (name, "ann", "fine") for name in dataset.noise[:2]
    }
    ann.post("/api/v/v1/undo", json={})
    later = bob.get(f"/api/v/v1/since?entry={news['entry']}").json()
    assert (later["decided"], sorted(later["withdrawn"])) == ([], sorted(dataset.noise[:2]))
    assert bob.get(f"/api/v/v1/since?entry={later['entry']}").json()["withdrawn"] == []


def test_what_is_drawn_on_a_turned_image_is_kept_as_it_is_stored(serve: Serve, repository: Repository) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # shown a quarter turned to the right: 60 wide, 80 high
    rows = [sample(repository, "turned.jpg", photo(1, exif=exif))]
    version = repository.commit(
        Change(samples=rows, annotations=[class_row("turned", "cat"), box_row("turned", "cat")]), message="turned"
    ).version
    missing = Finding(
        "missing_box", "high", 0.1, "A box is missing.", sample_id="turned", suggested="cat", box=(0, 0, 9, 9)
    )
    (finding,) = audited(repository, version, [missing])
    client = serve(repository).browser("ann")
    drawn = {"annotation_id": None, "kind": "box", "label": "dog", "x1": 0, "y1": 70, "x2": 20, "y2": 80}
    answer = decide(client, [finding], "edit", fix={"put": [drawn]})
    assert answer.status_code == 200, answer.text
    (kept,) = decisions(repository)
    assert kept.fix is not None
    (row,) = kept.fix.put
    assert [row[name] for name in ("x1", "y1", "x2", "y2")] == [70, 40, 80, 60]


def test_the_history_and_look_alikes_of_an_item(site: Site, dataset: Dataset) -> None:
    client = site.browser("ann")
    told = client.get(f"/api/v/v1/findings/{dataset.noise[0]}/history").json()["history"]
    assert [entry["version"] for entry in told] == ["v1"]
    assert site.app.state.desk.workplace("v1").lookalikes(wait=60) is not None
    near = client.get("/api/v/v1/queue?like=s003&decided=all").json()
    assert near["total"] == 23
    assert near["rows"][0]["sample_id"] == "s003"


@pytest.mark.slow
def test_eight_reviewers_lose_nothing(team: Site, dataset: Dataset) -> None:
    each = 25
    people = [f"r{number}" for number in range(8)]

    def work(actor: str) -> list[str]:
        client = team.browser(actor)
        kept = []
        for number in range(each):
            finding = dataset.noise[(number + people.index(actor)) % 20]
            answer = decide(client, [finding], ("keep", "suggestion")[number % 2], f"{actor}{number}", second=True)
            assert answer.status_code == 200, answer.text
            kept += answer.json()["kept"]
        return kept

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(work, people))
    assert [len(kept) for kept in done] == [each] * 8
    ledger = Repository.open(str(dataset.repository.root)).ledger
    actors = Counter(entry.event.actor for entry in ledger.backwards() if entry.event.kind == "decide")
    assert actors == dict.fromkeys(people, each)
    assert len(standing(dataset)) == 8 * 20


def test_eight_reviewers_never_decide_the_same_finding(team: Site, dataset: Dataset) -> None:
    def work(actor: str) -> list[str]:
        client = team.browser(actor)
        return [name for name in dataset.noise if decide(client, [name], "keep", actor).json()["kept"]]

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(work, [f"r{number}" for number in range(8)]))
    assert sorted(name for kept in done for name in kept) == sorted(dataset.noise)
    assert len(standing(dataset)) == 20


def test_a_page_is_saved_as_one_file(site: Site, dataset: Dataset) -> None:
    answer = site.browser("ann").get(f"/v/v1/review/{dataset.noise[0]}?save=1")
    assert answer.status_code == 200
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    assert "<script" not in answer.text
    assert "csrf" not in answer.text
    assert "<style>" in answer.text
    assert 'src="data:image/' in answer.text
    assert not re.findall(r'(?:src|href|action)="/', answer.text)


# --- the command ------------------------------------------------------------------------------------------------------


def start(dataset: Dataset, *options: str) -> tuple[subprocess.Popen[str], str]:
    """The command, and the address that it prints."""
    command = [sys.executable, "-c", MAIN, "review", "v1", "--json", "--no-browser", "-C", str(dataset.repository.root)]
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return process, json.loads(line)["url"]


def with_csrf(client: httpx.Client) -> httpx.Client:
    found = re.findall(r'<meta name="csrf" content="(\w+)">', client.get("/v/v1/").text)
    client.headers["X-CSRF"] = found[0]
    return client


@pytest.mark.server
def test_a_killed_server_has_lost_nothing_and_knows_its_people_again(dataset: Dataset) -> None:
    process, url = start(dataset)
    answered = []
    try:
        with httpx.Client(base_url=url.split("/enter")[0], timeout=60, follow_redirects=True) as client:
            assert client.get(url).status_code == 200
            with_csrf(client)
            for name in dataset.noise[:10]:
                assert decide(client, [name], "suggestion").status_code == 200
                answered.append(name)
            process.send_signal(signal.SIGKILL)
            process.wait(10)
            cookies = client.cookies
    finally:
        process.kill()
        process.communicate()
    assert {finding for finding, _ in standing(dataset)} == set(answered)
    again, second = start(dataset)
    try:
        with httpx.Client(base_url=second.split("/enter")[0], cookies=cookies, timeout=60) as returned:
            assert with_csrf(returned).get("/api/v/v1/queue").json()["total"] == 23 - 10
            assert decide(returned, [dataset.noise[10]], "keep").status_code == 200
        again.send_signal(signal.SIGTERM)
        _, said = again.communicate(timeout=20)
    finally:
        again.kill()
        again.wait(10)
    assert again.returncode == 0
    assert said.strip().splitlines()[-1] == "Everything decided is saved."
    assert "Traceback" not in said
    assert len(standing(dataset)) == 11


@pytest.mark.server
def test_users_are_added_and_others_machines_need_them(dataset: Dataset, tmp_path: Path) -> None:
    def run(*words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        where = ["-C", str(dataset.repository.root)]
        return subprocess.run(
            [sys.executable, "-c", MAIN, "review", *words, *where], input=text, capture_output=True, text=True, check=False
        )  # fmt: skip

    refused = run("v1", "--host", "0.0.0.0", "--no-browser")  # noqa: S104
    assert refused.returncode == 1
    assert "nothing says who they are" in refused.stderr
    assert "dsops review user FILE NAME" in refused.stderr
    file = tmp_path / "people"
    assert "There is no users file" in run("v1", "--users", str(file), "--no-browser").stderr
    short = run("user", str(file), "ann", text="short\n")
    assert (short.returncode, "at least" in short.stderr or "expected 8" in short.stderr) == (2, True)
    assert run("user", str(file), "ann", text=f"{PASSWORD}\n").returncode == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in file.read_text()
    process, url = start(dataset, "--users", str(file))
    try:
        with httpx.Client(base_url=url.rstrip("/"), timeout=60, follow_redirects=True) as client:
            assert client.post("/login", data={"name": "ann", "password": PASSWORD}).status_code == 200
            assert decide(with_csrf(client), dataset.noise[:1], "keep").status_code == 200
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said.strip().splitlines()[-1]) == (0, "Everything decided is saved.")
    assert set(standing(dataset)) == {(dataset.noise[0], "ann")}


def test_answers_are_not_held_back_for_more() -> None:
    with _listen("127.0.0.1", 0) as first, _listen("127.0.0.1", 0) as second:
        assert first.getsockname()[1] != second.getsockname()[1]
        assert first.proto == second.proto == socket.IPPROTO_TCP  # else asyncio leaves Nagle's algorithm on: 40 ms
        with pytest.raises(ConflictError, match="cannot be used"):
            _listen("127.0.0.1", first.getsockname()[1])


def test_a_version_without_a_qa_plan_says_how_to_make_one(dataset: Dataset, serve: Serve) -> None:
    page = serve(dataset.repository).browser("ann").get("/v/v1/qa")
    assert page.status_code == 200
    assert "dsops qa plan v1" in page.text
    assert 'href="/v/v1/review"' in page.text  # the tabs stay
