"""What each role may do in the review app. What is recorded of a decision names the role it was made in."""

from __future__ import annotations

import re
from typing import Final

VIEWER, ANNOTATOR, REVIEWER, LEAD, OFFICER = "viewer", "annotator", "reviewer", "lead", "officer"
ROLES: Final = {
    VIEWER: "looks",
    ANNOTATOR: "looks, and decides on findings",
    REVIEWER: "decides, and gives verdicts in blind checks",
    LEAD: "does all of it, and reads who looked at what",
    OFFICER: "looks, and reads who looked at what; decides nothing",
}
USUAL: Final = REVIEWER  # of somebody whose role nobody told
_DECIDING: Final = frozenset({ANNOTATOR, REVIEWER, LEAD})
_CHECKING: Final = frozenset({REVIEWER, LEAD})
# Requests that are kept from some, by method and path. What else is read is for all, what else is written for the lead.
_RULES: Final = (
    ("POST", re.compile(r"/(login|logout)"), frozenset(ROLES)),
    ("POST", re.compile(r"/api/v/[^/]+/(decisions|undo)"), _DECIDING),
    ("POST", re.compile(r"/api/qa/.+"), _CHECKING),
    ("GET", re.compile(r"/access"), frozenset({LEAD, OFFICER})),
)


def may(role: str, method: str, path: str) -> bool:
    """Whether somebody in this role may ask for it."""
    method = "GET" if method == "HEAD" else method
    allowed = [roles for verb, pattern, roles in _RULES if verb == method and pattern.fullmatch(path)]
    return role in (allowed[0] if allowed else ROLES if method == "GET" else {LEAD})


def who_may(method: str, path: str) -> list[str]:
    return [role for role in ROLES if may(role, method, path)]
