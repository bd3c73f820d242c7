"""A server of a folder that sends ranges, and that breaks off, says 503, or is gone when it is told to."""

import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class ObjectServer(ThreadingHTTPServer):
    """`breaking`: how many more answers end after half their bytes; `busy`: how many more are 503."""

    request_queue_size = 64
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.ranges, self.breaking, self.busy = folder, True, 0, 0
        self.asked: list[tuple[str, str | None]] = []  # name and range
        self.sent: Counter[str] = Counter()  # bytes of each file

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: ObjectServer

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        server, name = self.server, self.path.strip("/").partition("?")[0]
        wanted = self.headers.get("Range") if server.ranges else None
        server.asked.append((name, wanted))
        if server.busy:
            server.busy -= 1
            self.send_error(503)
            return
        path = server.folder / name
        if not path.is_file():
            self.send_error(404)
            return
        found, size = path.stat(), path.stat().st_size
        first, last = 0, size - 1
        if wanted and (span := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)):
            first, last = int(span[1]), min(int(span[2] or last), last)
        if first >= size:
            self.send_error(416)
            return
        with path.open("rb") as file:
            file.seek(first)
            data = file.read(last - first + 1)
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{found.st_mtime_ns}"')
        self.send_header("Content-Length", str(len(data)))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        if server.breaking and len(data) > 1:
            server.breaking -= 1
            data = data[: len(data) // 2]
        server.sent[name] += len(data)
        self.wfile.write(data)


@contextmanager
def serving(folder: Path) -> Iterator[ObjectServer]:
    server = ObjectServer(folder)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
