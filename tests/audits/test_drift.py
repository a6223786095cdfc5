"""Drift: the tests against brute force and other libraries, their false alarms, and what is found in real images."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pictures import write_digits
from scipy.stats import chi2_contingency
from sklearn.metrics import roc_auc_score

from datasetops.audits.base import AuditContext, Baseline, CheckResult
from datasetops.audits.charts import draw
from datasetops.audits.sets.baseline import baseline_of, refuse_itself
from datasetops.audits.sets.drift import Drift
from datasetops.audits.sets.multiple_tests import holm
from datasetops.audits.sets.two_sample import (
    block_inflation,
    gaussian_kernel,
    kernel_test,
    nearest_distance,
    population_stability,
    share_shift,
    stability_by_chance,
)
from datasetops.errors import FormatError, NotFoundError
from datasetops.ingest import ingest
from datasetops.manifest import Repository
from datasetops.records import canonical_json
from datasetops.schema import LabelSchema, load_schema

pytestmark = pytest.mark.slow


def normal(seed: int, n: int, shift: float = 0.0, dimensions: int = 8) -> Any:
    return (np.random.default_rng(seed).normal(size=(n, dimensions)) + shift).astype(np.float32)


def brute_mmd(x: Any, y: Any, bandwidth: float) -> float:
    def k(a: Any, b: Any) -> float:
        return float(np.exp(-((a - b) ** 2).sum() / (2 * bandwidth**2)))

    n, m = len(x), len(y)
    within = [sum(k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) for s in (x, y)]
    between = sum(k(a, b) for a in x for b in y)
    return within[0] / (n * (n - 1)) + within[1] / (m * (m - 1)) - 2 * between / (n * m)


def test_discrepancy_and_the_chance_to_tell_apart_are_what_they_are_defined_as() -> None:
    x, y = normal(0, 13), normal(1, 17, 0.4)
    test = kernel_test(x, y, permutations=99)
    rows = np.concatenate([x, y]).astype(float)
    distances = [np.linalg.norm(a - b) for a, b in combinations(rows, 2)]
    assert test.bandwidth == pytest.approx(np.median(distances), rel=0.01)
    assert test.mmd2 == pytest.approx(brute_mmd(x.astype(float), y.astype(float), test.bandwidth), abs=1e-6)
    kernel, _ = gaussian_kernel(rows.astype(np.float32))
    kernel = kernel + (1 - np.eye(30)) * 7  # a constant off the diagonal changes nothing
    score = [kernel[i, 13:].sum() / (17 - (i >= 13)) - kernel[i, :13].sum() / (13 - (i < 13)) for i in range(30)]
    assert test.told_apart == pytest.approx(roc_auc_score([0] * 13 + [1] * 17, score))


def test_p_is_the_share_of_all_arrangements_where_there_are_few() -> None:
    x, y = normal(0, 7), normal(1, 9, 0.5)
    blocks = np.array([0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 5])
    test = kernel_test(x, y, blocks=blocks)
    rows = np.concatenate([x, y]).astype(float)
    values = {}
    for chosen in combinations(range(6), 3):
        second = np.isin(blocks, chosen)
        values[chosen] = brute_mmd(rows[~second], rows[second], test.bandwidth)
    observed = values[3, 4, 5]
    assert test.mmd2 == pytest.approx(observed, abs=1e-6)
    assert test.p_value == pytest.approx(np.mean([value >= observed - 1e-7 for value in values.values()]))
    assert test.least_p == pytest.approx(2 / 20)
    with pytest.raises(ValueError, match="rows of both"):
        kernel_test(x, y, blocks=np.zeros(16, dtype=np.int64))
    with pytest.raises(ValueError, match="at least two rows"):
        kernel_test(x[:1], y)


def test_the_kernel_test_is_calibrated_and_finds_a_shift() -> None:
    p = np.array(
        [kernel_test(normal(s, 40), normal(s + 9999, 50), permutations=99, seed=s).p_value for s in range(200)]
    )
    assert 0.01 <= np.mean(p <= 0.05) <= 0.10
    assert 0.40 <= np.mean(p <= 0.5) <= 0.60
    found = [kernel_test(normal(s, 100), normal(s + 9999, 100, 0.4), permutations=199).p_value for s in range(10)]
    assert max(found) <= 0.01


def test_clips_are_no_evidence_of_drift_where_they_are_permuted_whole() -> None:
    together, alone = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        block = np.repeat(np.arange(24), rng.integers(1, 12, 24))
        rows = (rng.normal(size=(24, 8))[block] + 0.3 * rng.normal(size=(len(block), 8))).astype(np.float32)
        n = int((block < 12).sum())
        together.append(kernel_test(rows[:n], rows[n:], blocks=block, permutations=99, seed=seed).p_value)
        alone.append(kernel_test(rows[:n], rows[n:], permutations=99, seed=seed).p_value)
    assert np.mean(np.array(together) <= 0.05) <= 0.12
    assert np.mean(np.array(alone) <= 0.05) > 0.8


def test_copies_have_a_bandwidth_too() -> None:
    rows = np.zeros((40, 4), dtype=np.float32)
    assert kernel_test(rows[:20], rows[20:], permutations=49).p_value == 1.0


def test_population_stability_by_hand() -> None:
    p, q = np.array([60.5, 30.5, 0.5]) / 91.5, np.array([20.5, 20.5, 10.5]) / 51.5
    by_hand = sum((b - a) * np.log(b / a) for a, b in zip(p, q, strict=True))
    assert population_stability(np.array([60, 30, 0]), np.array([20, 20, 10])) == pytest.approx(by_hand)
    assert population_stability(np.array([5, 5]), np.array([500, 500])) == pytest.approx(0)


@pytest.mark.parametrize(("n", "m", "values"), [(60, 60, 5), (500, 100, 12)])
def test_stability_by_chance_is_calibrated(n: int, m: int, values: int) -> None:
    p, expected, seen = [], [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        shares = rng.dirichlet(np.ones(values))
        counts = rng.multinomial(n, shares), rng.multinomial(m, shares)
        used = counts[0] + counts[1] > 0
        counts = counts[0][used], counts[1][used]
        mean, chance = stability_by_chance(*counts, seed=seed)
        p.append(chance)
        expected.append(mean)
        seen.append(population_stability(*counts))
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.12
    assert np.mean(expected) == pytest.approx(np.mean(seen), rel=0.15)
    assert np.mean(seen) == pytest.approx((values - 1) * (1 / n + 1 / m), rel=0.2)


def test_blocks_of_one_kind_count_as_one_item() -> None:
    codes = np.repeat(np.arange(40) % 4, 5)
    assert block_inflation(codes, np.repeat(np.arange(40), 5), np.full(4, 0.25)) == pytest.approx(5)
    assert block_inflation(codes, np.arange(200), np.full(4, 0.25)) == pytest.approx(1)
    assert block_inflation(codes, None, np.full(4, 0.25)) == 1


def test_shares_in_blocks_raise_no_more_false_alarms_than_they_should() -> None:
    found: dict[str, list[float]] = {"index": [], "index alone": [], "class": [], "class alone": []}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        codes = [np.concatenate([rng.choice(5, 10, p=one) for one in rng.dirichlet(np.ones(5), 30)]) for _ in range(2)]
        blocks = np.repeat(np.arange(30), 10)
        counts = [np.bincount(one, minlength=5) for one in codes]
        pooled = (counts[0] + counts[1]) / 600
        inflation = block_inflation(codes[0], blocks, pooled), block_inflation(codes[1], blocks, pooled)
        found["index"].append(stability_by_chance(*counts, inflation=inflation, seed=seed)[1])
        found["index alone"].append(stability_by_chance(*counts, seed=seed)[1])
        found["class"].append(share_shift(codes[0], codes[1], 5, blocks=(blocks, blocks)).p_value[0])
        found["class alone"].append(share_shift(codes[0], codes[1], 5).p_value[0])
    alarms = {name: float(np.mean(np.array(p) <= 0.05)) for name, p in found.items()}
    assert max(alarms["index"], alarms["class"]) <= 0.11
    assert min(alarms["index alone"], alarms["class alone"]) >= 0.15


def test_shift_of_shares_is_pearson_s_chi_square_of_single_items() -> None:
    rng = np.random.default_rng(0)
    before, now = rng.choice(3, 300, p=[0.6, 0.3, 0.1]), rng.choice(3, 200, p=[0.4, 0.4, 0.2])
    shift = share_shift(before, now, 4)
    for k in range(3):
        table = [[(side == k).sum(), (side != k).sum()] for side in (before, now)]
        assert shift.p_value[k] == pytest.approx(chi2_contingency(table, correction=False).pvalue)
        assert shift.now[k] == (now == k).mean()
    assert shift.p_value[3] == 1


def test_holm_by_hand() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.4, 0.9, 0.5])) == pytest.approx([1, 1, 1])
    assert holm(np.array([])).size == 0


def test_nearest_distance_is_the_least_of_all() -> None:
    rows = normal(0, 1500)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    all_of_them = 1 - rows @ rows[:700].T
    assert nearest_distance(rows, rows[:700]) == pytest.approx(np.maximum(all_of_them.min(axis=1), 0), abs=1e-6)
    own = 1 - rows @ rows.T
    np.fill_diagonal(own, np.inf)
    assert nearest_distance(rows, rows, itself=True) == pytest.approx(own.min(axis=1), abs=1e-6)


class World:
    """Samples of two sets, which are one audited and its baseline."""

    def __init__(self, build: Callable[..., AuditContext]) -> None:
        self._build = build

    def side(self, names: Any, **columns: Any) -> AuditContext:
        """`names` tell files apart; `labels` may be given, and metadata as dicts."""
        labels = columns.pop("labels", ())
        if "metadata" in columns:
            columns["metadata"] = [canonical_json(row).decode() for row in columns["metadata"]]
        ids = [f"s{row:05}" for row in range(len(names))]
        rows = [
            {"annotation_id": f"{one}/label", "sample_id": one, "kind": "classification", "label": label}
            for one, label in zip(ids, labels, strict=bool(labels))
        ]
        return self._build([None if name is None else str(name).encode() for name in names], rows, **columns)

    def run(self, before: AuditContext, now: AuditContext) -> CheckResult:
        base = [frame.copy() for frame in (before.samples, before.annotations)]
        for frame in base:  # other ids than the audited ones
            frame["sample_id"] = "b" + frame["sample_id"]
        now.baseline = Baseline("v1", base[0], base[1], before.embeddings)
        result = Drift().run(now)
        assert all("<svg" in draw(chart) for chart in result.summary.get("charts", []))
        return result


@pytest.fixture
def world(build: Any) -> World:
    return World(build)


def told(result: CheckResult) -> dict[str | None, str]:
    return {finding.given: finding.severity for finding in result.findings if finding.sample_id is None}


def test_halves_of_one_set_are_silent(world: World) -> None:
    alarms = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        vectors = rng.normal(size=(160, 6)) + 2
        light = rng.choice(["day", "night"], 160, p=[0.8, 0.2])
        labels = rng.choice(["cat", "dog", "bird"], 160).tolist()
        halves = [
            world.side(
                [f"{seed} {n}" for n in rows],
                embeddings=vectors[rows],
                labels=[labels[n] for n in rows],
                metadata=[{"light": light[n], "glare": float(vectors[n, 0])} for n in rows],
            )
            for rows in (range(80), range(80, 160))
        ]
        result = world.run(*halves)
        assert result.summary["keys compared"] == "glare, light"
        alarms += bool(result.findings)
    assert alarms <= 4  # three families of tests, each wrong once in a hundred: 1.2 in the mean, above 4 once in 150


def test_what_has_changed_is_found_and_nothing_else(world: World) -> None:
    rng = np.random.default_rng(0)
    sides = []
    for start, share, cats, shift in ((0, 0.1, 0.5, 0.0), (1000, 0.5, 0.2, 1.0)):
        vectors = rng.normal(size=(300, 6)) + 2
        vectors[:, 1] += shift
        light = rng.random(300) < share
        labels = ["cat" if value < cats else "dog" for value in rng.random(300)]
        sides.append(
            world.side(
                range(start, start + 300),
                embeddings=vectors,
                labels=labels,
                metadata=[{"light": "night" if dark else "day", "site": str(rng.choice(["a", "b"]))} for dark in light],
            )
        )
    result = world.run(*sides)
    assert told(result) == {"images": "medium", "light": "medium", "cat": "medium", "dog": "medium"}
    messages = {finding.given: finding.message for finding in result.findings}
    assert "night" in messages["light"]
    assert "population stability index" in messages["light"]
    assert len(result.scores) == 300
    far = [finding for finding in result.findings if finding.sample_id is not None]
    assert {finding.severity for finding in far} <= {"low"}
    assert len(far) <= 20
    assert {"scatter", "bars"} == {chart["kind"] for chart in result.summary["charts"]}


def test_images_far_from_all_of_the_baseline_are_named(world: World) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 6)) + 4
    strange = vectors[150:].copy()
    strange[:60] = rng.normal(size=(60, 6)) * [1, 1, 1, -4, 1, 1] + [0, 0, 0, -9, 0, 0]
    result = world.run(
        world.side(range(150), embeddings=vectors[:150]), world.side(range(200, 350), embeddings=strange)
    )
    far = {int(finding.sample_id[1:]) for finding in result.findings if finding.sample_id is not None}
    assert len(far) == 20
    assert far <= set(range(60))
    assert told(result)["images"] in ("medium", "high")


def test_samples_of_both_sides_are_left_out(world: World) -> None:
    vectors = np.random.default_rng(0).normal(size=(400, 6)) + 2
    vectors[300:] += [3, 0, 0, 0, 0, 0]
    before = world.side(range(300), embeddings=vectors[:300])
    grown = world.run(before, world.side(range(400), embeddings=vectors))
    assert grown.summary["compared"] == "100 samples that v1 does not have with its 300 (300 are in both)"
    assert grown.summary["images compared"] == "300 and 100"
    assert told(grown)["images"] == "high"
    shrunk = world.run(world.side(range(400), embeddings=vectors), world.side(range(300), embeddings=vectors[:300]))
    assert shrunk.summary["compared"] == "300 samples with 100 of v1 that are gone (300 are in both)"
    assert told(shrunk)["images"] == "high"
    same = world.run(before, world.side(range(300), embeddings=vectors[:300]))
    assert same.summary["skipped"] == (
        "drift is measured on samples that only one side has: 0 are not in v1, 0 of its samples are not here, and 30 of "
        "either are needed; what changed in the 300 that both have: dsops diff v1"
    )


def test_keys_of_one_side_and_images_that_are_away_are_said(world: World) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(100, 6)) + 2
    vectors[3] = np.nan
    before = world.side(
        range(100), embeddings=vectors, metadata=[{"light": "day" if n % 2 else "night"} for n in range(100)]
    )
    result = world.run(before, world.side(range(200, 300), embeddings=rng.normal(size=(100, 6)) + 2))
    assert result.summary["keys that one side lacks"] == "light"
    assert result.summary["images that cannot be read"] == 1
    assert result.summary["classes"] == "not compared: there are too few labels on one side"
    without = world.run(world.side([None] * 50), world.side([None] * 60))
    assert without.summary["images"] == "not compared: fewer than 30 on one side are at hand"
    assert "skipped" in world.run(world.side(range(10)), world.side(range(50))).summary
    alone = world.side(range(10))
    assert Drift().run(alone).summary["skipped"] == "nothing to compare with is named (--against)"
    with pytest.raises(ValueError, match="another model"):
        world.run(before, world.side(range(200, 300), embeddings=rng.normal(size=(100, 5))))


def test_day_and_dusk(world: World, data: Path, tmp_path: Path) -> None:
    from datasetops.models import embed_images, open_embedder

    frames = pd.read_csv(data / "camvid_half" / "metadata.csv")
    some = [frame.iloc[:: len(frame) // 40] for _, frame in frames.groupby("light")]
    embedder = open_embedder("builtin:efficientnet-lite0", cache=tmp_path)
    sides = {}
    for chosen in some:
        files = [(data / "camvid_half" / "images" / name).with_suffix(".jpg").read_bytes() for name in chosen["image"]]
        sides[chosen["light"].iloc[0]] = chosen, embed_images(embedder, chosen["image"].tolist(), files.__getitem__)

    def side(light: str, rows: slice, **columns: Any) -> AuditContext:
        chosen, vectors = sides[light]
        names = chosen["image"].tolist()[rows]
        columns = {name: values.tolist()[rows] for name, values in columns.items()}
        return world.side(names, embeddings=vectors[rows], metadata=[{"light": light}] * len(names), **columns)

    every = slice(None)
    found = world.run(side("day", every), side("dusk", every))
    assert told(found) == {"images": "high", "light": "medium"}
    assert found.summary["told apart"] > 0.95
    # Of clips there is one at dusk and three by day: too few to say more than that they differ.
    clips = {light: chosen["sequence"] for light, (chosen, _) in sides.items()}
    grouped = world.run(side("day", every, group=clips["day"]), side("dusk", every, group=clips["dusk"]))
    assert told(grouped) == {"images": "low"}
    assert "4 groups are too few" in grouped.findings[0].message
    # Every other frame of the same videos.
    assert told(world.run(side("day", slice(0, None, 2)), side("day", slice(1, None, 2)))) == {}


def test_sources_of_skin_photographs(world: World, data: Path) -> None:
    table = pd.read_csv(data / "grouped" / "ham10000_metadata.csv")
    names = sorted(table["dx"].unique())
    schema = LabelSchema.model_validate(
        {
            "name": "skin",
            "version": 1,
            "tasks": [{"kind": "classification"}],
            "classes": [{"id": n, "name": name} for n, name in enumerate(names)],
        }
    )

    def side(rows: pd.DataFrame) -> AuditContext:
        metadata = [
            {k: v for k, v in row.items() if v == v} for row in rows[["age", "sex", "dx_type"]].to_dict("records")
        ]
        return world.side(
            [None] * len(rows),
            schema=schema,
            metadata=metadata,
            labels=rows["dx"].tolist(),
            group=rows["lesion_id"].tolist(),
        )

    hospitals = dict(list(table.groupby("dataset")))
    found = told(world.run(side(hospitals["vidir_modern"]), side(hospitals["rosendahl"])))
    assert {"age", "dx_type", "akiec", "bcc"} <= set(found)
    assert "high" not in found.values()
    lesions = table["lesion_id"].unique()
    for seed in range(5):
        half = set(np.random.default_rng(seed).permutation(lesions)[: len(lesions) // 2])
        chosen = table["lesion_id"].isin(half)
        assert told(world.run(side(table[chosen]), side(table[~chosen]))) == {}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    root = tmp_path_factory.mktemp("drift")
    repository = Repository.init(root / "set", load_schema("digits"))
    write_digits(root / "set" / "photos", 3)
    ingest(repository, str(root / "set" / "photos"), format="folder")
    write_digits(root / "production", 2)
    (root / "production" / "notes.txt").write_text("no image")
    (root / "production" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    return repository


def outside(repository: Repository) -> Path:
    assert repository.root is not None
    return repository.root.parent


def test_a_version_or_branch_is_a_baseline(digits: Repository) -> None:
    version = digits.version()
    for name in ("v1", "main"):
        baseline = baseline_of(digits, name)
        assert baseline.name == "v1"
        assert len(baseline.samples) == len(baseline.annotations) == 30
        with pytest.raises(ValueError, match="v1 cannot be compared with itself"):
            refuse_itself(version, baseline)


def test_a_folder_of_production_images_is_a_baseline(digits: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = outside(digits) / "production"
    baseline = baseline_of(digits, str(folder))
    assert (len(baseline.samples), len(baseline.annotations)) == (20, 0)
    assert baseline.samples["sample_id"].is_unique
    refuse_itself(digits.version(), baseline)
    vectors = baseline.embeddings()
    own = baseline_of(digits, "v1")
    rows = own.samples.set_index("sha256").index.get_indexer(baseline.samples["sha256"])
    assert (rows >= 0).all()  # the first two of three scans of each digit
    assert np.array_equal(own.embeddings()[rows], vectors)
    assert baseline_of(digits, str(folder)).name == baseline.name
    (folder / "more.png").write_bytes((folder / "0" / "0000.png").read_bytes())
    assert baseline_of(digits, str(folder)).name != baseline.name
    (folder / "more.png").unlink()
    monkeypatch.chdir(folder.parent)
    assert baseline_of(digits, "production").name == baseline.name


def test_a_table_is_a_baseline_with_and_without_its_images(digits: Repository) -> None:
    folder = outside(digits) / "production"
    rows = pd.DataFrame(
        {
            "uri": ["0/0000.png", "./0/0010.png", "gone.png", "s3://elsewhere/x.png"],
            "origin": ["Bern", "Bern", None, "Basel"],
            "width": [8, 8, 640, None],
            "light": ["day", None, "night", "day"],
            "label": ["0", "1", "2", "3"],
        }
    )
    rows.to_csv(folder / "table.csv", index=False)
    rows.to_parquet(folder / "table.parquet")
    for name in ("table.csv", "table.parquet"):
        samples = baseline_of(digits, str(folder / name)).samples.set_index("uri")
        samples.index = samples.index.str.replace(r".*production/", "", regex=True)
        assert samples["sha256"].notna().to_dict() == {
            **dict.fromkeys(["0/0000.png", "0/0010.png"], True),
            **dict.fromkeys(["gone.png", "s3://elsewhere/x.png"], False),
        }
        assert samples.loc["gone.png", ["width", "metadata"]].tolist() == [640, '{"light":"night"}']
        assert samples.loc["s3://elsewhere/x.png", "origin"] == "Basel"
        (folder / name).unlink()


def test_what_is_no_baseline_is_said(digits: Repository) -> None:
    folder = outside(digits)
    with pytest.raises(NotFoundError, match="'v7' is no version, branch, folder or table") as raised:
        baseline_of(digits, "v7")
    assert "v1" in raised.value.remedy
    (folder / "empty").mkdir()
    with pytest.raises(FormatError, match="holds no image"):
        baseline_of(digits, str(folder / "empty"))
    (folder / "empty" / "a.png").write_bytes(b"torn")
    with pytest.raises(FormatError, match=r"None of the 1 images in .*empty can be read"):
        baseline_of(digits, str(folder / "empty"))
    for name, content, message in (
        ("notes.txt", "x", "neither a folder nor a table"),
        ("no_path.csv", "light\nday\n", r"has no column path or uri \(columns: light\)"),
        ("hole.csv", "path,light\na.png,day\n,night\n", r"hole.csv, line 3: the column 'path' is empty"),
        ("empty.csv", "path\n", "has no rows"),
        ("bad.parquet", "x", "is not a Parquet file"),
    ):
        (folder / name).write_text(content)
        with pytest.raises(FormatError, match=message):
            baseline_of(digits, str(folder / name))
