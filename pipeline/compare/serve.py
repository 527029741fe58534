"""Serve a comparison on this machine: its files, read only, and a page with the curves of running fits."""

from __future__ import annotations

import errno
import logging
import mimetypes
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from markupsafe import escape

from pipeline.compare.running import running_fits
from pipeline.errors import PipelineError

logger = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
REPORT_FILE = "report.html"
REFRESH_SECONDS = 5
# Nothing is loaded from elsewhere, and no page may show this one in a frame.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src 'self' data:; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<meta http-equiv="refresh" content="{seconds}"><title>Running fits</title><style>
:root {{ --ink: #1c2330; --muted: #5b6472; --grid: #dfe3e9; --surface: #fff; --page: #f5f6f8; --main: #1f62c8;
  --second: #c2571a; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e7eaf0; --muted: #a2abba; --grid: #363d4a; --surface: #1b202a;
  --page: #12161d; --main: #7ab0ff; --second: #f0a067; }} }}
body {{ margin: 0 auto; max-width: 1300px; padding: 24px 16px; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.7rem; }} h2 {{ font-size: 1rem; margin: 0; }} a {{ color: var(--main); }}
p, small {{ color: var(--muted); }}
main {{ display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }}
section {{ background: var(--surface); border: 1px solid var(--grid); border-radius: 10px; padding: 12px 16px; }}
svg {{ width: 100%; height: auto; display: block; margin: 0 auto; }}
</style></head><body><h1>Running fits</h1><p>{report} Curves are written with each checkpoint; this page is loaded again
every {seconds} seconds.</p><main>{fits}</main></body></html>"""


def serve(folder: Path, running: Path, port: int) -> None:
    """Serve a comparison until Ctrl-C.

    folder: what `pipeline compare --out` wrote. running: folder below which running fits are looked for.

    Raises:
        PipelineError: the port is in use or not allowed.
    """
    with open_server(folder, running, port) as server:
        logger.info(
            f"http://{ADDRESS}:{server.server_address[1]}/ shows {folder} and the fits in {running}; Ctrl-C ends."
        )
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            logger.info("Stopped.")


def open_server(folder: Path, running: Path, port: int) -> ThreadingHTTPServer:
    """Open the server on the loopback address; port 0 takes a free one.

    Raises:
        PipelineError: the port is in use or not allowed.
    """
    try:
        return ThreadingHTTPServer((ADDRESS, port), partial(_Handler, folder=folder.resolve(), running=running))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        what = "in use" if error.errno == errno.EADDRINUSE else "not allowed for this user"
        raise PipelineError(
            f"Port {port} is {what}. Choose another with --port, or a free one with --port 0."
        ) from error


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD; every other method gets 501 from the base class."""

    def __init__(self, *args: object, folder: Path, running: Path) -> None:
        self.folder, self.running = folder, running
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        # A page of another site that resolves to this address has that site's name here.
        if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in (ADDRESS, "localhost"):
            self._send(HTTPStatus.FORBIDDEN, b"This server answers only to localhost.", "text/plain")
            return
        path = unquote(urlsplit(self.path).path)
        if path == "/":
            self._send(HTTPStatus.OK, self._page().encode(), "text/html; charset=utf-8")
            return
        data = self._file(path)
        if data is None:
            self._send(HTTPStatus.NOT_FOUND, b"There is no such file in the folder of the comparison.", "text/plain")
            return
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        self._send(HTTPStatus.OK, data, f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)

    def _page(self) -> str:
        has_report = (self.folder / REPORT_FILE).is_file()
        report = f'<a href="/{REPORT_FILE}">Open the report.</a>' if has_report else "There is no report yet."
        fits = "".join(
            f"<section><h2>{escape(fit.name)}</h2><small>{escape(fit.part)}, {fit.num_epochs} epochs</small>"
            f"{fit.curves}</section>"
            for fit in running_fits(self.running)
        )
        return PAGE.format(seconds=REFRESH_SECONDS, report=report, fits=fits or "<p>No fit is running.</p>")

    def _file(self, path: str) -> bytes | None:
        """Return a regular file inside the folder; None for other paths, also through links and `..`."""
        try:
            place = (self.folder / path.lstrip("/")).resolve()
            return place.read_bytes() if place.is_relative_to(self.folder) and place.is_file() else None
        except (OSError, ValueError):
            return None

    def _send(self, status: HTTPStatus, data: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **SECURITY_HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        logger.debug(format % args)
