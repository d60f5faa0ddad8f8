"""`anomalysmith serve STORE`: look at datasets, review and compare them in a browser."""

import os
import socket
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import print_note
from pipeline.errors import UserError

HOST, PORT = "127.0.0.1", 8765
# Characters of a token; a shorter one could be guessed.
_SHORTEST_TOKEN = 16


def serve_command(
    store: Annotated[
        Path,
        typer.Argument(
            metavar="STORE", help="The folder that `generate` writes to.", show_default=False
        ),
    ],
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen on. Any but this machine's own needs a token, which is made "
            "up and printed unless --token gives one.",
        ),
    ] = HOST,
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = PORT,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Also open the page in the browser.")
    ] = False,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Accept no decision and save no rule book.")
    ] = False,
    runs: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Folder with reports of `evaluate` and `compare` to show; may be given several "
            "times.",
            show_default=False,
        ),
    ] = None,
    rules: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Folder in which PRODUCT.rules.yaml is the rule book of a product, or one such "
            "file.  [default: the folder that STORE is in]",
            show_default=False,
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            envvar="ANOMALYSMITH_TOKEN",
            help="Token that a browser must know, on this machine too. Other users of the machine "
            "see an option; the variable ANOMALYSMITH_TOKEN they do not.",
            show_default=False,
            show_envvar=False,
        ),
    ] = None,
) -> None:
    """Serve a store as a small web application on this machine, until Ctrl-C.

    Pages show products and versions, the samples of a version with filters, every layer of a
    sample, what changed between versions, and reports of detectors. It listens on this machine
    only unless --host says otherwise, loads nothing from elsewhere, and never writes to a
    published version.
    """
    _require_store(store)
    for folder in runs or ():
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}; --runs names folders with reports")
    known = _token(host, token)
    with _listening(host, port) as listener:
        # After what is quick to fail: this loads the pages and everything behind them.
        from flows.serve.run import Address, run

        address = Address.of(host, listener, known)
        typer.echo(f"Serving {store} at {address.url}  (Ctrl-C ends it)")
        if not address.loopback:
            print_note("note: whoever knows this address can read the store, without encryption")
        run(
            store,
            listener,
            address,
            runs or (),
            rule_books=rules,
            read_only=read_only,
            browser=open_browser,
        )


def _require_store(store: Path) -> None:
    """UserError unless the folder can be a store; it says which folder is one."""
    from pipeline.dataset.files import INDEX
    from pipeline.dataset.version import version_folders

    if not store.is_dir():
        raise UserError(f"there is no store {store}; name the folder that `generate` writes to")
    # Easily confused, as other commands take the folder of a version.
    parent = store.resolve().parent
    if (store / INDEX).is_file():
        raise UserError(f"{store} is one version; name the store that it lies in: {parent.parent}")
    if version_folders(store):
        raise UserError(f"{store} is one product of a store; name the store itself: {parent}")


def _token(host: str, given: str | None) -> str | None:
    """The token that browsers must know; made up where others can reach the server."""
    import secrets

    from flows.serve.safety import is_loopback

    if given is None:
        return None if is_loopback(host) else secrets.token_urlsafe(24)
    plain = given.isascii() and all(c.isalnum() or c in "-_" for c in given)
    if len(given) < _SHORTEST_TOKEN or not plain:
        raise UserError(
            f"a token has at least {_SHORTEST_TOKEN} letters, digits, - or _, "
            f"got {len(given)} characters"
        )
    return given


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; UserError when the port is taken or is not this machine's."""
    try:
        family, _, _, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(where[:2], family=family)
    except PermissionError:
        raise UserError(f"port {port} needs privileges; choose one above 1023") from None
    except OSError as error:
        # The text of asyncio and socket repeats the address.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise UserError(
            f"cannot listen on {host} port {port}: {reason}; choose another --port, or 0 for any"
        ) from None
    except UnicodeError:
        raise UserError(f"{host!r} is no address of a machine") from None
