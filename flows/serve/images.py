"""The images of a version: layers and thumbnails. A published version never changes, so neither do
they, and a browser keeps them."""

from fastapi import APIRouter, HTTPException, Response

from flows.serve.layers import LAYERS, encoded, layer, small, thumbnail
from flows.serve.opened import Opened, OpenVersions
from flows.serve.query import VIEWS
from pipeline.dataset.shard_reader import ShardReader

# The name of a version holds a digest of its content. Private: no shared cache may keep them.
FOREVER = {"cache-control": "private, max-age=604800, immutable"}


def router(opened: OpenVersions) -> APIRouter:
    """Addresses of images; `row` counts the rows of the version's table."""
    routes = APIRouter()

    @routes.get("/v/{category}/{name}/layer/{which}/{row}")
    def layer_image(category: str, name: str, which: str, row: int) -> Response:
        if which not in LAYERS:
            raise HTTPException(404, "There is no such layer.")
        found = opened.get(category, name)
        shard, sample = place(found, row)
        with found.lock:
            image_HW3 = layer(which, shard, sample)
        content, kind = encoded(which, image_HW3)
        return Response(content, media_type=kind, headers=FOREVER)

    @routes.get("/v/{category}/{name}/thumb/{view}/{row}")
    def thumbnail_image(category: str, name: str, view: str, row: int) -> Response:
        if view not in VIEWS:
            raise HTTPException(404, "There is no such view.")
        found = opened.get(category, name)
        shard, sample = place(found, row)
        with found.lock:
            image_HW3 = thumbnail(view, shard, sample)
        content, kind = small(image_HW3)
        return Response(content, media_type=kind, headers=FOREVER)

    return routes


def place(opened: Opened, row: int) -> tuple[ShardReader, int]:
    """The shard of a row of the table and its row there; 404 when the table is shorter."""
    table = opened.table
    if not 0 <= row < len(table):
        raise HTTPException(404, "There is no such sample in this version.")
    return table.shards[int(table.shard_N[row])], int(table.row_N[row])
