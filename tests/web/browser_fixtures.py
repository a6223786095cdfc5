"""Real data sets with real findings, and people at real browsers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, expect, sync_playwright

from datasetops.audits.decisions import Decision, DecisionLog
from datasetops.audits.run import audit
from datasetops.ingest import ingest
from datasetops.manifest import Repository
from datasetops.qa.plan import make_plan
from datasetops.schema import load_schema

CHROMIUM = shutil.which("chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WIDE = {"width": 1400, "height": 900}
PHONE = {"width": 360, "height": 740}
IMAGES = 300  # of cifar10n
SMEARS = 24  # of bccd
PATIENCE = 30_000  # milliseconds; only a fault takes so long

expect.set_options(timeout=PATIENCE)

Open = Callable[..., Page]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def cifar_made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with the labels that one person gave them, audited; with a plan of 8 blind checks."""
    folder = tmp_path_factory.mktemp("cifar10n")
    (folder / "images").mkdir()
    frame = pd.read_parquet(data / "cifar10n" / "data.parquet", columns=["image", "random_label1"]).head(IMAGES)
    schema = load_schema("cifar10")
    paths = [f"images/{number:05}.jpg" for number in range(IMAGES)]
    for name, image in zip(paths, frame["image"], strict=True):
        (folder / name).write_bytes(image["bytes"] if isinstance(image, dict) else image)
    labels = [schema.class_names[label] for label in frame["random_label1"]]
    lights = ["day" if number % 3 else "night" for number in range(IMAGES)]
    pd.DataFrame({"path": paths, "label": labels, "light": lights}).to_csv(folder / "table.csv", index=False)
    repository = Repository.init(folder / "repository", schema)
    version = ingest(repository, str(folder / "table.csv"), format="table").version
    audit(repository, version, checks=["label_noise"])
    make_plan(repository, version, pass_rate=0.5, size=8, second=0, seed="1")
    return folder / "repository"


@pytest.fixture(scope="session")
def blood_made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blood smears with the boxes of the first pass, audited."""
    folder = tmp_path_factory.mktemp("bccd")
    (folder / "boxes").mkdir()
    for file in sorted((data / "bccd" / "annotations_first_pass_voc").glob("*.xml"))[:SMEARS]:
        shutil.copy(file, folder / "boxes")
    repository = Repository.init(folder / "repository", load_schema("blood_cells"))
    images = str(data / "bccd" / "images")
    version = ingest(repository, str(folder / "boxes"), format="voc", images=images).version
    audit(repository, version, checks=["misplaced_box", "duplicate_box"])
    return folder / "repository"


@pytest.fixture
def cifar(cifar_made: Path, tmp_path: Path) -> Repository:
    """A copy of one's own."""
    return Repository.open(shutil.copytree(cifar_made, tmp_path / "cifar"))


@pytest.fixture
def blood(blood_made: Path, tmp_path: Path) -> Repository:
    """A copy of one's own."""
    return Repository.open(shutil.copytree(blood_made, tmp_path / "blood"))


@pytest.fixture
def sit_down(chromium: Browser) -> Iterator[Open]:
    """Open a page of a site as somebody, in a browser of their own. Errors of scripts fail the test at its end."""
    contexts: list[BrowserContext] = []
    faults: list[str] = []

    def dismissed(dialog: Dialog) -> None:
        faults.append(dialog.message)
        dialog.dismiss()

    def open_page(site: Any, path: str = "/", actor: str | None = "ann", **options: Any) -> Page:
        context = chromium.new_context(**{"viewport": WIDE, "reduced_motion": "reduce", **options})
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        if actor is not None:
            desk = site.app.state.desk
            value = desk.sessions.issue(actor, desk.users.stamp(actor))
            context.add_cookies([{"name": desk.sessions.cookie, "value": value, "domain": "127.0.0.1", "path": "/"}])
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(f"{page.url}: {error}"))
        page.on("dialog", dismissed)
        page.goto(f"{site.url}{path}", wait_until="load")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


def standing(repository: Repository) -> list[Decision]:
    log = DecisionLog(repository)
    log.refresh()
    return log.standing()


def shown(page: Page) -> str:
    """Id of the finding that is shown, once its buttons are there."""
    page.wait_for_selector("#decide [data-action='keep']")
    name = page.get_attribute("#panel", "data-finding")
    assert name
    return name


def press(page: Page, key: str) -> str:
    """Press a key that decides or goes on, wait for the next item; returns its id."""
    before = shown(page)
    page.keyboard.press(key)
    page.wait_for_function("before => document.getElementById('panel').dataset.finding !== before", arg=before)
    return shown(page)


def sent(page: Page) -> None:
    """Wait until the server has taken everything."""
    page.wait_for_function("() => !Object.keys(localStorage).some(name => name.startsWith('dsops.outbox.'))")
