"""A server on localhost that plays the sources of data sets: ranges, breaks, quota pages, wrong bytes."""

import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

QUOTA = (
    b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>"
    b'<p class="uc-error-caption">Sorry, you can&#39;t view or download this file at this time.</p>\n'
    b'<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></body></html>'
)


@dataclass
class Served:
    """A file of the server, and how it is served."""

    content: bytes
    ranges: bool = True
    breaks: list[int] = field(default_factory=list)
    """The n-th answer stops after so many bytes; later ones are whole."""
    kind: str = "application/octet-stream"
    status: int = 200
    lengthless: bool = False
    """No Content-Length: the end of the connection is the end of the file."""
    headers: dict[str, str] = field(default_factory=dict)
    stall: int | None = None
    """The first answer stops after so many bytes, and the connection stays open until the server ends."""


@dataclass
class Sources:
    """The running server: its address, its files by path, and what was asked."""

    address: str
    files: dict[str, Served]
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    """Path, Range and the status that was answered."""
    stalled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"

    def asked_for(self, name: str) -> list[tuple[str, int]]:
        return [(span, status) for path, span, status in self.asked if path == f"/{name}"]


@contextmanager
def serving(files: Mapping[str, Served]) -> Iterator[Sources]:
    """Serve files by name while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served = sources.files.get(self.path.lstrip("/"))
            if served is None:
                sources.asked.append((self.path, self.headers.get("Range", ""), 404))
                self.send_error(404)
                return
            content, status, start = served.content, served.status, 0
            etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if span and served.ranges and self.headers.get("If-Range", etag) == etag:
                start = int(span[1])
                status = 206 if start < len(content) else 416
            sources.asked.append((self.path, self.headers.get("Range", ""), status))
            self.send_response(status)
            self.send_header("Content-Type", served.kind)
            self.send_header("ETag", etag)
            for name, value in served.headers.items():
                self.send_header(name, value)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if status == 416:
                self.send_header("Content-Range", f"bytes */{len(content)}")
                content = b""
            body = content[start:]
            if not served.lengthless:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            limit = served.breaks.pop(0) if served.breaks else None
            if served.stall is not None:
                limit, served.stall = served.stall, None
                self.wfile.write(body[:limit])
                self.wfile.flush()
                sources.stalled.set()
                sources.ended.wait(60)
            else:
                self.wfile.write(body[:limit])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    sources = Sources(f"http://127.0.0.1:{running.server_port}", dict(files))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield sources
    finally:
        sources.ended.set()
        running.shutdown()
        running.server_close()


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive of these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def sources_toml(path: Path, tables: Mapping[str, Mapping[str, object]]) -> Path:
    """A file for ``--sources``."""
    lines = []
    for name, table in tables.items():
        lines.append(f'["{name}"]')
        for key, value in table.items():
            text = "[" + ", ".join(f'"{v}"' for v in value) + "]" if isinstance(value, list) else repr(value)
            lines.append(f"{key} = {text}".replace("'", '"'))
    path.write_text("\n".join(lines) + "\n")
    return path


def leftovers(root: Path) -> list[str]:
    """What lies in the folder of archives, but for nnface's own notes."""
    folder = root / "archives"
    return sorted(
        p.name for p in folder.iterdir() if p.name not in ("nnface.json", "terms-accepted.txt", "download.lock")
    )
