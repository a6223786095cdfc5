"""Prompts as a text model takes them."""

from __future__ import annotations

from typing import Any

from datasetops.errors import ModelError
from datasetops.models.predictor import Prompts


def tokenized(
    name: str, tokenizer: Any, prompts: Prompts, *, most: int, padding: str | bool
) -> tuple[dict[str, Any], list[int]]:
    """Tensors for all texts of all classes, and for each text the index of its class. `most` tokens a text.

    Longer texts are cut off there. Raises ModelError where a text is none of the model's words, or where texts of two
    classes come out the same.
    """
    owners = [index for index, texts in enumerate(prompts.texts.values()) for _ in texts]
    texts = [text for group in prompts.texts.values() for text in group]
    tokens = tokenizer(texts, padding=padding, truncation=True, max_length=most, return_tensors="pt")
    check_tokens(name, tokenizer, prompts, owners, tokens["input_ids"].tolist())
    return {key: tokens[key] for key in ("input_ids", "attention_mask") if key in tokens}, owners


def check_tokens(name: str, tokenizer: Any, prompts: Prompts, owners: list[int], rows: list[list[int]]) -> None:
    """Raises ModelError where a class's tokens are all unknown to the model, or equal to those of another class."""
    empty = set(tokenizer.all_special_ids)  # the unknown token is one of them
    seen: dict[tuple[int, ...], int] = {}
    for owner, row in zip(owners, rows, strict=True):
        known = tuple(token for token in row if token not in empty)
        if not known:
            raise ModelError(
                f"The model {name!r} cannot name the class {prompts.names[owner]!r}: it knows none of the words.",
                remedy="Give the class a prompt in the model's language.",
            )
        if seen.setdefault(known, owner) != owner:
            one, other = prompts.names[seen[known]], prompts.names[owner]
            raise ModelError(
                f"The model {name!r} reads the same prompt for {one!r} and {other!r}.",
                remedy="Put what tells them apart first: it reads only the beginning of a long prompt.",
            )
