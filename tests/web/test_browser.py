"""Reviewers at work in real browsers, on real images with real findings."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser_fixtures import Open, press, sent, shown, standing
from playwright.sync_api import expect
from review_site import Dataset, Serve, audited, class_row, photo, sample

from datasetops.audits.record import latest_audit
from datasetops.manifest import Change, Repository
from datasetops.manifest.diff import diff
from datasetops.qa.plan import load_plan, make_plan
from datasetops.qa.verdicts import load_verdicts
from datasetops.records import Finding
from datasetops.review.apply import apply
from datasetops.schema import load_guide, load_schema
from datasetops.web.app import create_app
from datasetops.web.users import Users

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.xdist_group("review-browser")]


def test_a_queue_is_worked_by_keyboard_alone(cifar: Repository, serve: Serve, sit_down: Open) -> None:
    page = sit_down(serve(cifar), "/v/v1/review?check=label_noise")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#items li:first-child a.open")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.wait_for_url("**/review/*check=label_noise")
    ids = [shown(page)]
    given = page.locator(".versus dd").first.inner_text()
    suggested = page.locator(".versus dd").nth(1).inner_text()
    assert given != suggested
    expect(page.locator("[data-action='keep']")).to_contain_text(f"Keep {given}")
    expect(page.locator("[data-action='suggestion']")).to_contain_text(f"Take {suggested}")
    expect(page.locator("#stage .picture")).to_have_class("picture pixelated")  # 32 pixels, many times enlarged

    page.keyboard.press("n")
    page.keyboard.type("k as in keep")  # letters of a note decide nothing
    page.keyboard.press("Enter")
    ids.append(press(page, "k"))
    ids.append(press(page, "s"))
    ids.append(press(page, "3"))
    page.keyboard.press("c")
    page.keyboard.type("truc")
    page.keyboard.press("Enter")
    page.wait_for_function("id => document.getElementById('panel').dataset.finding !== id", arg=ids[-1])
    ids.append(shown(page))
    for key in ("x", "r", "u"):
        ids.append(press(page, key))
    passed_over = ids[-1]
    assert press(page, "j") != passed_over
    assert press(page, "ArrowLeft") == passed_over
    sent(page)
    made = {item.finding_id: item for item in standing(cifar)}
    assert [made[name].verdict for name in ids[:7]] == ["fine", *["error"] * 5, "unsure"]
    assert len(made) == 7
    assert len(set(ids)) == len(ids)
    assert made[ids[0]].note == "k as in keep"
    assert made[ids[0]].actor == "ann"
    fixes = [made[name].fix for name in ids[1:6]]
    assert [fix.kind for fix in fixes if fix] == ["edit", "edit", "edit", "exclude", "relabel"]
    assert [fix.put[0]["label"] for fix in fixes[1:3] if fix] == ["bird", "truck"]
    expect(page.locator("[data-decided]")).to_have_text("6")  # unsure leaves it open

    page.keyboard.press("z")  # takes back the last: unsure
    page.wait_for_function("id => document.getElementById('panel').dataset.finding === id", arg=ids[6])
    page.keyboard.press("z")
    page.wait_for_function("id => document.getElementById('panel').dataset.finding === id", arg=ids[5])
    sent(page)
    assert {item.finding_id for item in standing(cifar)} == set(ids[:5])
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Take the suggestion")
    page.keyboard.press("Escape")
    page.reload()
    assert shown(page) == ids[5]
    page.keyboard.press("g")
    page.wait_for_url("**/review?check=label_noise")


def test_a_box_is_fixed_by_dragging_and_becomes_a_version(blood: Repository, serve: Serve, sit_down: Open) -> None:
    page = sit_down(serve(blood), "/v/v1/review?check=misplaced_box")
    page.locator("#items a.open").first.click()
    page.wait_for_url("**/review/*")
    name = shown(page)
    page.wait_for_function("() => document.querySelector('.picture').naturalWidth > 0")
    page.locator("[data-action='edit']").click()
    handles = page.locator("#stage .handle")
    expect(handles).to_have_count(4)
    corner = handles.nth(2).bounding_box()  # the lower right one
    scale = page.evaluate("document.querySelector('.frame').offsetWidth / 640")
    assert corner
    x, y = corner["x"] + corner["width"] / 2, corner["y"] + corner["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 20, y - 10, steps=4)
    page.mouse.move(x - 10 * scale, y - 20 * scale, steps=4)
    page.mouse.up()
    page.keyboard.press("Shift+ArrowRight")  # and one pixel wider, by keyboard
    page.keyboard.press("d")
    page.keyboard.press("3")  # Platelets
    stage = page.locator("#stage").bounding_box()
    assert stage
    page.mouse.move(stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2)
    page.mouse.down()
    page.mouse.move(
        stage["x"] + stage["width"] / 2 + 32 * scale, stage["y"] + stage["height"] / 2 + 24 * scale, steps=5
    )
    page.mouse.up()
    page.keyboard.press("Enter")
    page.wait_for_function("id => document.getElementById('panel').dataset.finding !== id", arg=name)
    sent(page)
    (decision,) = standing(blood)
    assert decision.fix
    assert decision.finding_id == name
    moved, drawn = decision.fix.put
    findings = latest_audit(blood, blood.version("v1")).findings.to_pandas().set_index("finding_id")
    assert moved["annotation_id"] == findings.loc[name, "annotation_id"]
    x1, y1, x2, y2 = json.loads(findings.loc[name, "box"])  # it is corrected from where the audit would put it
    assert (moved["x1"], moved["y1"]) == pytest.approx((x1, y1), abs=0.01)
    assert (moved["x2"], moved["y2"]) == pytest.approx((x2 - 10 + 1, y2 - 20), abs=1)
    assert (drawn["annotation_id"], drawn["kind"], drawn["label"]) == (None, "box", "Platelets")
    assert drawn["x2"] - drawn["x1"] == pytest.approx(32, abs=1)

    made = apply(blood, blood.version("v1"), standing(blood))
    assert made.version == "v2", made
    assert not made.conflicts
    changes = diff(blood.version("v1"), blood.version("v2"))
    assert changes.annotations.counts == {"added": 1, "removed": 0, "changed": 1}
    after = blood.version("v2").annotations().set_index("annotation_id").loc[moved["annotation_id"]]
    assert (after["y2"], after["actor"], after["source"]) == (pytest.approx(moved["y2"]), "ann", "human")
    page.goto(page.url.split("/v/")[0] + "/compare/v1/v2")
    expect(page.get_by_role("main")).to_contain_text("Platelets")


def test_many_are_decided_at_once_in_the_grid(cifar: Repository, serve: Serve, sit_down: Open) -> None:
    page = sit_down(serve(cifar), "/v/v1/review?view=grid")
    items = page.locator("#items > li")
    ids = [items.nth(number).get_attribute("data-id") for number in range(6)]
    page.keyboard.press("ArrowRight")  # onto the first
    page.keyboard.press("Space")
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    items.nth(5).locator(".pick").click()
    expect(page.locator(".bulk-count")).to_have_text("5 selected")
    page.keyboard.press("k")
    expect(page.locator(f"#items [data-id='{ids[0]}']")).to_have_count(0)  # gone from what is to be decided
    sent(page)
    made = standing(cifar)
    assert {item.finding_id for item in made} == {*ids[:4], ids[5]}
    assert {item.verdict for item in made} == {"fine"}
    assert len({item.decision_id for item in made}) == 1
    page.keyboard.press("z")
    expect(page.locator(f"#items [data-id='{ids[0]}']")).to_have_count(1)
    sent(page)
    assert not standing(cifar)

    page.locator("input[name='severity'][value='high']").check()
    page.wait_for_url("**severity=high**")
    expect(page.locator("#items .badge:not(.high)")).to_have_count(0)
    page.go_back()
    expect(page.locator("input[name='severity'][value='high']")).not_to_be_checked()


def test_two_reviewers_never_get_the_same_item(
    cifar: Repository, serve: Serve, sit_down: Open, users_file: Path
) -> None:
    site = serve(cifar, Users.from_file(users_file))
    people = [sit_down(site, "/v/v1/review", actor=name) for name in ("ann", "bob")]
    for page in people:
        page.locator("#start").click()
        page.wait_for_url("**/review/*")
    seen: dict[int, list[str]] = {0: [], 1: []}
    for _ in range(8):
        for number, page in enumerate(people):
            seen[number].append(shown(page))
            press(page, "k")
    for page in people:
        sent(page)
    assert not set(seen[0]) & set(seen[1])
    made = standing(cifar)
    assert Counter(item.actor for item in made) == {"ann": 8, "bob": 8}
    assert {item.finding_id for item in made} == {*seen[0], *seen[1]}
    for page in people:
        expect(page.locator("[data-decided]")).to_have_text("16")
        expect(page.locator("[data-people]")).to_contain_text("bob 8")
        expect(page.locator("[data-people]")).to_contain_text("ann 8")

    # The same item by its address: who comes second is told and nothing is overwritten.
    people[1].goto(f"{site.url}/v/v1/review/{seen[0][0]}?decided=all")
    expect(people[1].locator("#notices")).to_contain_text("ann decided")
    people[1].keyboard.press("s")
    expect(people[1].locator(".toast.bad")).to_contain_text("ann")
    assert len(standing(cifar)) == 16


SERVER = """
import sys, socket, uvicorn
from datasetops.manifest import Change, Repository
from datasetops.web.app import create_app
from datasetops.web.users import Users
app = create_app(Repository.open(sys.argv[1]), None, Users.on_this_machine("ann"))
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="critical", lifespan="off", ws="none")
"""


@pytest.fixture
def start_process(cifar: Repository) -> Iterator[Callable[[], tuple[str, subprocess.Popen[bytes]]]]:
    """Start a server of the data set as a process of its own, always on the same port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running: list[subprocess.Popen[bytes]] = []

    def start() -> tuple[str, subprocess.Popen[bytes]]:
        process = subprocess.Popen([sys.executable, "-c", SERVER, str(cifar.root), str(port)])
        running.append(process)
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        return url, process

    yield start
    for process in running:
        process.kill()
        process.wait(10)


def test_the_server_is_killed_and_nothing_is_lost(
    cifar: Repository, start_process: Callable[[], tuple[str, subprocess.Popen[bytes]]], sit_down: Open
) -> None:
    url, process = start_process()
    site = type("Site", (), {"url": url, "app": create_app(cifar, None, Users.on_this_machine("ann"))})
    page = sit_down(site, "/v/v1/review")
    page.locator("#start").click()
    page.wait_for_url("**/review/*")
    ids = [shown(page)]
    ids.append(press(page, "k"))
    sent(page)
    page.wait_for_load_state("networkidle")  # the next items are here
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    ids.append(press(page, "s"))
    expect(page.locator("#outbox")).to_contain_text("1 decision is kept in this browser")
    press(page, "k")
    expect(page.locator("#outbox")).to_contain_text("2 decisions are kept")
    assert len(standing(cifar)) == 1

    _, process = start_process()
    sent(page)
    expect(page.locator("#outbox")).to_be_hidden()
    made = {item.finding_id: item.verdict for item in standing(cifar)}
    assert made == {ids[0]: "fine", ids[1]: "error", ids[2]: "fine"}
    ids.append(shown(page))
    press(page, "k")  # and on, in the same page and session
    sent(page)
    assert len(standing(cifar)) == 4
    assert ids[3] not in ids[:3]


def test_blind_checks_show_nothing_that_was_given(cifar: Repository, serve: Serve, sit_down: Open) -> None:
    site = serve(cifar)
    labels = cifar.version("v1").annotations().set_index("sample_id")["label"]
    names = cifar.version("v1").schema.class_names
    page = sit_down(site, "/v/v1/qa/q1")
    answers = {}
    for number in range(4):
        expect(page.locator("[data-done]")).to_have_text(str(number))
        source = page.locator("#stage .picture").get_attribute("src")
        assert source
        sample = source.rsplit("/", 1)[1]
        told = site.browser("ann").get("/api/qa/q1/next").json()
        assert told["sample_id"] == sample
        assert not {"given", "suggested", "label", "annotations"} & set(told)
        truth = labels[sample]
        answer = truth if number % 2 == 0 else names[(names.index(truth) + 1) % len(names)]
        answers[sample] = "right" if answer == truth else "wrong"
        page.keyboard.press(str((names.index(answer) + 1) % 10))
    expect(page.locator("[data-done]")).to_have_text("4")
    page.keyboard.press("u")
    expect(page.locator("[data-left]")).to_have_text("3")
    said = load_verdicts(cifar, load_plan(cifar, "q1"))
    assert {item.sample_id: item.verdict for item in said if item.verdict != "unsure"} == answers
    assert Counter(item.verdict for item in said) == {"right": 2, "wrong": 2, "unsure": 1}
    assert {item.reviewer for item in said} == {"ann"}


def test_enter_saves_the_boxes_of_a_blind_check(dataset: Dataset, serve: Serve, sit_down: Open) -> None:
    plan = make_plan(dataset.repository, dataset.version, size=24, stages=1, second=0, seed="a")
    page = sit_down(serve(dataset.repository), f"/v/v1/qa/{plan.name}")
    page.wait_for_function("() => document.querySelector('.picture').naturalWidth > 0")
    stage = page.locator(".frame").bounding_box()
    assert stage
    page.mouse.move(stage["x"] + 40, stage["y"] + 80)
    page.mouse.down()
    page.mouse.move(stage["x"] + 120, stage["y"] + 150, steps=4)
    page.mouse.up()
    page.keyboard.press("Shift+Enter")  # a second one, by keyboard
    expect(page.locator("#stage rect.line")).to_have_count(2)
    page.keyboard.press("Enter")
    expect(page.locator("[data-done]")).to_have_text("1")
    assert len(load_verdicts(dataset.repository, load_plan(dataset.repository, plan.name))) == 1


def test_a_digit_is_the_key_of_its_class_and_a_slip_is_answered_again(
    tmp_path: Path, serve: Serve, sit_down: Open
) -> None:
    repository = Repository.init(tmp_path / "scans", load_schema("digits"), guide=load_guide("digits").text)
    samples = [sample(repository, f"s{number}", photo(number, "PNG")) for number in range(12)]
    rows = [class_row(f"s{number}", str(number % 10)) for number in range(12)]
    version = repository.commit(Change(samples=samples, annotations=rows), message="scans").version
    finding = Finding("label_noise", "high", 0.1, "labeled 3, looks like 5", "s3", given="3", suggested="5")
    audited(repository, version, [finding])
    make_plan(repository, version, pass_rate=0.5, size=8, second=0, seed="1")
    site = serve(repository)
    page = sit_down(site, f"/v/v1/review/{finding.finding_id}")
    expect(page.locator("[data-class='7'] kbd")).to_have_text("7")
    page.keyboard.press("7")
    sent(page)
    (decision,) = standing(repository)
    assert decision.fix
    assert decision.fix.put[0]["label"] == "7"

    page = sit_down(site, "/v/v1/qa/q1")
    page.get_by_text("The guide").click()
    expect(page.locator("details.guides .guide")).to_have_count(10)
    items = []
    for done in range(2):
        expect(page.locator("[data-done]")).to_have_text(str(done))
        items.append(page.locator("#stage .picture").get_attribute("src").rsplit("/", 1)[1])  # type: ignore[union-attr]
        page.keyboard.press("0" if done == 0 else "9")
    expect(page.locator("[data-done]")).to_have_text("2")
    page.keyboard.press("z")
    expect(page.locator("#stage .picture")).to_have_attribute("src", re.compile(f"/{items[1]}$"))
    page.keyboard.press(str(int(items[1][1:]) % 10))
    expect(page.locator("#stage .picture")).not_to_have_attribute("src", re.compile(f"/{items[1]}$"))
    expect(page.locator("[data-done]")).to_have_text("2")
    said = {item.sample_id: item for item in load_verdicts(repository, load_plan(repository, "q1"))}
    assert set(said) == set(items)
    assert said[items[0]].verdict == ("right" if int(items[0][1:]) % 10 == 0 else "wrong")
    assert said[items[1]].verdict == "right"


def test_what_is_undone_is_shown_at_once(cifar: Repository, serve: Serve, sit_down: Open) -> None:
    """A key pressed right after never decides about the item that came next."""
    page = sit_down(serve(cifar), "/v/v1/review")
    page.locator("#start").click()
    page.wait_for_url("**/review/*")
    name = shown(page)
    press(page, "k")
    sent(page)
    page.route("**/api/v/v1/undo", lambda route: None)  # the server takes its time
    page.evaluate("window.setTimeout = () => 0")  # and nothing waits for a moment to pass
    page.keyboard.press("z")
    page.wait_for_function("id => document.getElementById('panel').dataset.finding === id", arg=name)


def test_a_message_lets_the_image_below_be_drawn_on(blood: Repository, serve: Serve, sit_down: Open) -> None:
    page = sit_down(serve(blood), "/v/v1/review?check=misplaced_box")
    page.locator("#start").click()
    page.wait_for_url("**/review/*")
    shown(page)
    press(page, "u")
    message = page.locator(".toast")
    box = message.bounding_box()
    assert box
    under = "([x, y]) => Boolean(document.elementFromPoint(x, y).closest('.stage'))"
    assert page.evaluate(under, [box["x"] + 8, box["y"] + 8])
    page.keyboard.press("e")
    expect(message).to_have_count(0)
