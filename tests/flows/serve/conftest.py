"""One small store, served by one application to all tests that only look."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from small_sites import HOST, Site, small_site

from flows.serve.app import create_app
from flows.serve.comparisons import Comparisons


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return small_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def app(site: Site) -> Iterator[FastAPI]:
    comparisons = Comparisons()
    yield create_app(site.store, runs=[site.runs], comparisons=comparisons)
    comparisons.close()


@pytest.fixture(scope="session")
def client(app: FastAPI) -> TestClient:
    return TestClient(app, base_url=HOST)


@pytest.fixture(scope="session")
def home(site: Site) -> str:
    """The address of the second version of `tray`."""
    return f"/v/tray/{site.versions[1]}"
