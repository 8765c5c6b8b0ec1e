"""A web server on the loopback that misbehaves as it is told."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from detransfer.data.download import Patience

CONTENT = np.random.default_rng(0).bytes(200_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
QUICK = Patience(attempts=3, delay=0.01, timeout=5)


@dataclass
class Site:
    """What the server on the loopback does, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    ranges: bool = True
    cut: int | None = None  # bytes of body after which every connection breaks
    statuses: list[int] = field(default_factory=list)  # answers before the first good one
    shift: int = 0  # error in the position at which a range starts
    asked: list[str] = field(default_factory=list)  # Range header of every request


def handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.headers.get("Range", ""))
            if site.statuses:
                self.send_error(site.statuses.pop(0))
                return
            begin, total = 0, len(site.content)
            match = re.fullmatch(r"bytes=(\d+)-", site.asked[-1])
            if match and site.ranges:
                begin = int(match[1]) + site.shift
                if begin >= total:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{total}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
            else:
                self.send_response(200)
            body = site.content[begin:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if site.cut is None else body[: site.cut])

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    return Handler


@contextmanager
def serve() -> Iterator[Site]:
    """Run the server; ``NO_PROXY`` has to name 127.0.0.1."""
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(site))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    site.url = f"http://127.0.0.1:{server.server_port}/file.bin"
    yield site
    server.shutdown()
    server.server_close()
