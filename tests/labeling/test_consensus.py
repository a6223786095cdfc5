"""Consensus of several annotators: worked by hand for each kind, as properties, and on real crowds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasetops.errors import DatasetOpsError
from datasetops.labeling.base import REGION_COLUMNS, Answer, ImageSize, Region
from datasetops.labeling.consensus import (
    ConsensusRegion,
    agreement,
    answer_of_rows,
    cleanlab_consensus,
    merge_answers,
)
from datasetops.labeling.consensus_regions import group_regions, similarities, text_similarity
from datasetops.records import canonical_json
from datasetops.schema import LabelSchema

CLASSES = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 2, "name": "bird"}]


def schema_of(multi: bool = False) -> LabelSchema:
    tasks: list[dict[str, Any]] = [{"kind": kind} for kind in ("box", "polygon", "mask", "text")]
    tasks += [{"kind": "classification", "multi": multi}, {"kind": "keypoints", "keypoints": ["head", "tail"]}]
    return LabelSchema.model_validate({"name": "pets", "version": 1, "tasks": tasks, "classes": CLASSES})


ONE = schema_of()
SEVERAL = schema_of(multi=True)


def values(kind: str, label: str | None, **columns: Any) -> dict[str, Any]:
    return dict.fromkeys(REGION_COLUMNS) | {"kind": kind, "label": label} | columns


def image(label: str) -> dict[str, Any]:
    return values("classification", label)


def box(x1: float, y1: float, x2: float, y2: float, label: str = "cat", **columns: Any) -> dict[str, Any]:
    return values("box", label, x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), **columns)


def square(x: float, y: float, side: float, label: str = "cat") -> dict[str, Any]:
    ring = [x, y, x + side, y, x + side, y + side, x, y + side]
    return values("polygon", label, geometry={"polygons": [[float(value) for value in ring]]})


def points(*triples: tuple[float, float, int]) -> dict[str, Any]:
    return values("keypoints", "cat", geometry={"keypoints": [value for triple in triples for value in triple]})


def answer(actor: str, *rows: dict[str, Any], origin: str | None = None, **fields: Any) -> Answer:
    regions = tuple(Region(f"r{number}", row, derived_from=origin) for number, row in enumerate(rows))
    fields = {"status": "done", "created_at": f"2026-01-01T00:00:0{len(actor)}Z"} | fields
    return Answer(answer_id=f"a-{actor}", actor=actor, regions=regions, **fields)


def merged(*answers: Answer, schema: LabelSchema = ONE) -> tuple[ConsensusRegion, ...]:
    return merge_answers(answers, schema).regions


def corners(region: ConsensusRegion) -> list[float]:
    return [region.values[name] for name in ("x1", "y1", "x2", "y2")]


class TestClasses:
    def test_the_class_of_most_annotators_stands(self) -> None:
        (region,) = merged(answer("ann", image("dog")), answer("bob", image("cat")), answer("cy", image("cat")))
        assert region.values == image("cat")
        assert region.agreement == pytest.approx(2 / 3)
        assert set(region.parents) == {("a-bob", "r0"), ("a-cy", "r0")}
        assert not region.tied

    def test_at_a_tie_the_answer_that_came_first_decides(self) -> None:
        late = answer("ann", image("cat"), created_at="2026-01-02T00:00:00Z")
        early = answer("bob", image("dog"), created_at="2026-01-01T00:00:00Z")
        (region,) = merged(late, early)
        assert (region.values["label"], region.tied, region.agreement) == ("dog", True, 0.5)

    def test_no_class_where_more_than_half_gave_none(self) -> None:
        assert merged(answer("ann", image("dog")), answer("bob"), answer("cy")) == ()
        (region,) = merged(answer("ann", image("dog")), answer("bob"))
        assert (region.values["label"], region.tied, region.agreement) == ("dog", True, 0.5)

    def test_of_several_classes_those_of_more_than_half(self) -> None:
        rows = (answer("ann", image("dog"), image("cat")), answer("bob", image("bird"), image("cat")), answer("cy"))
        (region,) = merged(*rows, schema=SEVERAL)
        assert region.values["label"] == "cat"
        assert region.agreement == pytest.approx(2 / 3)

    def test_the_newest_answer_of_an_annotator_counts_and_skipped_ones_do_not(self) -> None:
        old = answer("ann", image("dog"))
        new = Answer("a-z", "ann", "done", (Region("r", image("cat")),), created_at="2026-02-01T00:00:00Z")
        (region,) = merged(new, old, answer("bob", image("dog"), status="skipped"))
        assert (region.values["label"], region.agreement, region.parents) == ("cat", 1.0, (("a-z", "r"),))

    def test_nothing_of_no_answers(self) -> None:
        assert merged() == merged(answer("ann", status="skipped")) == ()


class TestBoxes:
    def test_each_coordinate_is_the_median(self) -> None:
        (region,) = merged(
            answer("ann", box(0, 0, 100, 100)), answer("bob", box(4, 2, 90, 102)), answer("cy", box(2, 8, 96, 104))
        )
        assert corners(region) == [2, 2, 96, 102]
        assert region.agreement == 1.0

    def test_of_two_annotators_what_both_gave(self) -> None:
        (region,) = merged(answer("ann", box(0, 0, 10, 10), box(50, 50, 60, 60)), answer("bob", box(0, 0, 10, 12)))
        assert corners(region) == [0, 0, 10, 11]

    def test_of_one_annotator_everything(self) -> None:
        regions = merged(answer("ann", box(0, 0, 10, 10), box(0, 0, 10, 11)))
        assert [corners(region) for region in regions] == [[0, 0, 10, 10], [0, 0, 10, 11]]

    def test_the_label_is_voted_and_the_dissenter_is_a_parent_still(self) -> None:
        (region,) = merged(
            answer("ann", box(0, 0, 10, 10, "dog")), answer("bob", box(0, 0, 10, 10)), answer("cy", box(0, 0, 10, 10))
        )
        assert region.values["label"] == "cat"
        assert region.agreement == pytest.approx(2 / 3)
        assert len(region.parents) == 3

    def test_one_annotator_gives_one_region_of_a_group(self) -> None:
        regions = merged(
            answer("ann", box(0, 0, 10, 10), box(0, 0, 10, 11)), answer("bob", box(0, 0, 10, 10), box(0, 0, 10, 11))
        )
        assert [corners(region) for region in regions] == [[0, 0, 10, 10], [0, 0, 10, 11]]
        assert all(len(region.parents) == 2 for region in regions)

    def test_the_same_label_is_preferred_to_the_nearer_place(self) -> None:
        regions = merged(
            answer("ann", box(0, 0, 10, 10, "dog"), box(0, 0, 10, 12, "cat")),
            answer("bob", box(0, 0, 10, 10, "cat"), box(0, 0, 10, 12, "dog")),
        )
        assert [(region.values["label"], region.values["y2"]) for region in regions] == [("dog", 11), ("cat", 11)]

    def test_equal_ones_are_joined_first(self) -> None:
        crowd = [[box(0, 0, 10, 10, text=text) for text in texts] for texts in (("a", "b"), ("b", "a"))]
        regions = merged(answer("ann", *crowd[0]), answer("bob", *crowd[1]))
        assert [(region.values["text"], region.agreement) for region in regions] == [("a", 1), ("b", 1)]

    def test_no_chain_from_one_place_to_another(self) -> None:
        boxes = [box(shift, 0, shift + 100, 100) for shift in (0, 30, 60)]  # 0.54 alike next to next, 0.25 at the ends
        groups = group_regions(boxes, [0, 1, 2])
        assert sorted(map(len, groups)) == [1, 2]

    def test_three_annotators_who_drew_two_equal_boxes_each(self) -> None:
        twice = (box(0, 0, 10, 10), box(0, 0, 10, 10))
        regions = merged(*(answer(actor, *twice) for actor in ("ann", "bobby", "cy")))
        assert [len(region.parents) for region in regions] == [3, 3]

    def test_the_pre_annotation_that_most_began_as(self) -> None:
        rows = (box(0, 0, 10, 10),)
        answers = [answer("ann", *rows, origin="p1"), answer("bob", *rows, origin="p1"), answer("cyd", *rows)]
        assert merged(*answers)[0].derived_from == "p1"
        assert merged(answers[0], answers[2])[0].derived_from is None

    def test_missing_numbers_of_a_data_frame_are_none(self) -> None:
        (region,) = merged(answer("ann", image("cat") | {"x1": float("nan")}))
        assert region.values["x1"] is None


class TestOutlines:
    def test_pixels_that_two_squares_share(self) -> None:
        # 10 x 10 pixels, moved by 2: 80 in common of 120. A square and its half: 50 of 100.
        rows = [square(0, 0, 10), square(2, 0, 10), square(0, 0, 5), square(40, 40, 10)]
        assert similarities(rows)[0].tolist() == pytest.approx([1, 80 / 120, 25 / 100, 0])

    def test_a_ring_is_not_its_box(self) -> None:
        rows = [square(0, 0, 20), values("polygon", "cat", geometry={"polygons": [[0, 0, 20, 0, 0, 20]]})]
        assert similarities(rows)[0, 1] == pytest.approx(0.5, abs=0.03)

    def test_the_most_central_polygon_stands_with_its_own_box(self) -> None:
        rows = [square(0, 0, 100), square(20, 0, 100) | {"x1": 20.0, "y1": 0.0, "x2": 120.0, "y2": 100.0}]
        (region,) = merged(answer("ann", rows[0]), answer("bob", rows[1]), answer("cy", square(30, 0, 100)))
        assert region.values == rows[1]
        assert region.agreement == 1.0

    def test_masks_compressed_or_not(self) -> None:
        def mask(counts: Any, size: tuple[int, int] = (4, 4)) -> dict[str, Any]:
            return values("mask", "cat", geometry={"rle": {"size": list(size), "counts": counts}})

        # Columns of four: the second and third; the second; the second as COCO compresses [4, 4, 8].
        rows = [mask([4, 8, 4]), mask([4, 4, 8]), mask("448"), mask([5, 10, 10], (5, 5)), mask([1, 2])]
        assert similarities(rows)[0].tolist() == [1, 0.5, 0.5, 0, 0]  # another size, and damaged
        assert similarities(rows)[1, 2] == 1
        (region,) = merged(answer("ann", rows[0]), answer("bob", rows[1]), answer("cy", rows[2]))
        assert region.values["geometry"]["rle"]["counts"] in ([4, 4, 8], "448")

    def test_outlines_that_reach_very_far(self) -> None:
        assert similarities([square(0, 0, 1e9), square(0, 0, 0.75e9)])[0, 1] == pytest.approx(0.5625, abs=1e-3)


class TestKeypoints:
    def test_median_of_the_labelled_points_and_voted_visibility(self) -> None:
        (region,) = merged(
            answer("ann", points((0, 0, 2), (100, 100, 2))),
            answer("bob", points((2, 4, 2), (0, 0, 0))),
            answer("cyd", points((4, 2, 1), (104, 98, 1))),
        )
        # The tail: two labelled it, one as visible, one as hidden; the first stands, between both places.
        assert region.values["geometry"]["keypoints"] == [2, 2, 2, 102, 99, 2]

    def test_more_say_labelled_than_not_though_no_visibility_has_more_votes(self) -> None:
        tails = ((0, 0, 0), (90, 90, 1), (0, 0, 0), (92, 92, 2), (94, 94, 2))
        answers = [answer(str(number), points((0, 0, 2), tail)) for number, tail in enumerate(tails)]
        assert merged(*answers)[0].values["geometry"]["keypoints"] == [0, 0, 2, 92, 92, 2]

    def test_what_more_than_half_gave_stays_as_it_was_written(self) -> None:
        kept = points((1, 2, 2), (30, 40, 1))
        (region,) = merged(answer("ann", points((1, 3, 2), (30, 41, 2))), answer("bob", kept), answer("cy", kept))
        assert canonical_json(region.values) == canonical_json(kept)  # 30, not 30.0: a row's digest is of its bytes

    def test_similarity_by_hand(self) -> None:
        rows = [points((0, 0, 2), (30, 40, 2)), points((0, 0, 2), (30, 45, 2)), points((0, 0, 0), (30, 45, 2))]
        longer = np.hypot(30, 45) / 10
        alike = np.exp(-25 / (2 * longer**2))
        assert similarities(rows[:2])[0, 1] == pytest.approx((1 + alike) / 2)
        assert similarities(rows)[0, 2] == pytest.approx(np.exp(-25 / (2 * 5**2)))  # the tail alone, 50 long

    def test_a_lone_point_is_measured_by_the_image(self) -> None:
        rows = [points((10, 10, 2), (0, 0, 0)), points((16, 18, 2), (0, 0, 0))]
        answers = [answer("ann", rows[0]), answer("bob", rows[1])]
        assert len(merge_answers(answers, ONE).regions) == 1  # 10 pixels away, of a usual image
        assert merge_answers(answers, ONE, size=ImageSize(60, 80)).regions == ()  # of 100 pixels from corner to corner
        assert agreement(*answers) == 1
        assert agreement(*answers, size=ImageSize(60, 80)) == 0

    def test_points_nobody_labelled(self) -> None:
        nothing = points((0, 0, 0), (0, 0, 0))
        assert [region.values for region in merged(answer("ann", nothing), answer("bob", nothing))] == [nothing]


class TestText:
    def test_the_reading_of_more_than_half(self) -> None:
        rows = [box(0, 0, 50, 10) | {"kind": "text", "text": text} for text in ("AB 12", "A8 12", "AB 12")]
        (region,) = merged(*(answer(str(number), row) for number, row in enumerate(rows)))
        assert (region.values["text"], region.tied) == ("AB 12", False)
        assert region.agreement == pytest.approx(2 / 3)

    def test_else_the_reading_nearest_to_the_others(self) -> None:
        texts = ("kitten", "sitten", "sitting")  # distances 1 + 3, 1 + 2, 3 + 2
        (region,) = merged(*(answer(str(n), values("text", None, text=text)) for n, text in enumerate(texts)))
        assert (region.values["text"], region.tied) == ("sitten", False)
        assert region.agreement == pytest.approx(1 / 3)

    def test_two_readings_are_a_tie(self) -> None:
        (region,) = merged(
            answer("ann", values("text", None, text="a")), answer("bobby", values("text", None, text="b"))
        )
        assert (region.values["text"], region.tied) == ("a", True)

    def test_texts_without_a_place_pair_by_their_letters(self) -> None:
        first = [values("text", None, text=text) for text in ("a red bus", "two dogs")]
        second = [values("text", None, text=text) for text in ("two dogs!", "a red bus")]
        assert group_regions([*first, *second], [0, 0, 1, 1]) == [[0, 3], [1, 2]]

    def test_edit_distance(self) -> None:
        assert text_similarity("kitten", "sitting") == pytest.approx(1 - 3 / 7)
        assert text_similarity("", "abc") == 0 == text_similarity("abc", None)
        assert text_similarity(None, "") == 1

    @given(st.text("ab", max_size=6), st.text("ab", max_size=6))
    def test_edit_distance_as_defined(self, a: str, b: str) -> None:
        def distance(i: int, j: int) -> int:
            if not i or not j:
                return i + j
            return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

        assert text_similarity(a, b) == pytest.approx(1 - distance(len(a), len(b)) / max(len(a), len(b), 1))


class TestAttributes:
    def region(self, *given: dict[str, Any] | None, labels: str = "ccc") -> ConsensusRegion:
        names = {"c": "cat", "d": "dog"}
        rows = [box(0, 0, 10, 10, names[label], attributes=a) for a, label in zip(given, labels, strict=False)]
        (region,) = merged(*(answer(str(number), row) for number, row in enumerate(rows)))
        return region

    def test_each_by_most_votes_and_numbers_by_their_median(self) -> None:
        region = self.region({"fur": "long", "age": 3}, {"fur": "short", "age": 9}, {"fur": "long", "age": 5})
        assert region.values["attributes"] == {"fur": "long", "age": 5}
        assert not region.tied

    def test_what_fewer_than_half_answered_is_left_out(self) -> None:
        assert self.region({"fur": "long"}, {"age": 1}, {"age": 2}).values["attributes"] == {"age": 1.5}

    def test_at_a_tie_the_first(self) -> None:
        region = self.region({"sick": False}, {"sick": True})
        assert (region.values["attributes"], region.tied) == ({"sick": False}, True)

    def test_those_of_another_label_have_no_say(self) -> None:
        region = self.region({"fur": "long"}, {"breed": "pug"}, labels="cd")
        assert region.values["attributes"] == {"fur": "long"}


class TestAgreement:
    def test_one_class(self) -> None:
        assert agreement(answer("ann", image("cat")), answer("bob", image("cat"))) == 1
        assert agreement(answer("ann", image("cat")), answer("bob", image("dog"))) == 0

    def test_several_classes_are_those_in_common(self) -> None:
        both = answer("ann", image("cat"), image("dog"))
        assert agreement(both, answer("bob", image("dog"), image("bird"))) == pytest.approx(1 / 3)

    def test_boxes_by_f1_of_place_and_label(self) -> None:
        ann = answer("ann", box(0, 0, 10, 10), box(20, 20, 30, 30), box(40, 40, 50, 50, "dog"))
        bob = answer("bob", box(0, 0, 10, 12), box(40, 40, 50, 50, "cat"))
        assert agreement(ann, bob) == agreement(bob, ann) == pytest.approx(2 * 1 / 5)

    def test_classes_and_boxes_by_their_mean(self) -> None:
        ann = answer("ann", image("cat"), box(0, 0, 10, 10))
        assert agreement(ann, answer("bob", image("dog"), box(0, 0, 10, 10))) == 0.5

    def test_a_matched_text_counts_as_far_as_it_agrees(self) -> None:
        rows = [box(0, 0, 50, 10) | {"kind": "text", "text": text} for text in ("abcd", "abcx")]
        assert agreement(answer("ann", rows[0]), answer("bob", rows[1])) == pytest.approx(0.75)

    def test_none_where_nothing_was_said(self) -> None:
        assert agreement(answer("ann"), answer("bob")) is None
        assert agreement(answer("ann", image("cat")), answer("bob", status="skipped")) is None
        assert agreement(answer("ann", image("cat")), answer("bob")) == 0

    def test_with_the_rows_of_a_version(self) -> None:
        rows: list[dict[str, Any]] = [
            {"annotation_id": "s1/a", "sample_id": "s1", "kind": "classification", "label": "cat", "x1": float("nan")},
            {"annotation_id": "s1/b", "sample_id": "s1", "kind": "polygon", "label": "cat"}
            | {"geometry": '{"polygons":[[0,0,10,0,10,10,0,10]]}', "attributes": '{"age":3}'},
        ]
        gold = answer_of_rows(rows)
        assert [region.name for region in gold.regions] == ["s1/a", "s1/b"]
        assert gold.regions[1].values["attributes"] == {"age": 3}
        assert agreement(gold, answer("ann", image("cat"), square(0, 0, 10))) == 1
        assert agreement(gold, answer("ann", image("cat"), square(8, 8, 10))) == 0.5


LABELS = st.sampled_from(["cat", "dog", "bird"])
STEP = st.integers(0, 6)
SIDE = st.integers(4, 8)
BOXES = st.builds(lambda x, y, w, h, label: box(x, y, x + w, y + h, label), STEP, STEP, SIDE, SIDE, LABELS)
SQUARES = st.builds(square, STEP, STEP, SIDE, LABELS)
POINT = st.tuples(STEP, STEP, st.integers(0, 2))
FIGURES = st.builds(points, POINT, POINT)
TEXTS = st.builds(lambda text: values("text", None, text=text), st.text("ab", max_size=3))
SIGNS = st.builds(lambda place, text: place | {"kind": "text", "text": text}, BOXES, st.text("ab", max_size=2))
ATTRIBUTES = st.none() | st.fixed_dictionaries({}, optional={"age": st.integers(1, 3), "sick": st.booleans()})
REGIONS = st.builds(
    lambda row, attributes: row | {"attributes": attributes}, BOXES | SQUARES | FIGURES | TEXTS | SIGNS, ATTRIBUTES
)
ROWS = st.builds(
    lambda first, rest: first + rest, st.lists(LABELS.map(image), max_size=1), st.lists(REGIONS, max_size=5)
)


def answers_of(crowd: Sequence[Sequence[dict[str, Any]]]) -> list[Answer]:
    return [answer(f"w{number}", *rows) for number, rows in enumerate(crowd)]


class TestProperties:
    @given(st.lists(ROWS, min_size=1, max_size=4), st.randoms(use_true_random=False))
    @settings(max_examples=60)
    def test_the_order_of_the_answers_does_not_matter(self, crowd: list[list[dict[str, Any]]], random: Any) -> None:
        answers = answers_of(crowd)
        expected = merge_answers(answers, ONE)
        random.shuffle(answers)
        assert merge_answers(answers, ONE) == expected

    @given(ROWS, st.integers(1, 4))
    @settings(max_examples=60)
    def test_equal_answers_give_that_answer(self, rows: list[dict[str, Any]], count: int) -> None:
        regions = merged(*answers_of([rows] * count))
        assert [region.values for region in regions] == rows
        assert all(region.agreement == 1 and not region.tied for region in regions)

    @given(ROWS, st.lists(ROWS, min_size=1, max_size=2))
    @settings(max_examples=80)
    def test_what_more_than_half_gave_stands(
        self, rows: list[dict[str, Any]], others: list[list[dict[str, Any]]]
    ) -> None:
        regions = [region.values for region in merged(*answers_of([*others, *[rows] * (len(others) + 1)]))]
        assert all(regions.count(row) >= rows.count(row) for row in rows)

    @given(st.lists(ROWS, min_size=1, max_size=4))
    @settings(max_examples=60)
    def test_parents_are_real_and_of_different_annotators(self, crowd: list[list[dict[str, Any]]]) -> None:
        answers = answers_of(crowd)
        real = {(a.answer_id, region.name): region.values for a in answers for region in a.regions}
        used: list[tuple[str, str]] = []
        for region in merge_answers(answers, ONE).regions:
            used += region.parents
            assert len({answer_id for answer_id, _ in region.parents}) == len(region.parents)
            assert {real[parent]["kind"] for parent in region.parents} == {region.values["kind"]}
            assert 0 < region.agreement <= 1
            assert tuple(region.values) == REGION_COLUMNS
        assert len(used) == len(set(used))

    @given(ROWS, ROWS)
    @settings(max_examples=60)
    def test_agreement_is_the_same_both_ways_and_1_with_itself(self, a: list[Any], b: list[Any]) -> None:
        one, other = answers_of([a, b])
        forth, back = agreement(one, other), agreement(other, one)
        assert (forth is None) == (not a and not b)
        if forth is not None and back is not None:
            assert 0 <= forth <= 1
            assert agreement(one, one) in (None, 1)


def crowd_of(data: Path, count: int) -> tuple[pd.DataFrame, list[str], npt.NDArray[np.float64]]:
    """Rows of CIFAR-10N, the class names, and out-of-fold probabilities of a weak model."""
    frame = pd.read_parquet(data / "cifar10n" / "data.parquet", columns=["clean_label", *ANNOTATORS])[:count]
    chances = np.load(data / "cifar10n" / "oof_pred_probs.npz")["random_label1"][:count].astype(np.float64)
    return frame, [f"class {number}" for number in range(10)], chances / chances.sum(axis=1, keepdims=True)


ANNOTATORS = ["random_label1", "random_label2", "random_label3"]


class TestRealCrowd:
    def test_majority_is_right_more_often_than_each_alone_and_cleanlab_no_less(self, data: Path) -> None:
        frame, classes, chances = crowd_of(data, 3000)
        votes = {
            str(index): {actor: classes[row[actor]] for actor in ANNOTATORS}
            for index, row in zip(frame.index, frame.to_dict("records"), strict=True)
        }
        truth = {str(index): classes[label] for index, label in frame["clean_label"].items()}
        alone = [np.mean([votes[sample][actor] == truth[sample] for sample in votes]) for actor in ANNOTATORS]
        majority = {}
        for sample, labels in votes.items():
            (region,) = merged(*(answer(actor, image(label)) for actor, label in labels.items()))
            majority[sample] = region.values["label"]
        right = np.mean([majority[sample] == truth[sample] for sample in votes])
        assert right > max(alone) + 0.05
        found = cleanlab_consensus(votes, classes, dict(zip(votes, chances, strict=True)))
        weighed = np.array([found[sample][0] == truth[sample] for sample in votes])
        quality = np.array([found[sample][1] for sample in votes])
        assert weighed.mean() >= right
        assert quality[weighed].mean() > quality[~weighed].mean() + 0.1
        assert quality.min() >= 0
        assert quality.max() <= 1


class TestCleanlab:
    def test_two_classes_samples_with_one_vote_and_with_none(self) -> None:
        votes = {"s1": {"a": "cat", "b": "cat"}, "s2": {"a": "dog", "b": "dog"}, "s3": {"a": "cat"}, "s4": {}}
        chances = {"s1": [0.9, 0.1], "s2": [0.2, 0.8], "s3": [0.7, 0.3]}
        found = cleanlab_consensus(votes, ["cat", "dog"], chances)
        assert {sample: label for sample, (label, _) in found.items()} == {"s1": "cat", "s2": "dog", "s3": "cat"}
        assert all(0 <= quality <= 1 for _, quality in found.values())
        assert cleanlab_consensus({"s4": {}}, ["cat", "dog"], {}) == {}

    def test_all_agree_on_one_class_and_another_is_never_used(self) -> None:
        votes = {f"s{number}": {"a": "cat", "b": "cat", f"once{number}": "cat"} for number in range(4)}
        found = cleanlab_consensus(votes, ["cat", "dog", "bird"], {sample: [0.8, 0.1, 0.1] for sample in votes})
        assert {label for label, _ in found.values()} == {"cat"}

    def test_ties_go_to_the_class_that_the_schema_names_first(self) -> None:
        votes = {"s1": {"a": "dog", "b": "cat"}, "s2": {"a": "cat", "b": "cat"}, "s3": {"a": "dog", "b": "dog"}}
        for _ in range(5):
            found = cleanlab_consensus(votes, ["cat", "dog"], {sample: [0.5, 0.5] for sample in votes})
            assert found["s1"][0] == "cat"

    @pytest.mark.parametrize(
        ("votes", "classes", "chances", "message"),
        [
            ({"s": {"a": "cat"}}, ["cat", "dog"], [0.5, 0.5], "no two annotators gave the same label"),
            ({"s": {"a": "cat", "b": "dog"}}, ["cat", "dog"], [0.5, 0.5], "no two annotators gave the same label"),
            ({"s": {"a": "cat", "b": "cat"}}, ["cat"], [1.0], "there is only one class"),
            ({"s": {"a": "cow"}}, ["cat", "dog"], [0.5, 0.5], "'a' gave the label 'cow'"),
            ({"s": {"a": "cat"}}, ["cat", "dog"], [0.2, 0.2, 0.6], "'s': expected 2 probabilities"),
            ({"s": {"a": "cat"}}, ["cat", "dog"], [0.2, 0.2], "'s': expected 2 probabilities"),
            ({"s": {"a": "cat"}}, ["cat", "dog"], [float("nan"), 1], "'s': expected 2 probabilities"),
            ({"s": {"a": "cat"}}, ["cat", "dog"], None, "1 of 1 samples have no probabilities, the first is 's'"),
        ],
    )
    def test_what_it_cannot_do_says_why_and_what_to_do(
        self, votes: dict[str, dict[str, str]], classes: list[str], chances: list[float] | None, message: str
    ) -> None:
        with pytest.raises(DatasetOpsError, match=message) as caught:
            cleanlab_consensus(votes, classes, {} if chances is None else {"s": chances})
        assert caught.value.remedy
