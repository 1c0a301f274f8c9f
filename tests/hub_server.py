"""A real HTTP server on loopback with the addresses of Hugging Face's hub that its library asks for files."""

import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_good"


@dataclass
class Repository:
    """Files by name, the revisions that lead to them, and whether they need `TOKEN`."""

    files: dict[str, bytes]
    revisions: tuple[str, ...] = ("main", COMMIT)
    gated: bool = False


@dataclass
class Hub:
    """The server's address, its repositories by owner/name, and what it was asked for."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def add(self, name: str, folder: Path, *, but: tuple[str, ...] = (), **options) -> Repository:
        """The files of a folder as a repository."""
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in but}
        self.repositories[name] = Repository(files, **options)
        return self.repositories[name]


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, whole: bool) -> None:
        status, body, headers = self._find()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if whole:
            self.wfile.write(body)

    def _find(self) -> tuple[int, bytes, dict[str, str]]:
        path = self.path.split("?")[0]
        found = re.fullmatch(r"/(?:api/models/)?([^/]+/[^/]+)/(resolve|tree|revision)/([^/]+)(?:/(.*))?", path)
        self.hub.asked.append(path)
        repository = self.hub.repositories.get(found[1]) if found else None
        if found is None or repository is None:
            return 404, b"", {"X-Error-Code": "RepoNotFound"}
        if repository.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 403, b"", {"X-Error-Code": "GatedRepo"}
        if found[3] not in repository.revisions:
            return 404, b"", {"X-Error-Code": "RevisionNotFound"}
        files = repository.files
        if found[2] != "resolve":
            oids = {name: hashlib.sha1(content).hexdigest() for name, content in files.items()}
            tree = [{"type": "file", "path": n, "size": len(files[n]), "oid": oid} for n, oid in oids.items()]
            info = {"id": found[1], "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            return 200, json.dumps(tree if found[2] == "tree" else info).encode(), {}
        if found[4] not in files:
            return 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
        content = files[found[4]]
        tag = hashlib.sha256(content).hexdigest()
        return 200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def serve_hub() -> Iterator[Hub]:
    hub = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
