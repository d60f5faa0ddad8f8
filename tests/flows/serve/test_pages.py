"""What the pages show, and where their links lead."""

import shutil

import pytest
from fastapi.testclient import TestClient
from small_results import TURNS
from small_sites import HOST, NASTY, NASTY_IMAGE, Outline

from flows.serve.app import create_app
from flows.serve.comparisons import Comparisons
from pipeline.review.decision import Decision
from pipeline.review.log import review_log


def page(client: TestClient, path: str) -> Outline:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return Outline(answer.text)


def cards(found: Outline) -> list[str]:
    """The samples of a gallery by their addresses."""
    return [link for link in found.all("a", "href") if "/sample/" in link]


def status(found: Outline, path: str) -> str:
    """The line above a gallery that counts its samples."""
    return found.text.partition(" samples")[0].rpartition(" versions ")[2]


def test_the_first_page_lists_products_and_versions(client, site):
    found = page(client, "/")
    assert NASTY in found.text
    assert {f"/v/tray/{name}" for name in site.versions} <= set(found.all("a", "href"))
    # The newer one was made from the older one.
    assert f"/v/tray/{site.versions[1]}/diff?other={site.versions[0]}" in found.all("a", "href")
    # A link that leads out of the store is no product, nor is a file.
    assert "linked" not in found.text
    assert "secret" not in found.text


def test_a_gallery_shows_accepted_and_rejected_samples(client, site):
    found = page(client, f"/v/tray/{site.versions[0]}")
    kept = [kind for kind, reason in TURNS if reason != "-"]
    assert len(cards(found)) == 5 * len(kept)
    assert f"{5 * len(kept)} samples" in found.text


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("verdict=accepted", 10),
        ("verdict=control", 5),
        ("verdict=rejected", 5),
        ("verdict=rejected&verdict=control", 10),
        ("kind=extra", 10),
        ("kind=extra&verdict=accepted", 5),
        ("reason=seam", 5),
        ("image=003", 4),
        ("split=validation", 4),
        ("range=area:0.1:0.2", 5),
        ("of=area&from=0.2&to=", 10),
        # What is unknown filters nothing.
        ("kind=nonsense&range=area:x:y&sort=nonsense&page=none&size=7&nothing=1", 20),
    ],
)
def test_filters_choose_samples(client, site, query, count):
    assert len(cards(page(client, f"/v/tray/{site.versions[0]}?{query}"))) == count


def test_no_sample_is_no_dead_end(client, home):
    found = page(client, f"{home}?image=nowhere")
    assert "No sample passes these filters" in found.text
    assert home in found.all("a", "href")


def test_a_gallery_is_sorted_by_any_score(client, site):
    path = f"/v/tray/{site.versions[0]}"
    up, down = (cards(page(client, f"{path}?sort={sign}delta_e")) for sign in ("", "-"))
    rows = [int(link.partition("?")[0].rpartition("/")[2]) for link in up]
    assert rows != sorted(rows)
    assert [link.partition("?")[0] for link in up] == [d.partition("?")[0] for d in down[::-1]]


def test_a_sample_shows_its_layers_its_scores_and_its_way(client, home, site):
    found = page(client, f"{home}/sample/0")
    layers = found.all("a", "data-src")
    assert len(layers) == 7
    assert {client.get(layer).status_code for layer in layers} == {200}
    # The same id that `show` takes.
    assert "train/good/000.png@0.0" in found.text
    assert "an object is missing" in found.text
    assert "change of colour" in found.text
    rejected = page(client, f"/v/tray/{site.versions[0]}/sample/15")
    assert "Rejected: seam. Expected: the edit left no seam along its outline." in rejected.text


def test_neighbours_follow_the_gallery_that_led_here(client, home):
    links = cards(page(client, f"{home}?kind=extra&sort=-delta_e"))
    middle = page(client, links[1])
    ways = [attrs for tag, attrs in middle.tags if tag == "a" and "rel" in attrs]
    assert {way["rel"]: way["href"] for way in ways} == {"prev": links[0], "next": links[2]}


def test_a_sample_is_found_by_its_id(client, home):
    answer = client.get(f"{home}/sample", params={"id": "train/good/002.png@3.0"})
    assert "train/good/002.png@3.0" in answer.text
    for unknown in ("train/good/002.png@9.0", "train/good/002.png", "@", "x@٣.٣", "x@1e9.0"):
        assert client.get(f"{home}/sample", params={"id": unknown}).status_code == 404


def test_nasty_names_are_shown_as_they_are(client):
    (link,) = {a for a in page(client, "/").all("a", "href") if "script" in a and a.count("/") == 3}
    found = page(client, link)
    assert NASTY in found.text
    sample = page(client, cards(found)[0])
    assert NASTY_IMAGE in sample.text
    # The link leads to the samples of this very image.
    (same,) = [link for link in sample.all("a", "href") if "?image=" in link]
    assert len(cards(page(client, same))) == 4


def test_about_says_what_a_version_is(client, home, site):
    found = page(client, f"{home}/about")
    assert site.versions[0] in found.text
    assert "CC0-1.0" in found.text
    assert "gate.max_seam_ratio" in found.text


def test_reviews_are_seen_and_filtered(site, tmp_path):
    store = shutil.copytree(site.store, tmp_path / "store", symlinks=True)
    version = store / "tray" / site.versions[0]
    client, home = TestClient(create_app(store), base_url=HOST), f"/v/tray/{site.versions[0]}"
    assert "not reviewed" not in page(client, home).text
    at = "2026-01-01T00:00:00.000+00:00"
    said = {"train/good/000.png@0.0": "reject", "train/good/001.png@2.0": "keep"}
    review_log(version).append([Decision(s, v, "", "", "Anna", at) for s, v in said.items()])
    found = page(client, home)
    assert "not reviewed 13" in found.text
    (rejected,) = cards(page(client, f"{home}?review=reject"))
    assert "reject" in page(client, rejected).text
    # The gate's rejects are no part of a review.
    assert len(cards(page(client, f"{home}?review=new"))) == 13


@pytest.fixture(scope="module")
def comparing(site):
    """The application, waiting for a comparison however busy the machine is."""
    comparisons = Comparisons(patience=120)
    yield TestClient(create_app(site.store, comparisons=comparisons), base_url=HOST)
    comparisons.close()


def test_versions_are_compared(comparing, site):
    found = page(comparing, f"/v/tray/{site.versions[1]}/diff")
    # Without a choice, the version that it was made from.
    assert f"What changed from {site.versions[0]} to {site.versions[1]}" in found.text
    assert "train/good/005.png : added" in found.text
    assert "Samples that are gone 2" in found.text
    assert "New samples 3" in found.text
    thumbnails = [src for src in found.all("img", "src") if "/thumb/" in src]
    assert {comparing.get(src).status_code for src in thumbnails} == {200}


def test_a_page_does_not_wait_for_a_long_comparison(site):
    """It says that it is being made, and asks again by itself."""
    comparisons = Comparisons(patience=0)
    client = TestClient(create_app(site.store, comparisons=comparisons), base_url=HOST)
    found = page(client, f"/v/tray/{site.versions[1]}/diff")
    assert "Comparing every sample" in found.text
    assert found.all("script", "src") == ["/static/waiting.js"]
    comparisons.close()


def test_versions_that_cannot_be_compared_are_no_error(comparing, site):
    nasty = {a for a in page(comparing, "/").all("a", "href") if "script" in a}
    (alone,) = {link for link in nasty if link.count("/") == 3}
    assert "There is only this version" in page(comparing, f"{alone}/diff").text
    wrong = comparing.get(f"/v/tray/{site.versions[1]}/diff?other=0007-000000000000")
    assert wrong.status_code == 404


def test_reports_are_listed_with_their_figures(client):
    found = page(client, "/reports")
    assert NASTY in found.text
    assert "0.9" in found.text
    # A file of figures that makes no sense leaves a dash.
    assert "b/compare.html" in found.text or "runs/b" in found.text


def test_without_reports_there_is_no_page_of_them(site):
    alone = TestClient(create_app(site.store), base_url=HOST)
    assert "/reports" not in page(alone, "/").all("a", "href")


@pytest.mark.parametrize("path", ["/nowhere", "/v/tray/nothing", "/v/nothing/0001", "/reports/0"])
def test_what_is_not_there_is_said_on_a_page(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert "Not found" in Outline(answer.text).text


def test_an_empty_store_says_what_to_do(tmp_path):
    client = TestClient(create_app(tmp_path), base_url=HOST)
    assert "anomalysmith generate" in page(client, "/").text


def test_a_store_that_is_gone_is_said(tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    client = TestClient(create_app(store), base_url=HOST)
    store.rmdir()
    answer = client.get("/")
    assert answer.status_code == 500
    assert "The data cannot be read: No such file or directory." in answer.text


def test_a_version_that_is_a_link_out_of_the_store_is_no_version(tmp_path, site):
    outside = shutil.copytree(site.store / "tray" / site.versions[0], tmp_path / "0009-outside")
    store = shutil.copytree(site.store, tmp_path / "store", symlinks=True)
    (store / "tray" / "0009-0123456789ab").symlink_to(outside)
    client = TestClient(create_app(store), base_url=HOST)
    assert "0009-" not in page(client, "/").text
    assert client.get("/v/tray/0009-0123456789ab").status_code == 404


def test_damage_is_said_and_hides_nothing_else(tmp_path, site):
    store = shutil.copytree(site.store, tmp_path / "store", symlinks=True)
    broken, whole = (store / "tray" / name for name in site.versions)
    (broken / "records.parquet").write_bytes(b"PAR1")
    client = TestClient(create_app(store), base_url=HOST)
    assert whole.name in page(client, "/").text
    answer = client.get(f"/v/tray/{broken.name}")
    assert answer.status_code == 500
    assert "records.parquet is damaged" in answer.text
    (broken / "index.json").write_bytes(b"{")
    assert broken.name in page(client, "/").text
    assert "is damaged" in client.get(f"/v/tray/{broken.name}").text
