"""Every page in a real browser: read by everybody, on a phone too, and safe whatever stands in the data."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from browser_fixtures import PHONE, WIDE, Open, press, sent, shown, standing
from PIL import Image
from playwright.sync_api import Page, expect
from review_site import Serve, audited, photo, sample

from datasetops.manifest import Change, Repository
from datasetops.records import Finding
from datasetops.schema import LabelSchema
from datasetops.web.users import Users

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.xdist_group("review-browser")]


def violations(page: Page) -> list[str]:
    """What axe-core finds against WCAG 2.2 A and AA and its best practices."""
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['html'][:160]} {node['any'][:1]}" for one in found for node in one["nodes"]]


def too_wide(page: Page) -> list[str]:
    """What sticks out of the window at its right side, if the page can be scrolled sideways or cuts it off."""
    return page.evaluate(  # type: ignore[no-any-return]
        """() => {
          const wide = document.documentElement.scrollWidth > innerWidth ? ['the page scrolls sideways'] : [];
          const controls = document.querySelectorAll('a, button, input, select, h1, h2, p, dd');
          const apart = '.stage, .scroll, .visually-hidden, .skip, .menu-body';
          for (const one of controls) {
            const place = one.getBoundingClientRect();
            if (place.width && place.right > innerWidth + 1 && !one.closest(apart)) wide.push(one.outerHTML.slice(0, 160));
          }
          return wide;
        }"""
    )


def look(page: Page, name: str, problems: dict[str, list[str]]) -> None:
    """Both themes in a wide window, then a phone's."""
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        if found := violations(page):
            problems[f"{name}, {theme}"] = found
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page.wait_for_timeout(50)
    if found := too_wide(page) + violations(page):
        problems[f"{name}, phone"] = found
    page.set_viewport_size(WIDE)  # type: ignore[arg-type]


def test_pages_of_a_data_set_are_accessible_and_fit_a_phone(cifar: Repository, serve: Serve, sit_down: Open) -> None:
    site = serve(cifar)
    site.app.state.desk.workplace("v1").lookalikes(wait=60)
    problems: dict[str, list[str]] = {}
    page = sit_down(site, "/v/v1/")
    look(page, "overview", problems)
    page.goto(f"{site.url}/v/v1/review?given=cat&search=0")
    page.wait_for_function("() => document.getElementById('state').textContent !== ''")
    look(page, "list", problems)
    page.goto(f"{site.url}/v/v1/review?view=grid")
    page.keyboard.press("a")
    look(page, "grid with a selection", problems)
    page.goto(f"{site.url}/v/v1/review?check=label_noise")
    page.locator("#start").click()
    page.wait_for_url("**/review/*")
    shown(page)
    expect(page.locator(".strip img").first).to_be_visible()
    look(page, "item", problems)
    like = page.get_by_role("link", name="findings that look like this").get_attribute("href")
    found = site.browser("ann").get(f"/api{like}".replace("/review?", "/queue?size=2&")).json()
    assert found["rows"][0]["finding_id"] == page.get_attribute("#panel", "data-finding")  # nothing looks more like it
    press(page, "k")
    page.keyboard.press("n")
    page.keyboard.press("Shift+Tab")
    look(page, "item with a note and a message", problems)
    page.locator("[data-action='label']").click()
    look(page, "choice of a class", problems)
    page.keyboard.press("Escape")
    page.locator("#panel").focus()
    page.keyboard.press("?")
    look(page, "keys", problems)
    page.goto(f"{site.url}/v/v1/qa/q1")
    look(page, "blind check", problems)
    page.goto(f"{site.url}/v/v1/nowhere")
    look(page, "message", problems)
    assert not problems, json.dumps(problems, indent=1)


def test_pages_with_boxes_and_people(blood: Repository, serve: Serve, sit_down: Open, users_file: Any) -> None:
    site = serve(blood, Users.from_file(users_file))
    problems: dict[str, list[str]] = {}
    page = sit_down(site, "/login", actor=None)
    look(page, "login", problems)
    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password").fill("not this one")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    look(page, "refused login", problems)
    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password").fill("a long enough password")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/v/v1/")
    page.goto(f"{site.url}/v/v1/review?check=misplaced_box&view=grid")
    look(page, "grid of boxes", problems)
    page.locator("#start").click()
    page.wait_for_url("**/review/*")
    name = shown(page)
    page.wait_for_function("() => document.querySelector('.picture').naturalWidth > 0")
    look(page, "item with boxes", problems)
    page.keyboard.press("e")
    page.keyboard.press("Delete")  # the keyboard alone: delete one, draw another
    page.keyboard.press("d")
    page.keyboard.press("Enter")
    page.keyboard.press("Alt+ArrowDown")
    look(page, "fixing boxes", problems)
    page.keyboard.press("Enter")
    page.wait_for_function("id => document.getElementById('panel').dataset.finding !== id", arg=name)
    sent(page)
    (decision,) = standing(blood)
    assert decision.fix
    assert [len(decision.fix.remove), len(decision.fix.put)] == [1, 1]
    page.locator(".menu summary").click()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/login")
    page.goto(f"{site.url}/v/v1/")
    page.wait_for_url("**/login?next=**")
    assert not problems, json.dumps(problems, indent=1)


EVIL = "<img src=x onerror=alert(1)>"
SCRIPT = "<script>alert(2)</script>"


@pytest.fixture
def hostile(tmp_path: Any) -> Repository:
    """A file name, classes, metadata, a message and a guide that are HTML, 1 MB of metadata, an SVG with a script."""
    schema = LabelSchema.model_validate(
        {"name": "hostile", "version": 1, "tasks": [{"kind": "classification"}],
         "classes": [{"id": 0, "name": SCRIPT, "definition": f"A {EVIL} thing"}, {"id": 1, "name": EVIL}]}
    )  # fmt: skip
    repository = Repository.init(tmp_path / "hostile", schema)
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><script>alert(3)</script></svg>"
    facts = {"light": EVIL, EVIL: SCRIPT, "long": "m" * 1_000_000}
    rows = [
        sample(repository, f"photos/{EVIL.replace('/', '')}.jpg", photo(1)),
        sample(repository, "photos/script.svg", svg),
        sample(repository, "photos/mean'\"&.png", photo(2, "PNG")),
    ]
    names = [row["sample_id"] for row in rows]
    rows = [row | {"metadata": json.dumps(facts), "split": SCRIPT} for row in rows]
    labels = [{"annotation_id": f"{name}/label", "sample_id": name, "kind": "classification", "label": SCRIPT,
               "source": "human", "actor": EVIL, "attributes": json.dumps({EVIL: SCRIPT})} for name in names]  # fmt: skip
    version = repository.commit(Change(samples=rows, annotations=labels), message=SCRIPT).version
    audited(repository, version, [
        Finding("label_noise", "high", 0.1 + number / 10, f"{SCRIPT} {EVIL}", sample_id=name, uri=row["uri"],
                annotation_id=f"{name}/label", split=SCRIPT, given=SCRIPT, suggested=EVIL)
        for number, (name, row) in enumerate(zip(names, rows, strict=True))
    ])  # fmt: skip
    return repository


def test_hostile_content_is_text(hostile: Repository, serve: Serve, sit_down: Open) -> None:
    site = serve(hostile)  # dialogs and errors of scripts fail the test: see sit_down
    page = sit_down(site, "/v/v1/")
    made = "() => [...document.querySelectorAll('main script:not([type]), main img[onerror], [onerror]')].length"
    for path in ("/v/v1/", "/v/v1/review", "/v/v1/review?view=grid", f"/v/v1/review?search={EVIL}"):
        page.goto(f"{site.url}{path}")
        page.wait_for_timeout(150)
        assert page.evaluate(made) == 0, path
    page.goto(f"{site.url}/v/v1/review")
    expect(page.locator("#items .said").first).to_contain_text(f"{SCRIPT} {EVIL}")
    page.locator("#start").click()
    page.wait_for_url("**/review/*")
    names = []
    for _ in range(3):
        names.append(shown(page))
        expect(page.locator(".versus")).to_contain_text(SCRIPT)
        expect(page.locator(".versus")).to_contain_text(EVIL)
        expect(page.locator("#panel")).to_contain_text(f"{SCRIPT} {EVIL}")
        expect(page.locator("#decide")).to_contain_text(f"Take {EVIL}")
        assert page.evaluate(made) == 0
        assert len(page.locator("#panel").inner_text()) < 50_000  # the 1 MB is cut
        page.keyboard.press("s")
        page.wait_for_function(
            "id => document.getElementById('panel').dataset.finding !== id || document.body.matches('.finished')",
            arg=names[-1],
        )
    expect(page.locator("#toasts")).to_contain_text(EVIL)
    sent(page)
    assert len(standing(hostile)) == 3
    assert len(set(names)) == 3
    expect(page.get_by_role("heading", name="The end of this queue")).to_be_visible()


def test_a_large_image_is_zoomed_and_seen_as_it_is(tmp_path: Any, serve: Serve, sit_down: Open, schema: Any) -> None:
    """A turned photo: boxes lie where they belong, and a small box is zoomed to at once."""
    repository = Repository.init(tmp_path / "turned", schema)
    pixels = np.zeros((300, 400, 3), np.uint8)  # as stored; shown 300 wide and 400 high
    pixels[20:40, 10:50] = 255  # stored x 10 to 50, y 20 to 40
    sink, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    Image.fromarray(pixels).save(sink, "JPEG", quality=95, exif=exif)
    row = sample(repository, "photos/turned.jpg", sink.getvalue())
    box = {"annotation_id": "b", "sample_id": "turned", "kind": "box", "label": "cat", "source": "human",
           "x1": 10.0, "y1": 20.0, "x2": 50.0, "y2": 40.0}  # fmt: skip
    version = repository.commit(Change(samples=[row], annotations=[box]), message="one").version
    finding = Finding("misplaced_box", "high", 0.1, "Badly placed.", sample_id="turned", annotation_id="b", given="cat")
    (name,) = audited(repository, version, [finding])
    page = sit_down(serve(repository), f"/v/v1/review/{name}")
    page.wait_for_function("() => document.querySelector('.picture').naturalWidth === 300")
    outline = page.locator("#stage rect.line.subject")
    place = [float(outline.get_attribute(side) or 0) for side in ("x", "y", "width", "height")]
    assert place == pytest.approx([300 - 40, 10, 20, 40])
    before = page.locator(".frame").bounding_box()
    page.mouse.move(500, 400)
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(50)
    after = page.locator(".frame").bounding_box()
    assert before
    assert after
    assert after["width"] > 1.5 * before["width"]
    assert (500 - after["x"]) / after["width"] == pytest.approx((500 - before["x"]) / before["width"], abs=0.01)
    page.keyboard.press("w")
    page.keyboard.press("e")
    page.keyboard.press("Alt+ArrowRight")
    page.keyboard.press("Enter")
    sent(page)
    (decision,) = standing(repository)
    assert decision.fix
    moved = decision.fix.put[0]  # to the right as shown is upwards as stored
    assert [moved[side] for side in ("x1", "y1", "x2", "y2")] == pytest.approx([10, 10, 50, 30])


def test_outlines_are_drawn_and_decided(tmp_path: Any, serve: Serve, sit_down: Open) -> None:
    """Polygons and keypoints, by scripts and in the page that comes without them."""
    schema = LabelSchema.model_validate(
        {
            "name": "shapes", "version": 1, "classes": [{"id": 0, "name": "leaf"}, {"id": 1, "name": "bud"}],
            "tasks": [{"kind": "polygon"}, {"kind": "keypoints", "keypoints": ["tip", "stem"]}],
        }
    )  # fmt: skip
    repository = Repository.init(tmp_path / "shapes", schema)
    base = {"sample_id": "a", "label": "leaf", "source": "human"}
    rows = [
        {"annotation_id": "p", "kind": "polygon", "geometry": {"polygons": [[10, 20, 70, 20, 70, 50]]}},
        {"annotation_id": "k", "kind": "keypoints", "geometry": {"keypoints": [5, 6, 2, 0, 0, 0]}},
    ]
    change = Change(samples=[sample(repository, "a.jpg", photo(1))], annotations=[base | row for row in rows])
    version = repository.commit(change, message="drawn").version
    findings = [
        Finding("mask", "high", 0.1, "Odd.", sample_id="a", annotation_id="p", given="leaf", suggested="bud"),
        Finding("keypoints", "low", 0.2, "Odd, too.", sample_id="a", annotation_id="k", given="leaf"),
    ]
    name, _ = audited(repository, version, findings)
    site = serve(repository)
    page = sit_down(site, f"/v/v1/review/{name}")
    assert shown(page) == name
    points = page.locator("#stage .shapes polygon.line.subject").get_attribute("points")
    assert [float(value) for value in (points or "").split()] == [10, 20, 70, 20, 70, 50]
    assert page.locator("#stage circle.dot").count() == 1
    page.keyboard.press("e")
    expect(page.locator(".hint")).to_contain_text("An outline stays where it is")
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    page.wait_for_function("id => document.getElementById('panel').dataset.finding !== id", arg=name)
    sent(page)
    (decision,) = standing(repository)
    assert decision.fix
    assert [dict(row) for row in decision.fix.put] == [{"annotation_id": "p", "label": "bud"}]
    plain = sit_down(site, f"/v/v1/review/{name}", java_script_enabled=False)
    points = plain.locator(".plain-shapes polygon").get_attribute("points")
    assert [float(value) for value in (points or "").split()] == [10, 20, 70, 20, 70, 50]
    assert plain.locator(".plain-shapes circle").count() == 1
