"""The option that hands samples over against the policy's rights, and the line that says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

OverrideRights = Annotated[
    str | None,
    typer.Option(metavar="REASON", help="Hand over samples that break the policy's rights; the reason is recorded."),
]


def overridden(rights: Mapping[str, Any]) -> list[str]:
    """One loud line where rights were passed over."""
    if not rights:
        return []
    told = ", ".join(f"{breach['rule']} of {breach['samples']:,} samples" for breach in rights["breaches"])
    return [f"OVERRIDDEN {told}. Reason: {rights['override_rights']}"]
