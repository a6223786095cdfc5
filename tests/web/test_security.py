"""Who gets in, from where, and what the server refuses; over HTTP, as an attacker would try it."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import httpx
import pytest
from review_site import PASSWORD, Dataset, Refusing, Serve, Site
from typer.testing import CliRunner

from datasetops.audits.decisions import decisions
from datasetops.cli.main import app
from datasetops.errors import FormatError, NotFoundError
from datasetops.manifest import Repository
from datasetops.manifest.verify import verify
from datasetops.web.security import BODY_LIMIT
from datasetops.web.sessions import Sessions, load_secret
from datasetops.web.users import LONGEST_WAIT, Password, Tries, Users, read_users, set_password

pytestmark = pytest.mark.server

KEEP = {"decision_id": "1", "finding_ids": ["x"], "action": "keep"}


def test_without_a_session_nothing_is_told(refusing: Refusing) -> None:
    client = refusing.site.browser()
    page = client.get("/v/v1/review")
    assert page.status_code == 403
    assert "Open the address that dsops review printed" in page.text
    for path in (
        "/api/v/v1/queue",
        "/media/v1/full/s000",
        "/media/v1/thumb/s000",
        "/api/qa/q1/next",
        "/api/v/v9/queue",
    ):
        answer = client.get(path)
        assert answer.status_code == 401
        assert "s000" not in answer.text
    assert client.post("/api/v/v1/decisions", json=KEEP).status_code == 401
    assert client.get("/static/style.css").status_code == 200


def test_the_token_lets_one_browser_in_once(site: Site) -> None:
    token = site.app.state.desk.tokens.make("ann")
    first = site.browser()
    answer = first.get(f"/enter?token={token}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/", "max-age=43200"))
    assert first.get("/v/v1/review").status_code == 200
    assert first.get(f"/enter?token={token}").status_code == 303  # it is in already
    second = site.browser()
    refused = second.get(f"/enter?token={token}")
    assert refused.status_code == 403
    assert "was used before" in refused.text
    assert "set-cookie" not in refused.headers
    assert second.get("/enter").status_code == 403
    assert second.get("/enter?token=x%00%ff").status_code == 403


def test_forged_and_old_cookies_are_refused(site: Site) -> None:
    desk = site.app.state.desk
    name, good = desk.sessions.cookie, desk.sessions.issue("ann", "")
    body, _, signature = good.partition(".")
    said = json.loads(base64.urlsafe_b64decode(body + "=="))
    other = base64.urlsafe_b64encode(json.dumps(said | {"actor": "eve"}).encode()).decode().rstrip("=")
    old = Sessions(load_secret(desk.repository.cache / "review" / "secret"), clock=lambda: time.time() - 13 * 3600)
    wrong = {
        "another actor": f"{other}.{signature}",
        "no signature": body,
        "another signature": f"{body}.{'0' * 64}",
        "another secret": Sessions(b"x" * 32).issue("ann", ""),
        "12 hours ago": old.issue("ann", ""),
        "somebody who is not let in": desk.sessions.issue("eve", ""),
        "noise": "%00.\xff",
        "empty": "",
    }
    assert httpx.get(f"{site.url}/v/v1/review", headers={"cookie": f"{name}={good}"}).status_code == 200
    for what, value in wrong.items():
        answer = httpx.get(f"{site.url}/v/v1/review", headers={"cookie": f"{name}={value}".encode("latin-1")})
        assert answer.status_code == 403, what


def test_cookies_of_two_repositories_do_not_meet(site: Site, serve: Serve, tmp_path: Path, dataset: Dataset) -> None:
    other = serve(Repository.init(tmp_path / "other", dataset.version.schema))
    assert other.app.state.desk.sessions.cookie != site.app.state.desk.sessions.cookie


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.5", "", "localhost@evil.example"])
def test_a_name_that_was_pointed_at_this_machine_is_refused(refusing: Refusing, host: str) -> None:
    answer = refusing.client.get("/v/v1/review", headers={"host": host})
    assert answer.status_code in (400, 403)
    assert "Labeled" not in answer.text


def test_this_machines_names_are_answered(refusing: Refusing) -> None:
    port = refusing.site.url.rpartition(":")[2]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "LOCALHOST", f"localhost.:{port}"):
        assert refusing.client.get("/api/v/v1/queue", headers={"host": host}).status_code == 200


def test_a_team_is_reached_by_its_names_and_by_address(serve: Serve, dataset: Dataset, users_file: Path) -> None:
    team = serve(dataset.repository, Users.from_file(users_file), names=["labels.example"], local=False)
    client = team.browser("ann")
    for host, status in {"Labels.example:80": 200, "10.1.2.3:8720": 200, "other.example": 403}.items():
        assert client.get("/api/v/v1/queue", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"x-csrf": ""},
        {"x-csrf": "0" * 64},
        {"x-csrf": "\xff"},
    ],
)
def test_what_another_site_sends_is_refused(site: Site, dataset: Dataset, headers: dict[str, str]) -> None:
    client = site.browser("ann")
    body = KEEP | {"finding_ids": dataset.noise[:1]}
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = client.post("/api/v/v1/decisions", json=body, headers=raw)
    assert answer.status_code == 403
    assert decisions(dataset.repository) == []
    own = {"origin": site.url, "sec-fetch-site": "same-origin"}
    assert client.post("/api/v/v1/decisions", json=body, headers=own).status_code == 200


def test_anothers_token_of_the_page_does_not_count(team: Site, dataset: Dataset) -> None:
    ann, bob = team.browser("ann"), team.browser("bob")
    ann.headers["X-CSRF"] = bob.headers["X-CSRF"]
    assert ann.post("/api/v/v1/decisions", json=KEEP | {"finding_ids": dataset.noise[:1]}).status_code == 403


def test_a_link_from_another_site_is_asked_for_again_from_here(refusing: Refusing) -> None:
    answer = refusing.site.browser().get("/v/v1/review?severity=high", headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 200
    assert 'http-equiv="refresh"' in answer.text
    assert "Labeled" not in answer.text
    media = refusing.site.browser().get("/media/v1/full/s000", headers={"sec-fetch-site": "cross-site"})
    assert media.status_code == 401


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"])
def test_other_methods_are_refused(refusing: Refusing, method: str) -> None:
    assert refusing.client.request(method, "/api/v/v1/queue").status_code == 405


def test_reading_by_post_and_writing_by_get_are_refused(refusing: Refusing) -> None:
    client = refusing.client
    assert client.post("/api/v/v1/queue").status_code == 405
    assert client.get("/api/v/v1/decisions").status_code == 405


def test_bodies_that_are_too_large_are_refused(refusing: Refusing) -> None:
    client = refusing.client
    told = client.post("/api/v/v1/decisions", content=b" " * (BODY_LIMIT + 1))
    assert told.status_code == 413

    def parts() -> object:
        for _ in range(BODY_LIMIT // 65536 + 2):
            yield b" " * 65536

    untold = client.post("/api/v/v1/decisions", content=parts(), headers={"content-type": "application/json"})
    assert untold.status_code == 413
    assert "1 MB" in untold.json()["remedy"]
    assert client.get("/v/v1/review?search=" + "a" * 9000).status_code == 414


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"decision_id": NaN}', b"\xff\xfe", b"[" * 5000])
def test_bodies_that_are_no_choice_are_refused(refusing: Refusing, body: bytes) -> None:
    answer = refusing.client.post("/api/v/v1/decisions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert set(answer.json()) == {"error", "remedy"}


def test_browsers_are_told_what_to_refuse(refusing: Refusing) -> None:
    client = refusing.client
    stranger = refusing.site.browser()
    answers = [client.get("/v/v1/review"), client.get("/api/v/v1/queue"), client.get("/static/style.css")]
    answers += [client.get("/nothing"), stranger.get("/v/v1/"), stranger.get("/api/v/v1/queue")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert "server" not in answer.headers or "uvicorn" in answer.headers["server"]
    assert client.get("/v/v1/review").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd"]
)
def test_nothing_beside_the_apps_own_files_is_served(refusing: Refusing, path: str) -> None:
    with httpx.Client() as client:
        answer = client.get(httpx.URL(refusing.site.url).copy_with(raw_path=path.encode()))
    assert answer.status_code in (401, 403, 404)
    assert "import" not in answer.text


def test_unexpected_faults_show_no_inside(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the secret inside")

    monkeypatch.setattr(type(site.app.state.desk), "workplace", fail)
    answer = site.browser("ann").get("/api/v/v1/queue")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert set(answer.json()) == {"error", "remedy"}


# --- people with passwords --------------------------------------------------------------------------------------------


def sign_in(client: httpx.Client, name: str, password: str, wanted: str = "/v/v1/") -> httpx.Response:
    return client.post("/login", data={"name": name, "password": password, "next": wanted})


def test_people_sign_in_and_go_where_they_wanted(team: Site) -> None:
    client = team.browser()
    led = client.get("/v/v1/review?check=label_noise&severity=high")
    assert led.status_code == 303
    assert led.headers["location"].startswith("/login?next=%2Fv%2Fv1%2Freview%3Fcheck")
    page = client.get(led.headers["location"])
    assert page.status_code == 200
    assert "/v/v1/review?check=label_noise&amp;severity=high" in page.text
    answer = sign_in(client, "ann", PASSWORD, "/v/v1/review?check=label_noise")
    assert (answer.status_code, answer.headers["location"]) == (303, "/v/v1/review?check=label_noise")
    assert client.get("/v/v1/review").status_code == 200
    assert client.get("/enter?token=x").status_code == 303


@pytest.mark.parametrize(
    "wanted", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:1", "/\n/x"]
)
def test_signing_in_leads_nowhere_else(team: Site, wanted: str) -> None:
    assert sign_in(team.browser(), "ann", PASSWORD, wanted).headers["location"] == "/"


def test_a_wrong_password_and_an_unknown_name_get_the_same_answer(team: Site) -> None:
    client = team.browser()
    wrong, unknown = sign_in(client, "ann", "a wrong password"), sign_in(client, "nobody", "a wrong password")
    assert wrong.status_code == unknown.status_code == 403
    assert wrong.text == unknown.text
    assert "set-cookie" not in wrong.headers
    assert sign_in(client, "ann", PASSWORD).status_code == 303


def test_an_unknown_name_is_measured_against_as_much_work(users_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[int, int, int]] = []
    fits = Password.fits

    def counted(self: Password, password: str) -> bool:
        done.append((self.n, self.r, self.p))
        return fits(self, password)

    monkeypatch.setattr(Password, "fits", counted)
    users = Users.from_file(users_file)
    assert [users.check("ann", "x" * 10), users.check("nobody", "x" * 10)] == [False, False]
    assert len(done) == 2
    assert done[0] == done[1]


def test_guessing_is_slowed(team: Site) -> None:
    client = team.browser()
    answers = [sign_in(client, "ann", f"guess {number}").status_code for number in range(5)]
    assert answers == [403, 403, 403, 429, 429]
    held = sign_in(client, "ann", PASSWORD)  # not even looked at
    assert held.status_code == 429
    assert 1 <= int(held.headers["retry-after"]) <= LONGEST_WAIT
    assert sign_in(client, "bob", PASSWORD).status_code == 303


def test_waits_double_and_end() -> None:
    now = [0.0]
    tries = Tries(clock=lambda: now[0])
    waits = []
    for _ in range(12):
        tries.failed("1.2.3.4", "ann")
        waits.append(tries.wait("1.2.3.4", "ann"))
    assert waits[:6] == [0, 0, 1, 2, 4, 8]
    assert waits[-1] == LONGEST_WAIT
    assert tries.wait("1.2.3.5", "ann") == 0
    for number in range(20):
        tries.failed("1.2.3.4", f"name {number}")
    assert tries.wait("1.2.3.4", "a new name") > 0
    now[0] = LONGEST_WAIT
    assert tries.wait("1.2.3.4", "ann") == 0
    tries.succeeded("1.2.3.4", "ann")
    tries.failed("1.2.3.4", "ann")
    assert tries.wait("1.2.3.4", "bob") > 0


def test_who_left_or_has_another_password_is_out(team: Site, users_file: Path) -> None:
    ann, bob = team.browser("ann"), team.browser("bob")
    assert bob.get("/api/v/v1/queue").status_code == 200
    set_password(users_file, "bob", "another long password")
    assert bob.get("/api/v/v1/queue").status_code == 401
    lines = users_file.read_text().splitlines(keepends=True)
    users_file.write_text("".join(line for line in lines if not line.startswith("ann:")))
    assert ann.get("/api/v/v1/queue").status_code == 401


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ann", "line 2: not a key that dsops made"),
        ("ann:scrypt:x:8:1:AAAA:AAAA", "line 2: it is not as dsops writes it"),
        ("ann:scrypt:16384:8:1:AAAA:AAAA", "line 2: not a key that dsops made"),
        (f"ann:scrypt:1073741824:8:1:AAAA:{'A' * 43}=", "line 2: it asks for too much memory"),
        (":scrypt:16384:8:1:AAAA:AAAA", "line 2: the name must have 1 to 100 characters"),
    ],
)
def test_faulty_users_files_are_named(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "users"
    file.write_text(f"# people\n{line}\n")
    with pytest.raises(FormatError, match=words):
        read_users(file)


def test_users_files_are_written_once_and_closed(tmp_path: Path) -> None:
    file = tmp_path / "users"
    with pytest.raises(NotFoundError, match="no users file"):
        Users.from_file(file)
    for name, password in (("a:b", PASSWORD), ("", PASSWORD), ("ann", "short"), ("x\ny", PASSWORD)):
        with pytest.raises(ValueError, match=r"NAME|password"):
            set_password(file, name, password)
    assert set_password(file, "ann", PASSWORD)
    assert file.stat().st_mode & 0o777 == 0o600
    users = Users.from_file(file)
    before = users.stamp("ann")
    assert users.check("ann", PASSWORD)
    assert not set_password(file, "ann", "another long password")
    assert users.stamp("ann") != before
    assert not users.check("ann", PASSWORD)
    assert list(tmp_path.iterdir()) == [file]


# --- people whom a proxy names ----------------------------------------------------------------------------------------


def test_a_proxy_says_who_somebody_is(serve: Serve, dataset: Dataset) -> None:
    site = serve(dataset.repository, Users.behind_proxy("X-Remote-User"))
    client = site.browser()
    named = {"x-remote-user": "cem"}
    assert client.get("/v/v1/review").status_code == 403
    assert "X-REMOTE-USER".lower() in client.get("/v/v1/review").text.lower()
    assert client.get("/v/v1/review", headers=named).status_code == 200
    desk = site.app.state.desk
    body = KEEP | {"finding_ids": dataset.noise[:1]}
    assert client.post("/api/v/v1/decisions", json=body, headers=named).status_code == 403
    token = {"x-csrf": desk.sessions.vouched("cem").csrf}
    assert client.post("/api/v/v1/decisions", json=body, headers=named | token).status_code == 200
    assert [item.actor for item in decisions(dataset.repository)] == ["cem"]
    twice = [("x-remote-user", "cem"), ("x-remote-user", "eve")]
    assert client.get("/v/v1/review", headers=twice).status_code == 403
    assert client.get("/v/v1/review", headers={"x-remote-user": "a:b"}).status_code == 403


def test_a_proxy_may_have_its_own_name_for_the_server(serve: Serve, dataset: Dataset) -> None:
    site = serve(dataset.repository, Users.behind_proxy("X-Remote-User"), names=["labels.example"])
    told = {"x-remote-user": "cem", "x-csrf": site.app.state.desk.sessions.vouched("cem").csrf}
    body = KEEP | {"finding_ids": dataset.noise[:1]}
    for origin, status in {
        "https://evil.example": 403,
        "http://localhost:1": 403,
        "https://labels.example": 200,
    }.items():
        answer = site.browser().post("/api/v/v1/decisions", json=body, headers=told | {"origin": origin})
        assert answer.status_code == status


def test_only_the_proxy_is_believed(serve: Serve, dataset: Dataset) -> None:
    site = serve(dataset.repository, Users.behind_proxy("X-Remote-User", ["10.0.0.0/8"]))
    assert site.browser().get("/v/v1/review", headers={"x-remote-user": "cem"}).status_code == 403
    with pytest.raises(ValueError, match="--trust-from"):
        Users.behind_proxy("X-Remote-User", ["proxy.example"])
    with pytest.raises(ValueError, match="--trust-header"):
        Users.behind_proxy("a header")


def test_the_secret_is_closed_and_stays(tmp_path: Path) -> None:
    file = tmp_path / "review" / "secret"
    first = load_secret(file)
    assert (len(first), file.stat().st_mode & 0o777) == (32, 0o600)
    assert load_secret(file) == first
    file.write_bytes(b"")
    assert len(load_secret(file)) == 32
    assert [item.name for item in file.parent.iterdir()] == ["secret"]


@pytest.mark.parametrize(
    ("role", "decides", "checks", "reads"),
    [
        ("viewer", False, False, False),
        ("annotator", True, False, False),
        ("reviewer", True, True, False),
        ("lead", True, True, True),
        ("officer", False, False, True),
    ],
)
def test_roles_are_kept_and_recorded(
    serve: Serve, dataset: Dataset, users_file: Path, role: str, decides: bool, checks: bool, reads: bool
) -> None:
    line = users_file.read_text().splitlines()[0]
    users_file.write_text(f"{line}:{role}\n" if role != "reviewer" else f"{line}\n")
    client = serve(dataset.repository, Users.from_file(users_file)).browser("ann")
    assert client.get("/v/v1/review").status_code == 200
    answer = client.post("/api/v/v1/decisions", json=KEEP | {"finding_ids": dataset.noise[:1]})
    assert answer.status_code == (200 if decides else 403)
    verdict = client.post("/api/qa/none/verdicts", json={})
    assert verdict.status_code != 403 if checks else verdict.status_code == 403
    assert client.get("/access").status_code == (200 if reads else 403)
    entries = dataset.repository.ledger.backwards()
    newest = next(entry.event for entry in entries if entry.event.kind != "access")
    if decides:
        assert (newest.kind, newest.actor, newest.parameters) == ("decide", "ann", {"role": role})
    else:
        assert newest.kind != "decide"
        assert f"You are {role} here" in answer.json()["error"]


def test_roles_come_by_a_header_or_not_at_all(serve: Serve, dataset: Dataset) -> None:
    site = serve(dataset.repository, Users.behind_proxy("X-Remote-User", role_header="X-Remote-Role"))
    client, name = site.browser(), {"x-remote-user": "cem"}
    assert client.get("/access", headers=name).status_code == 403
    assert client.get("/access", headers=name | {"x-remote-role": "king"}).status_code == 403
    assert client.get("/access", headers=name | {"x-remote-role": "Officer"}).status_code == 200
    with pytest.raises(ValueError, match="--role-header"):
        Users.behind_proxy("X-Remote-User", role_header="no header")


def test_roles_of_users_files(tmp_path: Path) -> None:
    file = tmp_path / "users"
    with pytest.raises(ValueError, match=r"--role: 'leed' is not known\. Did you mean 'lead'"):
        set_password(file, "ann", PASSWORD, "leed")
    set_password(file, "ann", PASSWORD, "lead")
    set_password(file, "ann", "another long password")
    assert {name: person.role for name, person in read_users(file).items()} == {"ann": "lead"}
    file.write_text(file.read_text().replace(":lead", ":king"))
    with pytest.raises(FormatError, match="line 1: the role must be one of viewer, annotator, reviewer, lead, officer"):
        read_users(file)


def test_who_looked_at_what_is_kept_where_several_do(serve: Serve, dataset: Dataset, users_file: Path) -> None:
    users_file.write_text("".join(f"{line}:lead\n" for line in users_file.read_text().splitlines()))
    site = serve(dataset.repository, Users.from_file(users_file))
    ann, bob = site.browser("ann"), site.browser("bob")
    sample = dataset.version.table("samples", ["sample_id"])["sample_id"][0].as_py()
    for client in (ann, ann, bob):
        assert client.get(f"/media/v1/full/{sample}").status_code == 200
    assert ann.get("/media/v1/full/nobody").status_code == 404
    assert site.browser().get(f"/media/v1/full/{sample}").status_code == 401
    ann.get("/api/v/v1/progress")
    page = ann.get("/access").text
    assert page.count(f"<td>{sample}</td>") == 2
    story = ann.get(f"/v/v1/story/{sample}")
    assert "What happened, newest first" in story.text
    users_file.write_text(users_file.read_text().replace("lead", "viewer"))
    assert bob.get("/access").status_code == 403
    site.app.state.desk.access.write()
    assert verify(dataset.repository) == []
    store = dataset.repository.store
    (key,) = (key for key in store.list("access/") if b"bob" in store.get(key) and b'"/access"' in store.get(key))
    kept = store.get(key)
    store.put(key, kept.replace(b"bob", b"ann"))
    assert [damage.object for damage in verify(dataset.repository)] == [key]
    store.put(key, kept)
    answer = CliRunner().invoke(
        app,
        [
            "query",
            "select actor, path, sample_id, refused from access order by time",
            "--json",
            "-C",
            str(dataset.repository.root),
        ],
    )
    rows = json.loads(answer.stdout)
    assert [row["actor"] for row in rows if row["path"] == f"/media/v1/full/{sample}"] == ["ann", "bob"]
    looks = [row for row in rows if row["path"] == f"/v/v1/story/{sample}"]
    assert looks == [{"actor": "ann", "path": f"/v/v1/story/{sample}", "sample_id": sample, "refused": False}]
    assert rows[-1] == {"actor": "bob", "path": "/access", "sample_id": None, "refused": True}


def test_ones_own_looks_are_nobodys_matter(site: Site, dataset: Dataset) -> None:
    assert site.app.state.desk.access is None
    assert "Nobody has looked" in site.browser("ann").get("/access").text
