"""The dataset card: a head that the Hub reads, and figures that are counted."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
import yaml

from datasetops.audits.run import audit
from datasetops.evidence.card import card_head, dataset_card, escaped, size_category
from datasetops.evidence.figures import figures, share
from datasetops.evidence.story import Story
from datasetops.manifest import Change, Repository

pytestmark = pytest.mark.slow


def test_the_figures_are_those_of_the_version(story: Story) -> None:
    found = figures(story.version)
    assert (found.samples, found.labels, found.votes, found.unlabeled, found.erased) == (12, 12, 0, 0, (0, 0))
    assert found.splits == {"train": 9, "test": 3}
    assert found.sources == {"import": 10, "human": 1, "model": 1}
    assert (found.annotators, found.models) == (("ann",), {"hf:digits": 1})
    assert found.consents == {"(none)": 6, "training": 6}
    assert [(item.name, item.labels, item.images) for item in found.classes][-1] == ("other|<b>", 0, 0)
    assert sum(item.by_people for item in found.classes) == 1
    assert found.classes[0].by_split == {"train": 3, "test": 1}
    assert found.sizes == (8, 8, 8, 8)


def test_the_card(story: Story) -> None:
    text = dataset_card(story)
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "cc-by-4.0"
    assert head["task_categories"] == ["image-classification"]
    assert head["size_categories"] == ["n<1K"]
    assert head["annotations_creators"] == ["found", "machine-generated"]
    assert head["dataset_info"]["splits"] == [
        {"name": "train", "num_examples": 9},
        {"name": "test", "num_examples": 3},
    ]
    assert "| import | 10 | 83.3 % |" in text
    assert "1 person gave labels. Models: hf:digits (1)." in text
    assert "ann@" not in text
    assert "no label of class other\\|&lt;b&gt;" in text
    assert "light = night: 0 of at least 2" in text
    assert "| q1 | v2 | accept | 12 |" in text
    assert "overridden: consent" in text
    assert "<script>" not in text
    assert story.version.digest in text


def test_licences_that_the_hub_does_not_know_and_none(story: Story, repository: Repository) -> None:
    counted = figures(story.version)
    head = card_head(story, replace(counted, licenses={"MIT": 3, "House rules": 2, "(none)": 1}))
    assert (head["license"], head["license_name"]) == (["mit", "other"], "House rules")
    assert card_head(story, replace(counted, licenses={"(none)": 1}))["license"] == "unknown"
    repository.commit(Change(samples=[{"sample_id": "a", "uri": "a.png"}]), message="one image, nothing known")
    text = dataset_card(Story(repository, repository.version()))
    assert yaml.safe_load(text.split("---\n")[1])["dataset_info"] == {"splits": []}
    assert "1 of 1 images name no licence" in text
    assert "a draft: nobody has accepted it" in text
    row = {"sample_id": "a", "uri": "a.png", "expires_at": datetime(2020, 1, 2, tzinfo=UTC)}
    repository.commit(Change(samples=[row]), message="its rights have ended")
    assert "the rights of 1 images have ended" in dataset_card(Story(repository, repository.version()))


@pytest.mark.parametrize(
    ("count", "name"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**13, "n>1T")]
)
def test_size_categories(count: int, name: str) -> None:
    assert size_category(count) == name


def test_shares_are_never_rounded_to_all_or_nothing() -> None:
    assert [share(0, 9), share(1, 10**6), share(10**6 - 1, 10**6), share(9, 9), share(0, 0)] == [
        "0 %",
        "0.1 %",
        "99.9 %",
        "100 %",
        "–",
    ]


def test_text_is_shown_as_it_is() -> None:
    assert escaped("a|b\n<i> [x](y) `z`") == "a\\|b &lt;i&gt; \\[x\\](y) \\`z\\`"


def test_agreement_is_told_where_annotators_were_compared(repository: Repository) -> None:
    rows, votes = [], []
    for number in range(6):
        rows.append({"sample_id": f"s{number}", "uri": f"s{number}.png", "split": "train"})
        about = {"sample_id": f"s{number}", "kind": "classification", "source": "human"}
        for actor, name in (("ann", "cat"), ("bob", "dog" if number == 5 else "cat"), ("cy", "cat")):
            votes.append(about | {"annotation_id": f"s{number}/{actor}", "label": name, "actor": actor, "role": "vote"})
        votes.append(about | {"annotation_id": f"s{number}/c", "label": "cat", "source": "consensus"})
    repository.commit(Change(samples=rows, annotations=votes), message="votes")
    audit(repository, repository.version(), checks=["annotators"])
    text = dataset_card(Story(repository, repository.version()))
    assert "## Agreement of annotators" in text
    assert "Krippendorff's alpha" in text
    assert "3 people gave labels. 18 single answers are kept beside the labels that they were merged into." in text
    assert "| consensus | 6 | 100 % |" in text
