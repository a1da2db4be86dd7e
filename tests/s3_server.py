"""An S3 server on this machine that the tests reach over HTTP, and that fails when it is told to.

It is moto's, served by werkzeug in a thread. A failure is injected before a request reaches it: the answer is the
503 SlowDown that S3 gives to those who ask too often.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BUCKET = "bucket"
_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"

Match = Callable[[str, str, str], bool]
"""Of method, path and query: is this request to fail?"""


@dataclass
class Server:
    """A running server.

    Attributes:
        url: its endpoint.
        requests: (method, path, query) of every request so far.
    """

    url: str = ""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    _match: Match | None = None
    _left: int = 0
    _answer: tuple[str, bytes] = ("503 Slow Down", _SLOW_DOWN)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        """The standard variables with which a client reaches it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "2",
        }

    @contextmanager
    def failing(self, match: Match, times: int = 10**9, *, denied: bool = False) -> Iterator[None]:
        """While it lasts, the next `times` requests that match are refused with 503 SlowDown (or 403)."""
        with self._lock:
            self._match, self._left = match, times
            self._answer = ("403 Forbidden", _DENIED) if denied else ("503 Slow Down", _SLOW_DOWN)
        try:
            yield
        finally:
            with self._lock:
                self._match = None

    def refuses(self, method: str, path: str, query: str) -> bool:
        """Whether this request is to fail; counts it."""
        with self._lock:
            self.requests.append((method, path, query))
            if self._match is None or self._left == 0 or not self._match(method, path, query):
                return False
            self._left -= 1
            return True

    def objects(self, prefix: str) -> dict[str, bytes]:
        """What is visible below a prefix, by name; folder markers left out. Read inside the server."""
        from moto.s3.models import s3_backends

        bucket = s3_backends["123456789012"]["global"].buckets[BUCKET]
        found = {name: bytes(key.value) for name, key in bucket.keys.items() if name.startswith(f"{prefix}/")}
        return {name.removeprefix(f"{prefix}/"): data for name, data in found.items() if not name.endswith("/")}

    def digests(self, folder: Path) -> dict[str, str]:
        """`tests.pipelines.making.digests` of a folder in the bucket."""
        found = self.objects("/".join(folder.parts[2:]))
        return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(found.items())}


def is_put(method: str, path: str, query: str) -> bool:
    """A `Match`: whatever writes."""
    return method in ("PUT", "POST")


@contextmanager
def s3_server() -> Iterator[Server]:
    """A server with one empty bucket, on a free port."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = DomainDispatcherApplication(create_backend_app)
    server = Server()

    def front(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        request = environment["REQUEST_METHOD"], environment["PATH_INFO"], environment["QUERY_STRING"]
        if not server.refuses(*request):
            return application(environment, start)
        sent = environment["wsgi.input"]  # a client that is cut off while it sends may not see the answer
        sent.read(-1 if "HTTP_TRANSFER_ENCODING" in environment else int(environment.get("CONTENT_LENGTH") or 0))
        status, body = server._answer
        start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [] if environment["REQUEST_METHOD"] == "HEAD" else [body]

    listening = make_server("127.0.0.1", 0, front, threaded=True)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{listening.server_port}"
    urllib.request.urlopen(urllib.request.Request(f"{server.url}/{BUCKET}", method="PUT"), timeout=30)
    try:
        yield server
    finally:
        listening.shutdown()
        thread.join(timeout=30)
        listening.server_close()
