"""A server as inpainter, tested on a real HTTP server that speaks the formats of both programs.

The server here parses the form or the JSON, inpaints with OpenCV and answers as they do, with the
faults of real servers. The fields of the form are compared with lama-cleaner's source.
"""

import base64
import importlib.util
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import RemoteError, UserError
from pipeline.models import build as models
from pipeline.models.inpaint import remote
from pipeline.models.inpaint.base import OpenCvInpainter, in_window
from pipeline.models.inpaint.lama_cleaner import without_imghdr
from pipeline.models.inpaint.remote import RemoteInpainter, is_loopback
from pipeline.models.settings import InpaintBackend, ModelSettings, ProposalSettings

APIS = ("lama_cleaner", "iopaint")


class Handler(BaseHTTPRequestHandler):
    """Both formats at one address. `faults` are given as the first answers, one per request."""

    server: "Server"

    def do_GET(self) -> None:
        if self.path == "/model":
            self.answer(200, self.server.model.encode(), "text/html")
        elif self.path == "/api/v1/model":
            self.answer(200, json.dumps({"name": self.server.model, "path": "x"}).encode())
        else:
            self.answer(404, b"<html>not found</html>")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests += 1
        if self.server.faults:
            return self.misbehave(self.server.faults.pop(0))
        if self.path == "/inpaint":
            parts = self.form(body)
            missing = lama_cleaner_fields().keys() - parts.keys()
            if missing:
                return self.answer(400, f"<html>Bad Request: {sorted(missing)}</html>".encode())
            image, mask = parts["image"], parts["mask"]
        else:
            sent = json.loads(body)
            assert sent["hd_strategy"] == "Original"
            image, mask = base64.b64decode(sent["image"]), base64.b64decode(sent["mask"])
        self.answer(200, filled(image, mask), "image/png")

    def form(self, body: bytes) -> dict[str, bytes]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        message = message_from_bytes(head + body)
        assert message.is_multipart()
        return {
            str(part.get_param("name", header="Content-Disposition")): part.get_payload(decode=True)
            for part in message.get_payload()
        }  # fmt: skip

    def misbehave(self, fault: Any) -> None:
        if fault == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif isinstance(fault, float):
            time.sleep(fault)
            self.answer(200, b"late")
        elif isinstance(fault, int):
            self.answer(fault, b"<html>CUDA out of\n memory</html>")
        else:
            self.answer(200, fault, "image/png")

    def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        # The client gave up, as in the tests of timeouts.
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    model = "lama"
    requests = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: list[Any] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def settings(self, api: str = "lama_cleaner", **changes: object) -> InpaintBackend:
        return InpaintBackend.model_validate(
            {"backend": "remote", "url": self.url, "api": api, "timeout": 20} | changes
        )


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def filled(image: bytes, mask: bytes) -> bytes:
    """What a server does: decode, threshold at 127, inpaint, encode."""
    image_HW3 = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    mask_HW = cv2.imdecode(np.frombuffer(mask, np.uint8), cv2.IMREAD_GRAYSCALE)
    mask_HW = cv2.threshold(mask_HW, 127, 255, cv2.THRESH_BINARY)[1]
    return png(cv2.inpaint(image_HW3, mask_HW, OpenCvInpainter.RADIUS, cv2.INPAINT_TELEA))


def png(image_HW3: np.ndarray, kind: str = ".png") -> bytes:
    return bytes(cv2.imencode(kind, image_HW3)[1])


def lama_cleaner_fields() -> dict[str, str]:
    """Form field -> key of its settings, from the source of lama-cleaner's server."""
    spec = importlib.util.find_spec("lama_cleaner")
    assert spec is not None
    assert spec.origin is not None
    text = (Path(spec.origin).parent / "server.py").read_text()
    handler = text.split('@app.route("/inpaint"')[1].split("@app.route")[0]
    return {form: key for key, form in re.findall(r"(\w+)=form\[\"(\w+)\"\]", handler)}


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A coloured gradient, which would reveal swapped channels, with a hole off the centre."""
    yy, xx = np.mgrid[:190, :260]
    image_HW3 = np.stack([xx * 0.9, 200 - yy, 40 + 0 * xx], 2).astype(np.uint8)
    hole_HW = np.zeros((190, 260), np.bool_)
    hole_HW[60:90, 200:225] = True
    return image_HW3, hole_HW


@pytest.mark.parametrize("api", APIS)
def test_a_server_gives_the_same_pixels_as_its_model_here(server, api):
    image, hole = scene()
    result = RemoteInpainter(server.settings(api))(image, hole)
    assert np.array_equal(result, OpenCvInpainter("telea")(image, hole))
    assert server.requests == 1


@pytest.mark.parametrize("api", APIS)
def test_an_empty_hole_sends_no_request(server, api):
    image, hole = scene()
    inpaint = RemoteInpainter(server.settings(api))
    assert np.array_equal(inpaint(image, np.zeros_like(hole)), image)
    assert server.requests == 0


def test_the_form_has_every_field_of_lama_cleaner():
    with without_imghdr():
        from lama_cleaner.schema import Config

    fields = lama_cleaner_fields()
    assert len(fields) > 30
    assert remote.LAMA_CLEANER_FORM.keys() == fields.keys()
    given = {key: remote.LAMA_CLEANER_FORM[form] for form, key in fields.items()}
    config = Config(**given)
    assert config.hd_strategy == "Original"
    unsent = Config.model_fields.keys() - given.keys()
    # An optional file.
    assert unsent == {"paint_by_example_example_image"}


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("faults", [["drop"], ["drop", "drop"], [503], ["drop", 502, 504]])
def test_connection_errors_are_retried(server, api, faults):
    image, hole = scene()
    server.faults = list(faults)
    result = RemoteInpainter(server.settings(api))(image, hole)
    assert np.array_equal(result, OpenCvInpainter("telea")(image, hole))
    assert server.requests == len(faults) + 1


def test_a_connection_that_keeps_breaking_is_an_error(server):
    inpaint = RemoteInpainter(server.settings())
    server.faults = ["drop"] * 10
    with pytest.raises(RemoteError, match=r"/inpaint: .*\(4 tries\); start the server") as error:
        inpaint(*scene())
    assert error.value.transient
    assert server.requests == remote.TRIES


WRONG = {
    "status": (500, "expected status 200, got 500: <html>CUDA out of memory</html>"),
    "redirect": (302, "expected status 200, got 302"),
    "no image": (b"<html>hello</html>", "expected a PNG image of 128x128 px, got b'<html>"),
    "another size": (png(np.zeros((64, 128, 3), np.uint8)), "got one of 128x64"),
    "another format": (png(np.zeros((128, 128, 3), np.uint8), ".jpg"), "expected a PNG image"),
    "cut short": (png(scene()[0][:128, :128])[:-200], "expected a PNG image"),
    "far too long": (b"\0" * (3 << 20), "expected at most 1245184 bytes, got more"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_answer_is_an_error_without_retry(server, wrong):
    answer, said = WRONG[wrong]
    inpaint = RemoteInpainter(server.settings())
    server.faults = [answer]
    with pytest.raises(RemoteError, match=said) as error:
        inpaint(*scene())
    assert server.requests == 1
    assert error.value.transient is (wrong == "status")


def test_a_decompression_bomb_is_rejected_by_its_header(server):
    """A few bytes that state a size of 30 000 x 30 000 px; no pixel is decoded."""
    huge = bytearray(png(np.zeros((8, 8, 3), np.uint8)))
    huge[16:24] = (30000).to_bytes(4, "big") * 2
    inpaint = RemoteInpainter(server.settings())
    server.faults = [bytes(huge)]
    with pytest.raises(RemoteError, match="expected a PNG image of 128x128 px"):
        inpaint(*scene())


def test_a_timeout_is_not_retried(server):
    inpaint = RemoteInpainter(server.settings(timeout=0.3))
    server.faults = [1.5]
    with pytest.raises(
        RemoteError, match=r"no answer within 0\.3 s; raise models\.inpaint\.timeout"
    ):
        inpaint(*scene())
    assert server.requests == 1


def test_an_absent_server_is_an_error(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RemoteError, match="start the server"):
        models.resolve(settings_of(InpaintBackend(backend="remote", url=url)))


@pytest.mark.parametrize("api", APIS)
def test_a_server_of_the_other_program_is_an_error(server, api):
    class Other(Handler):
        def do_GET(self) -> None:
            self.answer(200, b'{"name": ["no", "name"]}')

    server.RequestHandlerClass = Other
    with pytest.raises(RemoteError, match=f"is this a {api} server"):
        RemoteInpainter(server.settings(api))


def test_no_proxy_is_used_for_loopback(server, monkeypatch):
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    image, hole = scene()
    assert RemoteInpainter(server.settings())(image, hole).shape == image.shape


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8080", True), ("http://localhost/x", True), ("http://[::1]:80", True),
        ("http://10.0.0.7:8080", False), ("https://gpu.example.org", False),
        ("http://localhost.example.org", False),
    ],
)  # fmt: skip
def test_which_addresses_are_loopback(url, here):
    assert is_loopback(url) is here


def settings_of(backend: InpaintBackend) -> ModelSettings:
    return ModelSettings(inpaint=backend)


@pytest.mark.parametrize("api", APIS)
def test_the_lineage_has_the_model_of_the_server_and_no_address(server, api):
    server.model = "runwayml/stable-diffusion-inpainting"
    settings = settings_of(server.settings(api))
    files = models.resolve(settings)
    key = f"inpaint/remote:{api}:runwayml/stable-diffusion-inpainting"
    assert files.digests()[key] == "none"
    assert "127.0.0.1" not in json.dumps(settings.content())
    image, hole = scene()
    loaded = models.load(settings, ProposalSettings(), files)
    assert np.array_equal(loaded.inpaint(image, hole), OpenCvInpainter("telea")(image, hole))


def test_a_server_with_another_model_than_planned_is_an_error(server):
    settings = settings_of(server.settings())
    files = models.resolve(settings)
    server.model = "mat"
    with pytest.raises(RemoteError, match=r"now holds the model 'mat'.*planned with 'lama'"):
        models.load(settings, ProposalSettings(points=63), files)


def test_remote_without_an_address_is_a_user_error():
    with pytest.raises(UserError, match=r"models\.inpaint\.url is not set"):
        models.resolve(settings_of(InpaintBackend(backend="remote")))


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8080", "ftp://a", "http://user:word@host", "http://a b"]
)
def test_an_invalid_address_is_rejected(url):
    with pytest.raises(ValidationError, match="url"):
        InpaintBackend(backend="remote", url=url)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_an_image_survives_the_round_trip(height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    there = remote._png(image[..., ::-1])
    assert np.array_equal(remote._decoded(there, (height, width), "there"), image)


def test_only_the_window_around_the_hole_is_sent(server):
    sizes = []
    image, hole = scene()
    inpaint = RemoteInpainter(server.settings())
    in_window(lambda inner, _: sizes.append(inner.shape) or inner, image, hole)
    server.faults = [png(np.zeros((sizes[0][0], sizes[0][1], 3), np.uint8))]
    result = inpaint(image, hole)
    assert (result == 0).all(2).sum() == sizes[0][0] * sizes[0][1]
    assert sizes[0] == (128, 128, 3)
