"""An accepted version, read by DuckDB, Polars and Spark from the paths that `dsops show --files` gives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rows import labeled, labels, samples
from typer.testing import CliRunner

from datasetops.cli.main import app
from datasetops.erasure.erase import erase
from datasetops.manifest import Change, Repository, Version
from datasetops.records import KEYS, TABLES

MANY = labeled(**{f"s{number:03}": "cat" for number in range(100)})
SPARK = Path(__file__).parents[2] / "build" / "spark" / "bin" / "python"


def shown(repository: Repository, name: str) -> dict[str, dict[str, Any]]:
    done = CliRunner().invoke(app, ["show", name, "--files", "--json", "-C", str(repository.root)])
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout)["files"])


@pytest.fixture(params=["one segment", "several segments"])
def version(request: pytest.FixtureRequest, repository: Repository, tmp_path: Path) -> Version:
    """Accepted; in the second case rows were changed and removed since."""
    rows = samples("a", "ä", "z", "é", captured_at="2026-01-02T03:04:05.678901Z", metadata={"light": "day"})
    box = {"annotation_id": "ä/box", "sample_id": "ä", "kind": "box", "label": "cat", "source": "human"}
    box |= {"x1": 0.5, "y1": 1.0, "x2": 2.25, "y2": 3.0, "attributes": {"seen": True}, "score": 0.1}
    repository.commit(
        Change(samples=rows, annotations=[*labels(a="cat", z="dog", **{"é": "bird"}), box]), message="one"
    )
    repository.commit(MANY, message="many")
    if request.param == "several segments":
        repository.commit(labeled(b="dog", z="cat"), message="two")
        repository.commit(Change(remove_samples=["a"]), message="three")
    several = request.param == "several segments"
    assert [len(repository.version().state(name).segments) > 1 for name in TABLES] == [several, several]
    (tmp_path / "policy.yaml").write_text("name: any\nexpiry: {days: 1}\n")
    run = CliRunner().invoke(
        app, ["accept", "main", "--policy", str(tmp_path / "policy.yaml"), "-C", str(repository.root)]
    )
    assert run.exit_code == 0, run.output
    return repository.version()


def test_duckdb(repository: Repository, version: Version) -> None:
    for name, file in shown(repository, version.name).items():
        assert file["rows"] == version.commit.counts[name]
        assert file["stored"] == (len(version.state(name).segments) == 1)
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            columns = ", ".join(f'"{column}"' for column in TABLES[name].names)
            read = connection.sql(f"SELECT {columns} FROM read_parquet('{file['path']}')").to_arrow_table()
        assert read.to_pylist() == version.table(name).to_pylist()
        keys = [key.encode() for key in read[KEYS[name]].to_pylist()]
        assert keys == sorted(keys)


def test_polars(repository: Repository, version: Version) -> None:
    polars = pytest.importorskip("polars")
    for name, file in shown(repository, version.name).items():
        read = polars.scan_parquet(file["path"]).select(TABLES[name].names).collect()
        assert read.to_dicts() == version.table(name).to_pylist()


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize("version", ["several segments"], indirect=True)
def test_spark(repository: Repository, version: Version, tmp_path: Path) -> None:
    if not SPARK.exists():
        pytest.skip("there is no Spark: make build/spark/.done")
    if shutil.which("java") is None:
        pytest.skip("there is no Java, which Spark needs")
    versions = {one.name: one for one in (repository.version("v2"), version)}  # one segment, and several
    files = {f"{name}-{table}": file["path"] for name in versions for table, file in shown(repository, name).items()}
    code = (
        "import json, sys\n"
        "from pyspark.sql import SparkSession\n"
        "spark = (SparkSession.builder.master('local[1]').config('spark.ui.enabled', 'false')\n"
        "  .config('spark.driver.bindAddress', '127.0.0.1').config('spark.driver.host', '127.0.0.1')\n"
        "  .config('spark.sql.session.timeZone', 'UTC').getOrCreate())\n"
        "for name, path in json.loads(sys.argv[1]).items():\n"
        "    rows = [row.asDict() for row in spark.read.parquet(path).collect()]\n"
        "    with open(name + '.json', 'w') as out:\n"
        "        json.dump(rows, out, default=lambda value: value.isoformat() if hasattr(value, 'isoformat') else None)\n"
    )
    done = subprocess.run(
        [SPARK, "-c", code, json.dumps(files)],
        cwd=tmp_path,
        env=os.environ | {"TZ": "UTC", "SPARK_LOCAL_IP": "127.0.0.1", "JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for file in files:
        version, name = versions[file.split("-")[0]], file.split("-")[1]
        read = json.loads((tmp_path / f"{file}.json").read_text())
        expected = json.loads(
            json.dumps(version.table(name).to_pylist(), default=lambda value: value.replace(tzinfo=None).isoformat())
        )
        assert [{column: row[column] for column in TABLES[name].names} for row in read] == expected


def test_pandas_pyarrow_and_again(repository: Repository, version: Version) -> None:
    first = shown(repository, version.name)
    for name, file in first.items():
        read = pq.read_table(file["path"], columns=TABLES[name].names, page_checksum_verification=True)
        assert read.cast(pa.schema(list(TABLES[name]))).equals(version.table(name))
    assert shown(repository, version.name) == first


def test_an_erased_row_is_in_no_file(repository: Repository) -> None:
    repository.commit(MANY, message="one")
    repository.commit(labeled(b="bird", c="cat"), message="two")
    before = shown(repository, "v2")
    assert not before["annotations"]["stored"]
    erase(repository, ["b"], reason="asked for")
    assert not Path(before["annotations"]["path"]).exists()
    after = pq.read_table(shown(repository, "v2")["annotations"]["path"])
    assert "b" not in after["sample_id"].to_pylist()
    assert len(after) == 101


@pytest.mark.server
def test_a_bucket_is_named_by_its_address(s3: str, schema: Any) -> None:
    from datasetops.manifest.plain import plain_files

    repository = Repository.init(s3, schema)
    version = repository.commit(labeled(a="cat"), message="one").version
    files = plain_files(repository, version)
    assert files["samples"].path == f"{s3}/segments/samples/{version.commit.tables['samples'][0].id}.parquet"
