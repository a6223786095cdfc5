"""Whatever a signed-in browser sends, it gets an answer in words: never a status of 500, never a hang."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hypothesis
import pytest
from hypothesis import strategies as st
from review_site import Dataset, Refusing, Site

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))

from mutations import mutated

EXAMPLES = int(os.environ.get("DSOPS_FUZZ_EXAMPLES", "150"))
pytestmark = [pytest.mark.server, pytest.mark.slow]

PATHS = (
    "/", "/v/v1", "/v/v1/review", "/v/v1/review/{finding}", "/v/v1/story/s001", "/compare/v1/v1", "/v/v1/qa", "/v/v1/qa/q1",
    "/access",    "/api/v/v1/queue", "/api/v/v1/findings/{finding}", "/api/v/v1/findings/{finding}/history", "/api/v/v1/next",
    "/api/v/v1/progress", "/api/v/v1/since", "/media/v1/full/s001", "/media/v1/thumb/s001", "/media/v1/mask/s001/label.png",
)  # fmt: skip
QUERY = (
    "start=0&size=20&page=1&view=grid&check=label_noise&severity=high&label=cat&split=train&q=photo&after=x&entry=1&side=64"
    "&box=1,1,20,20&annotation=s001/label&only=cat&like=s001&decided=open&save=1&sort=score&given=cat&suggested=dog&random=1"
)
BODIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("decisions", {"decision_id": "d1", "finding_ids": ["x"], "action": "keep", "note": "so", "seconds": 3.5, "second": False}),
    ("decisions", {"decision_id": "d2", "finding_ids": ["x"], "action": "label", "label": "dog"}),
    ("decisions", {
        "decision_id": "d3", "finding_ids": ["x"], "action": "edit",
        "fix": {"kind": "edit", "put": [{"annotation_id": "s001/label", "label": "dog"}], "remove": []},
    }),
    ("undo", {"finding_ids": ["x"]}),
)  # fmt: skip
settings = hypothesis.settings(
    max_examples=EXAMPLES, derandomize=True, database=None, phases=[hypothesis.Phase.generate],
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)  # fmt: skip


@settings
@hypothesis.given(st.integers(0, 2**48))
def test_any_address_is_answered(refusing: Refusing, number: int) -> None:
    chance = random.Random(number)
    path = chance.choice(PATHS).replace("{finding}", chance.choice([*refusing.dataset.noise, "x"]))
    pairs = chance.sample(QUERY.split("&"), chance.randrange(5))
    query = quote(mutated("&".join(pairs).encode(), "text", number)[:4000], safe="=&,/")
    if chance.random() < 0.3:
        path = "/" + quote(mutated(path.encode(), "text", number)[1:2000], safe="/").lstrip("/")
    answer = refusing.client.get(f"{path}?{query}")
    assert answer.status_code < 500, (path, query, answer.text[:500])


@settings
@hypothesis.given(st.integers(0, 2**48))
def test_any_body_is_answered(site: Site, dataset: Dataset, number: int) -> None:
    chance = random.Random(number)
    name, body = chance.choice(BODIES)
    ids = chance.sample(dataset.noise, 2) if chance.random() < 0.7 else ["x"]
    data = mutated(json.dumps(body | {"finding_ids": ids}).encode(), "json", number)
    client = site.clients[0] if site.clients else site.browser("ann")
    answer = client.post(
        f"/api/v/v1/{name}", content=data, headers={"content-type": "application/json", "origin": site.url}
    )
    assert answer.status_code < 500, (data[:500], answer.text[:500])
