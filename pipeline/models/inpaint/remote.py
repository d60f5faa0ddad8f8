"""A lama-cleaner or IOPaint server as inpainter: it gets the window around a hole as PNG.

    inpaint = RemoteInpainter(settings.inpaint)          # url, api, timeout

Formats: lama-cleaner takes `POST /inpaint`, a form with two files and every field of its settings
(a missing one is an error); IOPaint takes `POST /api/v1/inpaint`, JSON with base64. Both answer
with an image in the format that was sent. Whether equal requests get equal answers depends on the
server; docs/inpainting.md says what that means for a dataset.

Broken connections are retried; an answer that is not a PNG of the same size is an error.
"""

import base64
import io
import ipaddress
import re
import time
from typing import Any

import cv2
import httpx
import numpy as np
from PIL import Image

from pipeline.errors import RemoteError, UserError
from pipeline.models.inpaint.base import in_window
from pipeline.models.settings import InpaintBackend

# Attempts per request.
TRIES = 4
# Seconds before the second attempt; doubled before each further one.
PAUSE = 0.5
# Seconds to connect, and to wait for the name of the server's model.
QUERY_TIMEOUT = 5.0
# Both programs' default; only their diffusion models use it.
SEED = 42
# Answers of a proxy whose server is starting or overloaded.
_RETRIED = (502, 503, 504)
# A name of a model goes into plans and lineage, so it must be short and printable.
_NAME = re.compile(r"[\w][\w ./+-]{0,99}")

# Every field that lama-cleaner 1.2.5 reads, at its default; none may be missing. `Original` means
# no resizing or cropping on the server: the window is cropped already.
LAMA_CLEANER_FORM = {
    "ldmSteps": "25", "ldmSampler": "plms", "hdStrategy": "Original", "zitsWireframe": "true",
    "hdStrategyCropMargin": "196", "hdStrategyCropTrigerSize": "800",
    "hdStrategyResizeLimit": "2048", "prompt": "", "negativePrompt": "", "useCroper": "false",
    "croperX": "0", "croperY": "0", "croperHeight": "512", "croperWidth": "512", "sdScale": "1.0",
    "sdMaskBlur": "0", "sdStrength": "0.75", "sdSteps": "50", "sdGuidanceScale": "7.5",
    "sdSampler": "uni_pc", "sdSeed": str(SEED), "sdMatchHistograms": "false",
    "cv2Flag": "INPAINT_NS", "cv2Radius": "5", "paintByExampleSteps": "50",
    "paintByExampleGuidanceScale": "7.5", "paintByExampleMaskBlur": "0",
    "paintByExampleSeed": str(SEED), "paintByExampleMatchHistograms": "false", "p2pSteps": "50",
    "p2pImageGuidanceScale": "1.5", "p2pGuidanceScale": "7.5",
    "controlnet_conditioning_scale": "0.4", "controlnet_method": "control_v11p_sd15_canny",
}  # fmt: skip
IOPAINT_FIELDS = {"hd_strategy": "Original", "sd_mask_blur": 0, "sd_seed": SEED}

MODEL_ADDRESS = {"lama_cleaner": "/model", "iopaint": "/api/v1/model"}
INPAINT_ADDRESS = {"lama_cleaner": "/inpaint", "iopaint": "/api/v1/inpaint"}


class RemoteInpainter:
    """One server with one model.

    `model` is the name that the plan was made with; RemoteError when the server has another one.
    """

    def __init__(self, settings: InpaintBackend, model: str | None = None) -> None:
        self._settings, self._url = settings, server_url(settings)
        self._client = _client(self._url, settings.timeout)
        # The lineage names the model of the plan, so another one must not be used silently.
        self.model = server_model(settings)
        if model is not None and model != self.model:
            raise RemoteError(
                f"{self._url} now holds the model {self.model!r}, but the run was planned with "
                f"{model!r}; switch the server back, or start the run again"
            )

    def __call__(
        self, image_HW3: np.ndarray, hole_HW: np.ndarray, avoid_HW: np.ndarray | None = None
    ) -> np.ndarray:
        return in_window(self._fill, image_HW3, hole_HW)

    def _fill(self, image_HW3: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
        url = self._url + INPAINT_ADDRESS[self._settings.api]
        # OpenCV encodes BGR; the mask is 0 and 255.
        files = {
            "image": _png(image_HW3[..., ::-1]),
            "mask": _png(hole_HW.astype(np.uint8) * 255),
        }
        if self._settings.api == "lama_cleaner":
            parts = {name: (f"{name}.png", png, "image/png") for name, png in files.items()}
            request = self._client.build_request("POST", url, data=LAMA_CLEANER_FORM, files=parts)
        else:
            coded = {name: base64.b64encode(png).decode() for name, png in files.items()}
            request = self._client.build_request("POST", url, json=coded | IOPAINT_FIELDS)
        # PNG of pure noise is little larger than the raw pixels, so a far larger answer is wrong.
        answer = _answer(self._client, request, most=4 * image_HW3.size + (1 << 20))
        return _decoded(answer, hole_HW.shape, url)


def server_model(settings: InpaintBackend) -> str:
    """The name of the model that the server has loaded; RemoteError when it does not answer."""
    url = server_url(settings)
    with _client(url, min(QUERY_TIMEOUT, settings.timeout)) as client:
        request = client.build_request("GET", url + MODEL_ADDRESS[settings.api])
        # Two attempts only: the user waits for this answer before the run is planned.
        answer = _answer(client, request, most=1 << 20, tries=2)
    name: Any = answer.decode("utf-8", errors="replace").strip()
    # lama-cleaner answers with the bare name, IOPaint with JSON.
    if settings.api == "iopaint":
        try:
            name = httpx.Response(200, content=answer).json()["name"]
        except (ValueError, KeyError, TypeError):
            name = None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RemoteError(
            f"{request.url}: expected the name of a model, got {str(name)[:60]!r}; is this a "
            f"{settings.api} server? (models.inpaint.api says which kind)"
        )
    return name


def server_url(settings: InpaintBackend) -> str:
    """The server's URL without a final slash; UserError when the manifest has none."""
    if settings.url is None:
        raise UserError(
            "models.inpaint.backend is remote, but models.inpaint.url is not set; name the "
            "server, such as http://127.0.0.1:8080"
        )
    return settings.url.rstrip("/")


def _client(url: str, timeout: float) -> httpx.Client:
    """An HTTP client that uses no proxy for addresses of this machine."""
    limit = httpx.Timeout(timeout, connect=min(QUERY_TIMEOUT, timeout))
    return httpx.Client(timeout=limit, trust_env=not is_loopback(url))


def is_loopback(url: str) -> bool:
    """True for `localhost` and the addresses that never leave this machine."""
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _answer(client: httpx.Client, request: httpx.Request, most: int, tries: int = TRIES) -> bytes:
    """The body of a 200 answer of at most `most` bytes; connection errors are retried."""
    pause, fault = PAUSE, ""
    for attempt in range(tries):
        if attempt:
            time.sleep(pause)
            pause *= 2
        try:
            # As a stream, so that `_body` can stop at `most` bytes.
            response = client.send(request, stream=True)
            try:
                body = _body(response, most, str(request.url))
            finally:
                response.close()
        # The server is still busy with the request; a second one would make it slower.
        except httpx.ReadTimeout as error:
            raise RemoteError(
                f"{request.url}: no answer within {client.timeout.read:g} s; raise "
                "models.inpaint.timeout, or check whether the server is stuck"
            ) from error
        except httpx.TransportError as error:
            fault = str(error) or type(error).__name__
            continue
        if response.status_code == 200:
            return body
        # The start of an HTML page or a traceback, on one line.
        said = " ".join(body.decode("utf-8", errors="replace").split())[:200]
        fault = f"expected status 200, got {response.status_code}: {said}"
        if response.status_code not in _RETRIED:
            raise RemoteError(
                f"{request.url}: {fault}; check models.inpaint.url and api, and the server's log",
                transient=response.status_code >= 500,
            )
    raise RemoteError(
        f"{request.url}: {fault} ({tries} tries); start the server, or name another "
        "models.inpaint.backend",
        transient=True,
    )


def _body(response: httpx.Response, most: int, url: str) -> bytes:
    """The body, read in parts, so that an endless answer ends in an error and not in memory."""
    parts, size = [], 0
    for part in response.iter_bytes():
        size += len(part)
        if size > most:
            raise RemoteError(
                f"{url}: expected at most {most} bytes, got more; is this the right server?"
            )
        parts.append(part)
    return b"".join(parts)


def _png(image: np.ndarray) -> bytes:
    """BGR or grey pixels as PNG."""
    # Fast, weak compression: the server is usually on the same machine or network.
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    done, coded = cv2.imencode(".png", np.ascontiguousarray(image), options)
    assert done
    return bytes(coded)


def _decoded(answer: bytes, size_HW: tuple[int, ...], url: str) -> np.ndarray:
    """RGB pixels of the answer; RemoteError unless it is a PNG of this size."""
    # The size is checked before decoding: a few bytes can unpack to gigabytes.
    expected = f"{url}: expected a PNG image of {size_HW[1]}x{size_HW[0]} px"
    try:
        image = Image.open(io.BytesIO(answer), formats=("PNG",))
        if image.size != (size_HW[1], size_HW[0]):
            raise RemoteError(
                f"{expected}, got one of {image.width}x{image.height}; the server must not "
                "resize (hd_strategy Original)"
            )
        return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RemoteError(
            f"{expected}, got {answer[:16]!r} ({len(answer)} bytes); is this the right server?"
        ) from error
