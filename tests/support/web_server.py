"""A web server for the tests, on a port of its own: files in memory, with the headers that a test chooses."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class WebSite:
    """What the server answers."""

    address: str = ""
    """http:// and where it listens."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Content by path."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with every file."""
    status: int = 200
    """Anything else is all that it answers."""
    num_reads: int = 0
    """How many files were sent."""
    serves_ranges: bool = False
    """Whether it sends a part of a file when it is asked for that."""
    tells_length: bool = True
    """Whether it sends the length of files."""
    encodings: set[str] = field(default_factory=set)
    """The encodings of content that it was asked for."""


@contextmanager
def web_server() -> Iterator[WebSite]:
    """A running server."""
    site = WebSite()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            site.num_reads += 1
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            content = site.files.get(self.path)
            status = site.status if site.status != 200 or content is not None else 404
            body = content if content is not None and status == 200 else b""
            wanted = self.headers.get("Range") if site.serves_ranges and body else None
            site.encodings.add(self.headers.get("Accept-Encoding", ""))
            if wanted is not None:
                first, last = wanted.removeprefix("bytes=").split("-")
                place = slice(int(first), min(int(last) + 1, len(body)))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {place.start}-{place.stop - 1}/{len(body)}")
                body = body[place]
            else:
                self.send_response(status)
            if site.tells_length:
                self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet")
            for name, value in site.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its name in the base
            """Tests print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
