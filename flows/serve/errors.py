"""Errors as pages: what went wrong and what to do, in the words of the error."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from flows.serve.pages import Pages
from pipeline.errors import AnomalysmithError, IntegrityError, UserError

_TITLES = {404: "Not found", 405: "Not possible", 400: "Not possible", 422: "Not possible"}


def add_error_pages(app: FastAPI, pages: Pages) -> None:
    """Answer every known error with a page, or with JSON where the request came from a script."""

    def answer(request: Request, status: int, text: str) -> Response:
        if request.method not in ("GET", "HEAD"):
            return JSONResponse({"error": text}, status)
        title = _TITLES.get(status, "Something is wrong with this data")
        return pages.page("error.html.j2", status, title=title, text=text)

    @app.exception_handler(HTTPException)
    def _(request: Request, error: HTTPException) -> Response:
        # Starlette's own errors say no more than their name.
        text = "There is no such page." if error.detail == "Not Found" else error.detail
        return answer(request, error.status_code, str(text))

    @app.exception_handler(RequestValidationError)
    def _(request: Request, error: RequestValidationError) -> Response:
        # An address that we never made; a request of a script gets to know what is wrong with it.
        if request.method in ("GET", "HEAD"):
            return answer(request, 404, "There is no such page.")
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return answer(request, 422, f"{where}: {first['msg']}")

    @app.exception_handler(OSError)
    def _(request: Request, error: OSError) -> Response:
        # The store was moved away, or its disk: whoever runs the server has to look at it.
        return answer(request, 500, f"The data cannot be read: {error.strerror or error}.")

    @app.exception_handler(AnomalysmithError)
    def _(request: Request, error: AnomalysmithError) -> Response:
        # Stored bytes are broken: nothing that the request could do better.
        status = 500 if isinstance(error, IntegrityError) else 400
        status = status if isinstance(error, UserError | IntegrityError) else 500
        # A full disk, say: the page keeps what it sent, and sends it again.
        status = 503 if error.transient else status
        return answer(request, status, str(error))
