"""The answers of people who label, in long form, and what they tell of each of them.

An annotator is measured against what the others say of the same items, never against a consensus that holds their own
answer. Of several answers of one annotator to one image the newest counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.base import AuditContext
from datasetops.audits.decisions.decision import MENDS
from datasetops.audits.people.agreement import pairwise_agreement
from datasetops.audits.people.dawid_skene import DawidSkene
from datasetops.audits.sets.multiple_tests import holm

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

FEW: Final = 20  # answers below which nothing is said of an annotator: an error rate of 5 % may look like 25 %
_FEW_OF_CLASS: Final = 10  # answers to items of one class below which a confusion is not tested
OFTEN: Final = 0.15  # share of a class that is called another from which it is named
_SOMETIMES: Final = 0.1  # the same of one annotator, for it to be a confusion of many
COPIED: Final = (
    0.8  # share of two annotators' departures from the consensus that are the same: honest crowds stay below
)
_FEW_ERRORS: Final = 10  # departures from the consensus that two annotators share before they are compared
Z: Final = 1.96  # of a 95 % interval


def answered_rows(context: AuditContext, *kinds: str) -> pd.DataFrame:
    """Annotations of known people, votes or not: the newest answer of each to each sample, without mends of a review.

    Columns of records.ANNOTATIONS, `at` (row number of the sample), `answer_id` and `batch` ("" where not told), and
    `voice`, a number for each sample and annotator.
    """
    several = pd.concat([context.votes, context.annotations], ignore_index=True)
    known = several["actor"].notna() & several["source"].isin(("human", "import")) & several["kind"].isin(kinds)
    known &= ~answer_field(several["answer"], "tool").isin(MENDS)  # who mended a label did not answer the whole image
    rows = several[known]
    place = pd.Index(context.samples["sample_id"]).get_indexer(pd.Index(rows["sample_id"]))
    rows = rows.assign(
        at=place, answer_id=answer_field(rows["answer"], "answer_id"), batch=answer_field(rows["answer"], "batch")
    )[place >= 0]
    rows = rows.sort_values(["created_at", "annotation_id"], kind="stable", na_position="first")
    newest = rows.groupby(["at", "actor"])["answer_id"].transform("last")
    chosen: pd.DataFrame = rows[rows["answer_id"] == newest]
    return chosen.assign(voice=chosen.groupby(["at", "actor"], sort=False).ngroup())


def answer_field(answers: pd.Series[Any], name: str) -> pd.Series[Any]:
    """A text or number of the JSON objects of the column `answer`, as text; "" where it is not told."""
    text = pa.array(answers, pa.string(), from_pandas=True)
    pattern = f'"{name}":\\s*(?:"(?P<text>(?:[^"\\\\]|\\\\.)*)"|(?P<number>[-+.eE0-9]+))'
    found = pc.extract_regex(text, pattern)
    parts = [pc.struct_field(found, part) for part in ("text", "number")]
    joined = pc.fill_null(pc.binary_join_element_wise(*parts, ""), "")
    return pd.Series(joined.to_numpy(zero_copy_only=False), index=answers.index, dtype=object)


@dataclass(frozen=True)
class ClassAnswers:
    """Answers in long form (N,), items with two annotators or more; `at` (I,) is an item's sample.

    Where several classes may hold for an image, an item is an image and a class that anyone gave it,
    or that was accepted (`of` (I,)), and the
    labels are 0 for no and 1 for yes.
    """

    items: Ints
    who: Ints
    labels: Ints
    at: Ints
    of: Ints | None
    actors: list[str]
    names: list[str]

    @property
    def classes(self) -> int:
        return len(self.names) if self.of is None else 2

    def label(self, label: int) -> str:
        return self.names[label] if self.of is None else ("absent", "present")[label]

    def name(self, item: int, label: int) -> str:
        """A label of an item in words."""
        if self.of is None:
            return self.names[label]
        return self.names[self.of[item]] if label else f"not {self.names[self.of[item]]}"


def class_answers(rows: pd.DataFrame, claims: pd.DataFrame, names: list[str], *, multi: bool) -> ClassAnswers:
    """From `answered_rows` of classifications and the `accepted_rows`; `names` of the classes in use."""
    label = class_codes(rows["label"], names)
    rows, label = rows[label >= 0], label[label >= 0]
    at: npt.NDArray[Any] = rows["at"].to_numpy(np.int64)
    who: npt.NDArray[Any]
    who, actors = pd.factorize(rows["actor"], sort=True)
    m, k = max(1, len(actors)), max(1, len(names))
    voices = np.unique(at * m + who)
    several = np.unique(at)[np.unique(voices // m, return_counts=True)[1] > 1]
    kept = np.isin(at, several)
    at, who, label = at[kept], who[kept], label[kept]
    if not multi:
        last = ~pd.Series(at * m + who).duplicated(keep="last").to_numpy()
        images, items = np.unique(at[last], return_inverse=True)
        return ClassAnswers(items, who[last], label[last], images, None, list(actors), names)
    voices = voices[np.isin(voices // m, several)]
    claimed = claims["at"].to_numpy(np.int64)[np.isin(claims["at"], several)]
    claimed = claimed * k + class_codes(claims["label"], names)[np.isin(claims["at"], several)]
    given = np.union1d(at * k + label, claimed)  # the items: image and class
    pairs = pd.DataFrame({"at": given // k, "item": np.arange(len(given))}).merge(
        pd.DataFrame({"at": voices // m, "who": voices % m}), on="at"
    )
    items, people = pairs["item"].to_numpy(np.int64), pairs["who"].to_numpy(np.int64)
    said = np.isin(given[items] * m + people, (at * k + label) * m + who)
    return ClassAnswers(items, people, said.astype(np.int64), given // k, given % k, list(actors), names)


def accepted_rows(context: AuditContext) -> pd.DataFrame:
    """Classifications that count, of classes in use, with `at`, the row number of the sample.

    Rows of an annotator whom a source named are answers: one counts where the sample has nothing else.
    """
    rows = context.annotations
    place = pd.Index(context.samples["sample_id"]).get_indexer(pd.Index(rows["sample_id"]))
    is_answer = (rows["source"] == "import") & rows["actor"].notna()
    rows = rows.assign(at=place, is_answer=is_answer)[(rows["kind"] == "classification").to_numpy() & (place >= 0)]
    rows = rows[rows["label"].isin(context.schema.class_names)]
    alone = rows["is_answer"] & ~rows["at"].duplicated(keep=False)
    chosen: pd.DataFrame = rows[~rows["is_answer"] | alone]
    return chosen


def accepted(claims: pd.DataFrame, answers: ClassAnswers) -> tuple[Ints, npt.NDArray[np.object_]]:
    """From `accepted_rows` the label of each item (I,), −1 where there is none or several, and its annotation_id or None."""
    label = np.full(len(answers.at), -1)
    annotation = np.full(len(answers.at), None, dtype=object)
    at, code = claims["at"].to_numpy(np.int64), class_codes(claims["label"], answers.names)
    key, names = claims["annotation_id"].to_numpy(dtype=object), len(answers.names)
    if answers.of is not None:
        label[np.isin(answers.at, at)] = 0
        cells, first = np.unique(at * names + code, return_index=True)
        _, item, where = np.intersect1d(answers.at * names + answers.of, cells, return_indices=True)
        label[item], annotation[item] = 1, key[first[where]]
        return label, annotation
    images, first, n = np.unique(at, return_index=True, return_counts=True)
    _, item, where = np.intersect1d(answers.at, images[n == 1], return_indices=True)
    label[item], annotation[item] = code[first[n == 1][where]], key[first[n == 1][where]]
    return label, annotation


def class_codes(labels: pd.Series[Any], names: list[str]) -> npt.NDArray[Any]:
    """Positions (N,) among `names`, −1 for what is not there."""
    return pd.Index(names, dtype=object).get_indexer(pd.Index(labels, dtype=object)).astype(np.int64)


def alpha_by_class(answers: ClassAnswers) -> list[tuple[str, float, int]]:
    """Where several classes may hold: each class, Krippendorff's alpha of whether it holds, and how many images got it.

    Over all images, those where nobody gave the class too. Empty where one class holds.
    """
    if answers.of is None:
        return []
    size, yes = np.bincount(answers.items), np.bincount(answers.items, answers.labels)
    first = np.unique(answers.at, return_index=True)[1]
    n, k = int(size[first].sum()), len(answers.names)
    differ = np.bincount(answers.of, yes * (size - yes) / (size - 1), k)
    given = np.bincount(answers.of, yes, k)
    expected = given * (n - given) / (n - 1)
    got = np.bincount(answers.of, minlength=k)
    return [
        (answers.names[c], float(1 - differ[c] / expected[c]), int(got[c]))
        for c in np.flatnonzero((got > 0) & (expected > 0)).tolist()
    ]


@dataclass(frozen=True)
class Standing:
    """What the others' answers say of each annotator (A,).

    `right`: how likely an answer is right, by the item's other answers, mean and 95 % interval. `gap`: by how much that
    is more or less than for the others on the same items, with interval, and `worse` the chance of such a gap or a
    lower one if there were none. `kappa`: `right` beyond what the annotator's own class shares would get on these
    items, NaN where those get nearly everything. `always`: the commonest class, its share of the answers, and how
    likely it is for these items.
    """

    answers: Ints
    right: Floats
    right_low: Floats
    right_high: Floats
    gap: Floats
    gap_high: Floats
    worse: Floats
    kappa: Floats
    kappa_low: Floats
    kappa_high: Floats
    always: Ints
    always_share: Floats
    always_likely: Floats


def standing(model: DawidSkene, answers: ClassAnswers) -> Standing:
    """Every item has two answers or more, so each answer has others to be held against."""
    items, who, labels = answers.items, answers.who, answers.labels
    m, k = len(answers.actors), answers.classes
    n = np.bincount(who, minlength=m)
    shares = np.bincount(who * k + labels, minlength=m * k).reshape(m, k) / np.maximum(n, 1)[:, None]
    always = shares.argmax(axis=1)
    right, by_chance, likely = np.empty(len(items)), np.empty(len(items)), np.empty(len(items))
    for rows, others in model.without_own():
        each = np.arange(len(rows))
        right[rows] = others[each, labels[rows]]
        by_chance[rows] = (others * shares[who[rows]]).sum(axis=1)
        likely[rows] = others[each, always[who[rows]]]
    of_item = np.bincount(items)[items]
    rest = (np.bincount(items, right)[items] - right) / (of_item - 1)
    mean, error = mean_by(right, who, m)
    gap, gap_error = mean_by(right - rest, who, m)
    beyond, beyond_error = mean_by(right - by_chance, who, m)
    room = 1 - mean_by(by_chance, who, m)[0]
    room[room < 0.1] = np.nan
    return Standing(
        n,
        mean,
        np.clip(mean - Z * error, 0, 1),
        np.clip(mean + Z * error, 0, 1),
        gap,
        gap + Z * gap_error,
        tail(gap, gap_error),
        beyond / room,
        (beyond - Z * beyond_error) / room,
        (beyond + Z * beyond_error) / room,
        always,
        shares[np.arange(m), always],
        mean_by(likely, who, m)[0],
    )


def confusions(model: DawidSkene, answers: ClassAnswers) -> pd.DataFrame:
    """Rows `who`, `true`, `given` (another class than the consensus `true`), how often (`n`) `of` how many answers.

    `others_n` and `others_of` are the same of all others; `p` is the chance, corrected by Holm over all that could be
    tested, of giving it so often at the others' rate; 1 with fewer than ten answers to that class.
    """
    from scipy.stats import binom

    m, k = len(answers.actors), answers.classes
    true = model.consensus[answers.items]
    of = np.bincount(answers.who * k + true, minlength=m * k)
    cells, n = np.unique((answers.who * k + true) * k + answers.labels, return_counts=True)
    cells, n = cells[cells // k % k != cells % k], n[cells // k % k != cells % k]
    table = pd.DataFrame(
        {"who": cells // k // k, "true": cells // k % k, "given": cells % k, "n": n, "of": of[cells // k]}
    )
    table["others_n"] = table.groupby(["true", "given"])["n"].transform("sum") - n
    table["others_of"] = np.bincount(true, minlength=k)[table["true"]] - table["of"]
    enough = (table["of"] >= _FEW_OF_CLASS) & (table["others_of"] >= _FEW_OF_CLASS)
    table["judges"] = (of.reshape(m, k) >= 5).sum(axis=0)[table["true"]]
    table["p"] = 1.0
    rate = (table["others_n"] + 0.5) / (table["others_of"] + 1)
    tested = int((of >= _FEW_OF_CLASS).sum()) * (k - 1)
    table.loc[enough, "p"] = holm(binom.sf(table["n"] - 1, table["of"], rate)[enough], tested)
    return table


def class_pairs(table: Any) -> list[dict[str, Any]]:
    """From `confusions`, the commonest first: `class` called `answered` how often (`answers`, a `share` `of` all).

    `annotators` judged it five times or more, and `by` of them call it so one time in ten or more. `many`: it is common,
    and most do it, so that it is rather the guide than a person.
    """
    found = []
    for (true, given), rows in table.groupby(["true", "given"]):
        n, of = int(rows["n"].sum()), int((rows["of"] + rows["others_of"]).iloc[0])
        by = int(((rows["n"] >= _SOMETIMES * rows["of"]) & (rows["of"] >= 5)).sum())
        people = int(rows["judges"].iloc[0])
        many = n / of >= OFTEN and of >= FEW and people > 1 and 2 * by >= people
        found.append({"class": int(true), "answered": int(given), "answers": n, "of": of, "share": n / of})
        found[-1] |= {"by": by, "annotators": people, "many": many}
    return sorted(found, key=lambda pair: -pair["answers"])


def shared_errors(model: DawidSkene, answers: ClassAnswers) -> pd.DataFrame:
    """Two annotators whose departures from the consensus are mostly the same: rows `first`, `second`, `same`, `errors`.

    `errors` are the departures of either on items that both answered; at least ten and `COPIED` of them are the same.
    `p` is the chance, corrected by Holm over all pairs, of so many: of each departure of one, the other is taken to
    share it as often as the item's other annotators do, or as that annotator usually mistakes that class, whichever is
    more. The larger of both ways.
    """
    from scipy.sparse import csr_array
    from scipy.stats import binom

    items, who, labels = answers.items, answers.who, answers.labels
    m, true = len(answers.actors), model.consensus[items]
    wrong, said = np.flatnonzero(labels != true), np.unique(items * answers.classes + labels, return_inverse=True)[1]
    pairs = pairwise_agreement(said[wrong], who[wrong], np.zeros_like(wrong), least=_FEW_ERRORS)
    looked = csr_array((np.ones(len(items)), (who, items)), shape=(m, len(answers.at)))
    erred = csr_array((np.ones(len(wrong)), (who[wrong], items[wrong])), shape=looked.shape)
    if not len(pairs.first):
        return pd.DataFrame({name: pd.Series(dtype=np.int64) for name in ("first", "second", "same", "errors", "p")})
    together = erred @ looked.T
    errors = together[pairs.first, pairs.second] + together[pairs.second, pairs.first]
    like = pairs.shared >= COPIED * (errors - pairs.shared)
    said_by, answered = np.bincount(said)[said], np.bincount(items)[items]
    order = np.lexsort((items, who))
    bounds = np.searchsorted(who[order], np.arange(m + 1))
    rows = []
    for first, second, same in np.stack([pairs.first, pairs.second, pairs.shared], axis=1)[like].tolist():
        total, chances = 0, []
        for one, other in ((first, second), (second, first)):
            own, theirs = (order[bounds[x] : bounds[x + 1]] for x in (one, other))
            at = theirs[np.minimum(np.searchsorted(items[theirs], items[own]), len(theirs) - 1)]
            both = (items[at] == items[own]) & (labels[own] != true[own])
            own, at = own[both], at[both]
            rest = (said_by[own] - 1 - (labels[own] == labels[at]) + 0.5) / (answered[own] - 1)
            usual = model.confusion(np.array([other]))[0][true[own], labels[own]]
            total += len(own)
            chances.append(float(binom.sf(same - 1, len(own), np.maximum(rest, usual).clip(0, 1).mean())))
        rows.append((first, second, same, total - same, max(chances)))
    table = pd.DataFrame(rows, columns=["first", "second", "same", "errors", "p"])
    return table.assign(p=holm(table["p"].to_numpy(np.float64), m * (m - 1) // 2))


def tail(gap: Floats, error: Floats) -> Floats:
    """Chance of a mean so low or lower if the true one were 0; 1 where it is unknown."""
    from scipy.stats import norm

    chance: Floats = norm.cdf(gap / np.maximum(error, 1e-9))
    return np.nan_to_num(chance, nan=1.0)


def mean_by(values: Floats, groups: Ints, n: int) -> tuple[Floats, Floats]:
    """Mean (n,) by group and its standard error; NaN for a group without values, infinite error for a single one."""
    count = np.bincount(groups, minlength=n).astype(np.float64)
    mean = np.divide(np.bincount(groups, values, n), count, out=np.full(n, np.nan), where=count > 0)
    squared = np.bincount(groups, (values - mean[groups]) ** 2, n)
    error = np.sqrt(np.divide(squared, count * (count - 1), out=np.full(n, np.inf), where=count > 1))
    return mean, error
