"""An S3 server on loopback that answers wrongly, or not at all."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

from tests.loopback import LoopbackServer

PAGE = 2


class HostileS3(LoopbackServer):
    """A bucket with objects by key. ``fault`` names what is wrong with listings, or with the bodies of objects.

    Of bodies: ``hang`` sends nothing, ``trickle`` a byte at a time without an end, ``short`` a part and says it is all,
    ``long`` all of it and announces more. Of listings: ``hang``, ``same token``, ``same page`` under ever new tokens,
    ``for ever``, ``empty pages``, ``no token`` for the next page. All: ``busy``, ``refused``.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.fault, self.only = "", ""  # what is wrong, and with which key or listing alone
        self.pages = 0
        self._ended = threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else every answer waits 40 ms for the acknowledgement of its head

            def do_GET(self) -> None:
                fake.get(self)

            def do_PUT(self) -> None:
                fake.put(self)

            def do_POST(self) -> None:
                fake.delete(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        super().__init__(Handler)

    @property
    def url(self) -> str:
        return self.base_url.removesuffix("/v1")

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        super().__exit__(None, None, None)

    def get(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        key = unquote(parts.path).lstrip("/").partition("/")[2]
        if self._refuses(request, key or "list"):
            return
        fault = self.fault if self.only in ("", key or "list") else ""
        if key:
            self._object(request, key, fault)
        else:
            self._answer(request, 200, self._listing(parse_qs(parts.query), fault))

    def put(self, request: BaseHTTPRequestHandler) -> None:
        key = unquote(urlsplit(request.path).path).lstrip("/").partition("/")[2]
        body = request.rfile.read(int(request.headers["Content-Length"]))
        if not self._refuses(request, key):
            if request.headers.get("Content-Encoding") == "aws-chunked":
                size, _, rest = body.partition(b"\r\n")
                body = rest[: int(size.partition(b";")[0], 16)]
            self.objects[key] = body
            self._answer(request, 200, b"", {"ETag": _tag(body)})

    def delete(self, request: BaseHTTPRequestHandler) -> None:
        text = request.rfile.read(int(request.headers["Content-Length"])).decode()
        for key in [key for key in self.objects if f"<Key>{key}</Key>" in text]:
            del self.objects[key]
        self._answer(request, 200, b"<DeleteResult></DeleteResult>")

    def _refuses(self, request: BaseHTTPRequestHandler, what: str) -> bool:
        if self.only not in ("", what):
            return False
        if self.fault == "hang":
            request.close_connection = True
            self._ended.wait()
        elif self.fault in ("busy", "refused"):
            code, status = {"busy": ("SlowDown", 503), "refused": ("AccessDenied", 403)}[self.fault]
            self._answer(request, status, f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode())
        else:
            return False
        return True

    def _object(self, request: BaseHTTPRequestHandler, key: str, fault: str) -> None:
        if key not in self.objects:
            self._answer(request, 404, b"<Error><Code>NoSuchKey</Code><Message>m</Message></Error>")
            return
        whole = self.objects[key]
        body = whole[: len(whole) // 2] if fault == "short" else whole
        length = {"long": len(body) + 7, "trickle": 10**6}.get(fault, len(body))
        request.close_connection = fault in ("long", "trickle")
        self._answer(request, 200, body, {"ETag": _tag(whole), "Content-Length": str(length)})
        while fault == "trickle" and not self._ended.wait(0.01):
            try:
                request.wfile.write(b".")
            except OSError:
                return

    def _listing(self, query: dict[str, list[str]], fault: str) -> bytes:
        self.pages += 1
        prefix, token = query.get("prefix", [""])[0], query.get("continuation-token", ["0"])[0]
        start, keys = int(token), sorted(key for key in self.objects if key.startswith(prefix))
        found, following = keys[start : start + PAGE], str(start + PAGE) if len(keys) > start + PAGE else ""
        if fault == "same token":
            following = "1"
        elif fault == "same page":
            found, following = keys[:PAGE], str(start + 1)
        elif fault == "empty pages":
            found, following = [], str(start + 1)
        elif fault == "for ever":
            found, following = [f"{prefix}{start + number:06d}.txt" for number in range(PAGE)], str(start + PAGE)
        items = "".join(
            f"<Contents><Key>{key}</Key><ETag>{_tag(self.objects.get(key, b''))}</ETag>"
            f"<Size>{len(self.objects.get(key, b''))}</Size></Contents>"
            for key in found
        )
        cut = "true" if following else "false"
        following = "" if fault == "no token" else following
        token = f"<NextContinuationToken>{following}</NextContinuationToken>" if following else ""
        text = f"<ListBucketResult><IsTruncated>{cut}</IsTruncated>{token}{items}</ListBucketResult>"
        return text.encode()

    def _answer(
        self, request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        request.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)


def _tag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
