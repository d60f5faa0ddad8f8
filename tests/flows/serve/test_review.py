"""The review of a version: its queue, its decisions on the disk, and the page of progress."""

import re
import resource
import shlex
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from drawn_boards import KINDS, boards
from fastapi.testclient import TestClient

from flows.jobs.curate import curate
from flows.serve.app import create_app
from flows.serve.pages import address
from flows.serve.safety import Access
from pipeline.dataset.verify import verify
from pipeline.dataset.version import Version, open_version
from pipeline.review.log import review_log
from pipeline.review.order import teaching_order

HOST = "http://127.0.0.1:8765"
Post = Callable[..., Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return boards(tmp_path_factory.mktemp("boards") / "store", images=4)


@pytest.fixture
def version(made: Version, tmp_path: Path) -> Version:
    """A copy that a test may review."""
    return open_version(copytree(made.dir, tmp_path / "store" / "board" / made.name))


@pytest.fixture
def client(version: Version) -> TestClient:
    return open_client(version)


def open_client(version: Version, **access: Any) -> TestClient:
    app = create_app(version.dir.parent.parent, access=Access(**access))
    return TestClient(app, base_url=HOST, headers={"origin": HOST}, raise_server_exceptions=False)


def queue(client: TestClient, version: Version, reviewer: str = "Anna", **query: Any) -> Any:
    path = address("board", version.name, "review", "queue", reviewer=reviewer, **query)
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def decide(client: TestClient, version: Version, *decisions: Any, reviewer: str = "Anna") -> Any:
    path = address("board", version.name, "review", "decisions")
    return client.post(path, json={"reviewer": reviewer, "decisions": list(decisions)})


def said(sample: str, verdict: str | None, second: int = 0, **more: str) -> dict[str, Any]:
    return {"sample": sample, "verdict": verdict, "at": f"2026-01-01T12:00:{second:02d}Z", **more}


def test_the_queue_is_the_teaching_order_without_what_was_decided(
    client: TestClient, version: Version
) -> None:
    order = list(teaching_order(version))
    first = queue(client, version, count=5)
    assert [one["id"] for one in first["samples"]] == order[:5]
    assert first["left"] == len(order) == 16
    # The next ones come after the last that was given out.
    more = queue(client, version, count=5, after=first["samples"][-1]["position"])
    assert [one["id"] for one in more["samples"]] == order[5:10]
    decide(client, version, said(order[0], "keep"), said(order[2], "unsure", 1))
    assert [one["id"] for one in queue(client, version)["samples"]] == [order[1], *order[3:]]
    # Nobody else's queue is shorter: two people review the same samples first.
    assert len(queue(client, version, reviewer="Ben")["samples"]) == 16
    unsure = queue(client, version, show="unsure")["samples"]
    assert [(one["id"], one["verdict"]) for one in unsure] == [(order[2], "unsure")]
    missing = queue(client, version, kind="missing", show="all")["samples"]
    assert {one["kind"] for one in missing} == {"missing"}
    assert len(missing) == 4


def test_a_decision_is_on_the_disk_when_the_server_has_answered(
    client: TestClient, version: Version
) -> None:
    one, other = teaching_order(version)[:2]
    answer = decide(
        client, version, said(one, "reject", reason="visible_edit", note="left\nedge"),
        said(other, "keep", 1),
    ).json()  # fmt: skip
    assert answer["totals"] == {
        "samples": 16, "mine": 2, "joint": {"keep": 1, "reject": 1, "unsure": 0, "disputed": 0},
    }  # fmt: skip
    assert answer["stands"][one]["note"] == "left\nedge"
    log = review_log(version.dir).read()
    assert [(d.sample, d.verdict, d.reviewer, d.version) for d in log] == [
        (one, "reject", "Anna", version.name), (other, "keep", "Anna", version.name),
    ]  # fmt: skip
    # Beside the version, which is as it was.
    assert verify(version.dir).ok


def test_a_decision_that_is_sent_again_counts_once(client: TestClient, version: Version) -> None:
    """As after an answer that was lost on its way."""
    sample = teaching_order(version)[0]
    for _ in range(3):
        assert decide(client, version, said(sample, "keep")).status_code == 200
    assert len(review_log(version.dir).read()) == 1


def test_undo_brings_back_what_stood_before(client: TestClient, version: Version) -> None:
    sample = teaching_order(version)[0]
    decide(client, version, said(sample, "keep"), said(sample, "reject", 1))
    away = said(sample, None, 2, withdraws="2026-01-01T12:00:01Z")
    assert decide(client, version, away).json()["stands"][sample]["verdict"] == "keep"
    # Sent twice it takes back no more than that.
    assert decide(client, version, away).json()["stands"][sample]["verdict"] == "keep"
    # After a reload the page knows what else can be taken back.
    assert [step["verdict"] for step in queue(client, version)["steps"]] == ["keep"]


@pytest.mark.parametrize(
    ("decision", "why"),
    [
        (said("train/good/999.png@0.0", "keep"), "expected a sample of 0001-"),
        (said("../../etc/passwd", "keep"), "expected a sample of 0001-"),
        ({"sample": "x", "verdict": "keep"}, "time"),
        (said("x", "maybe"), "verdict"),
        ({**said("x", "keep"), "path": "/etc"}, "expected an object"),
        ({"sample": 3}, "decisions"),
    ],
)
def test_what_is_no_decision_is_refused_as_a_whole(
    client: TestClient, version: Version, decision: Any, why: str
) -> None:
    good = said(teaching_order(version)[0], "keep")
    answer = decide(client, version, good, decision)
    assert answer.status_code in (400, 422)
    assert why in answer.json()["error"]
    assert review_log(version.dir).read() == ()


def test_many_browsers_at_once_lose_nothing(version: Version) -> None:
    order = teaching_order(version)
    # Two servers with two browsers each.
    clients = [open_client(version) for _ in range(2)] * 2

    def review(number: int) -> None:
        for k, sample in enumerate(order):
            answer = decide(
                clients[number], version, said(sample, "keep", k), reviewer=f"R{number}"
            )
            assert answer.status_code == 200

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(review, range(4)))
    found = review_log(version.dir).read()
    assert {(d.sample, d.reviewer) for d in found} == {
        (s, f"R{k}") for s in order for k in range(4)
    }
    assert queue(clients[0], version, reviewer="R3")["left"] == 0


def test_a_read_only_server_shows_the_queue_and_takes_no_decision(version: Version) -> None:
    client = open_client(version, read_only=True)
    sample = queue(client, version)["samples"][0]["id"]
    assert decide(client, version, said(sample, "keep")).status_code == 403
    assert not review_log(version.dir).path.exists()


def test_a_link_in_place_of_the_log_leads_nowhere(client: TestClient, version: Version) -> None:
    elsewhere = version.dir.parent.parent.parent / "elsewhere"
    elsewhere.write_text("mine")
    sample = queue(client, version)["samples"][0]["id"]
    review_log(version.dir).path.symlink_to(elsewhere)
    answer = decide(client, version, said(sample, "keep"))
    assert (answer.status_code, "is no file" in answer.json()["error"]) == (400, True)
    assert elsewhere.read_text() == "mine"
    assert client.get(address("board", version.name)).status_code == 200


def test_what_a_full_disk_does_not_take_is_sent_again(client: TestClient, version: Version) -> None:
    sample = queue(client, version)["samples"][0]["id"]
    # A limit on the size of files stands for the disk.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))
    try:
        answer = decide(client, version, said(sample, "keep"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    # Not 4xx, which a page takes for a decision that can never be right.
    assert (answer.status_code, "cannot write" in answer.json()["error"]) == (503, True)
    assert decide(client, version, said(sample, "keep")).status_code == 200


def test_the_commands_that_come_next_are_commands(
    made: Version, tmp_path: Path, anomalysmith: Callable[..., Any]
) -> None:
    folder = tmp_path / "my 'store'" / "board" / made.name
    version = open_version(copytree(made.dir, folder))
    client = open_client(version)
    for k, sample in enumerate(teaching_order(version)[:10]):
        decide(client, version, said(sample, "keep" if k % 2 else "reject", k))
    page = client.get(address("board", version.name, "progress")).text
    commands = re.findall(r'<pre class="command"><code>(.+?)</code>', page)
    assert len(commands) == 2
    for command in commands:
        program, *words = shlex.split(unescape(command))
        assert program == "anomalysmith"
        assert anomalysmith(*words).code == 0


def test_progress_counts_by_kind_and_compares_reviewers(
    client: TestClient, version: Version
) -> None:
    path = address("board", version.name, "progress")
    assert "Nobody has reviewed a sample" in client.get(path).text
    order = teaching_order(version)
    for k, sample in enumerate(order[:4]):
        decide(client, version, said(sample, "reject" if k else "keep", k, reason="visible_edit"))
        decide(client, version, said(sample, "reject" if k > 1 else "keep", k), reviewer="<b>Ben")
    page = client.get(path).text
    # Keep and reject on one sample: disputed.
    assert "same verdict to 75 % of the 4 samples" in page
    assert "kappa 0.50" in page
    assert page.count("&lt;b&gt;Ben") > 1
    assert "<b>Ben" not in page
    assert 'show=disputed">review it together' in page
    assert "the edit is visible" in page
    assert all(f"kind={kind}" in page for kind in KINDS)
    assert [one["id"] for one in queue(client, version, show="disputed")["samples"]] == [order[1]]


def test_what_was_decided_on_an_earlier_version_is_not_asked_again(
    client: TestClient, version: Version
) -> None:
    order = teaching_order(version)
    decide(client, version, said(order[0], "reject"), said(order[1], "keep", 1))
    curated = curate(version.dir, None).version
    assert [curated.name[:5], curated.index["parent"]] == ["0002-", version.name]
    left = queue(client, curated)
    assert left["left"] == 14
    assert order[1] not in {one["id"] for one in left["samples"]}
    assert left["totals"]["joint"]["keep"] == 1
    progress = client.get(address("board", curated.name, "progress")).text
    assert "made on other versions" in progress
    # It can be taken back there as well.
    away = said(order[1], None, 2, withdraws="2026-01-01T12:00:01Z")
    assert decide(client, curated, away).json()["totals"]["mine"] == 0


def test_the_page_needs_nothing_from_elsewhere(client: TestClient, version: Version) -> None:
    page = client.get(address("board", version.name, "review")).text
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "<script>" not in page
    assert " on" + "click=" not in page
