"""An annotator in a real browser: the image of a pushed task is shown, and what is clicked comes back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from label_studio_server import EMAIL, PASSWORD, Server
from pictures import photos
from playwright.sync_api import Page, expect, sync_playwright

from datasetops.labeling import choose_project, make_batch, open_project, pull, push, set_up
from datasetops.manifest import Change, Repository
from datasetops.schema import LabelSchema

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("label-studio")]
CHROMIUM = shutil.which("chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture
def page(label_studio: Server) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{label_studio.url}/user/login/", wait_until="domcontentloaded")
        page.fill("input[name=email]", EMAIL)
        page.fill("input[name=password]", PASSWORD)
        page.click("button[type=submit]")
        page.wait_for_function("!location.pathname.startsWith('/user/login')")
        yield page
        browser.close()


@pytest.mark.parametrize("images", ["local", "inline"])
def test_a_class_and_a_box_made_by_clicking_come_back(
    tmp_path: Path, label_studio: Server, page: Page, images: str
) -> None:
    schema = LabelSchema.model_validate(
        {
            "name": f"clicked-{images}",
            "version": 1,
            "tasks": [{"kind": "classification"}, {"kind": "box"}],
            "classes": [
                {"id": 0, "name": "temple", "kinds": ["classification"]},
                {"id": 1, "name": "roof", "kinds": ["box"]},
                {"id": 2, "name": "garden", "kinds": ["classification"]},
            ],
        }
    )
    repository = Repository.init(tmp_path / "repository", schema)
    photos()[0].save(tmp_path / "repository" / "china.png")
    sample = {"sample_id": "china", "uri": "china.png", "width": 640, "height": 427, "media_type": "image/png"}
    shown = {"annotation_id": "china/label", "sample_id": "china", "kind": "classification", "label": "garden"}
    boxes = [
        {"annotation_id": f"china#{number}", "sample_id": "china", "kind": "box", "label": "roof", "x1": left, "y1": 20.0,
         "x2": left + 60, "y2": 70.0}
        for number, left in enumerate((30.0, 500.0))
    ]  # fmt: skip
    rows = [row | {"source": "import"} for row in (shown, *boxes)]
    repository.commit(Change(samples=[sample], annotations=rows), message="one")
    project, _ = set_up(repository, repository.version())
    batch = make_batch(repository, repository.version(), ["china"], project)
    push(repository, batch, open_project(repository, project), images=images)
    found = label_studio.connection.get("api/tasks/", project=project.id, page_size=1)

    page.goto(
        f"{label_studio.url}/projects/{project.id}/data?task={found['tasks'][0]['id']}", wait_until="domcontentloaded"
    )
    canvas = page.locator("canvas").last
    expect(canvas).to_be_visible(timeout=30_000)
    page.wait_for_function("[...document.images].some(image => image.naturalWidth === 640)")
    page.wait_for_timeout(1000)  # the editor measures the image once it is there
    page.get_by_text("temple", exact=False).first.click()
    page.get_by_text("roof", exact=False).first.click()
    place = page.evaluate(
        "[...document.images].filter(i => i.naturalWidth === 640).map(i => i.getBoundingClientRect().toJSON())"
        ".sort((a, b) => b.width - a.width)[0]"
    )
    page.mouse.move(place["x"] + 0.25 * place["width"], place["y"] + 0.5 * place["height"])
    page.mouse.down()
    page.mouse.move(place["x"] + 0.5 * place["width"], place["y"] + 0.6 * place["height"], steps=5)
    page.mouse.move(place["x"] + 0.75 * place["width"], place["y"] + 0.75 * place["height"], steps=5)
    page.mouse.up()
    page.get_by_role("button", name="Submit").click()
    for _ in range(50):
        if label_studio.connection.get(f"api/projects/{project.id}/")["num_tasks_with_annotations"]:
            break
        page.wait_for_timeout(200)

    result = pull(repository, project, open_project(repository, choose_project(repository, None)))
    assert result.version == "v2", result
    rows = repository.version().annotations().set_index("kind")  # one class, three boxes
    assert rows.loc["classification", "label"] == "temple"
    assert rows.loc["classification", "annotation_id"] == "china/label"
    assert rows.loc["classification", "answer"]["changed"]
    assert rows.loc["classification", "answer"]["lead_time"] > 0
    boxes_now = repository.version().annotations().query("kind == 'box'").set_index("annotation_id")
    for name in ("china#0", "china#1"):  # what was shown and not touched is as it was
        assert not boxes_now.loc[name, "answer"]["changed"]
        assert boxes_now.loc[name, "x1"] == {"china#0": 30.0, "china#1": 500.0}[name]
    (drawn,) = (name for name in boxes_now.index if name not in ("china#0", "china#1"))
    box = boxes_now.loc[drawn]
    assert box["label"] == "roof"
    assert [box[name] for name in ("x1", "x2")] == pytest.approx([160, 480], abs=3)
    assert [box[name] for name in ("y1", "y2")] == pytest.approx([213.5, 320.25], abs=3)
