"""The table of samples against the samples themselves, and the queries on it."""

import math
from urllib.parse import parse_qsl

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_results import header, image_result, small_version

from flows.serve.query import FACETS, SIZES, VIEWS, Query, Range
from flows.serve.table import Table, read_table
from pipeline.dataset.attempts import read_tries
from pipeline.dataset.files import RECORDS
from pipeline.dataset.version import Version, open_version
from pipeline.errors import IntegrityError


@pytest.fixture(scope="module")
def version(site) -> Version:
    return open_version(site.store / "tray" / site.versions[0])


@pytest.fixture(scope="module")
def table(version) -> Table:
    return read_table(version)


def test_every_row_is_the_sample_that_it_says(version, table):
    """Over several shards, accepted samples first, in the order in which readers number them."""
    accepted = [record for _, _, _, record in version.samples()]
    assert table.accepted == len(accepted) == 15
    for row in range(len(table)):
        shard, stored = table.shards[table.shard_N[row]], int(table.row_N[row])
        record = shard.record(stored)
        assert (table.id(row), table.kind[row]) == (record["id"], record["kind"])
        assert (table.image[row], table.reason[row]) == (record["source"]["name"], record["reason"])
        found = {name: column[row] for name, column in table.scores.items()}
        assert found == record["scores"]
        assert table.find(record["id"]) == row
    assert [table.id(row) for row in range(table.accepted)] == [r["id"] for r in accepted]
    verdicts = {table.kind[row]: table.verdict[row] for row in range(table.accepted)}
    assert verdicts == {"missing": "accepted", "extra": "accepted", "control_noop": "control"}
    assert {table.verdict[row] for row in range(table.accepted, len(table))} == {"rejected"}


def test_a_version_without_a_sample_has_an_empty_table(tmp_path):
    barren = [image_result(n, turns=[("missing", "-")]) for n in range(2)]
    table = read_table(small_version(tmp_path, results=barren, tests=0))
    assert len(table) == 0
    assert not len(Query(kind=("missing",), image="x").rows(table))


@pytest.mark.parametrize(("column", "value"), [("shard", "../x.h5"), ("row", 999), ("row", -1)])
def test_a_table_that_names_other_rows_is_damaged(tmp_path, column, value):
    """It may come from somebody else, and says what is read later."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    version = small_version(tmp_path, images=1)
    whole = pq.read_table(version.dir / RECORDS)
    rows = whole.to_pylist()
    next(row for row in rows if row["shard"])[column] = value
    pq.write_table(pa.Table.from_pylist(rows, whole.schema), version.dir / RECORDS)
    with pytest.raises(IntegrityError, match=r"records\.parquet is damaged"):
        read_table(version)


def test_tries_are_those_of_one_sample(version):
    tries = read_tries(version.dir / RECORDS, "train/good/002.png", 1)
    assert tries == [{"attempt": 0, "kind": "extra", "accepted": False, "reason": "seam"}]
    assert read_tries(version.dir / RECORDS, "train/good/002.png", 7) == []


def test_samples_that_were_not_measured_come_last_and_are_in_no_range(tmp_path):
    results = [image_result(n) for n in range(3)]
    for attempt in results[1].attempts:
        attempt.verdict.scores.pop("delta_e", None)
    table = read_table(small_version(tmp_path, results=results, head=header()))
    unknown_N = np.isnan(table.scores["delta_e"])
    assert unknown_N.any()
    for sort in ("delta_e", "-delta_e"):
        rows = Query(sort=sort).rows(table)
        assert unknown_N[rows].tolist() == sorted(unknown_N.tolist())
        known = table.scores["delta_e"][rows][: -unknown_N.sum()]
        assert (np.diff(known) * (-1 if sort[0] == "-" else 1) >= 0).all()
    anything = Query(ranges=(Range("delta_e", -9.0, math.inf),)).rows(table)
    assert not unknown_N[anything].any()


@given(st.data())
def test_an_address_holds_the_whole_query(table, data):
    """Bookmarked or sent to somebody, it shows the same."""

    def some(name: str) -> tuple[str, ...]:
        names = [name for name in getattr(table, name).names if name]
        chosen = data.draw(st.sets(st.sampled_from(names))) if names else set()
        return tuple(name for name in names if name in chosen)

    numbers = st.floats(-1e6, 1e6).map(lambda x: float(f"{x:.12g}"))
    low = data.draw(numbers | st.just(-math.inf))
    score = data.draw(st.sampled_from(["delta_e", "area"]))
    high = data.draw(numbers | st.just(math.inf)) if math.isfinite(low) else data.draw(numbers)
    query = Query(
        **{name: some(name) for name in FACETS},
        image=data.draw(st.text(max_size=20).filter(lambda text: text.isprintable())),
        ranges=data.draw(st.sampled_from([(), (Range(score, low, high),)])),
        score=data.draw(st.sampled_from(["", "delta_e"])),
        sort=data.draw(st.sampled_from(["", "area", "-delta_e"])),
        view=data.draw(st.sampled_from(VIEWS)),
        size=data.draw(st.sampled_from(SIZES)),
        page=data.draw(st.integers(1, 999)),
    )
    address = query.address(page=query.page)
    assert Query.of(parse_qsl(address[1:], keep_blank_values=True), table) == query
