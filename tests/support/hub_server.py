"""A Hub on 127.0.0.1: immutable commits, blobs checked by SHA-256, and faults on demand.

It answers the routes that the unmodified client asks when it publishes and downloads models, over real HTTP. The state
is read and the faults are set by the process that runs it; clients run in processes of their own, with `HF_ENDPOINT`.
"""

import base64
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_FROM = 10_000
"""Bytes from which a file goes through LFS, as every `.safetensors` does."""
REPO = r"(?P<repo>(?:spaces/)?[\w.-]+/[\w.-]+)"  # the Space me/page is kept as spaces/me/page
ROUTES = [
    ("create", "POST", r"/api/repos/create"),
    ("whoami", "GET", r"/api/whoami-v2"),
    ("validate", "POST", r"/api/validate-yaml"),
    ("tree", "GET", rf"/api/models/{REPO}/tree/(?P<rev>[^/]+)"),
    ("refs", "GET", rf"/api/models/{REPO}/refs"),
    ("tag", "POST", rf"/api/models/{REPO}/tag/(?P<rev>[^/]+)"),
    ("preupload", "POST", rf"/api/models/{REPO}/preupload/(?P<rev>[^/]+)"),
    ("commit", "POST", rf"/api/models/{REPO}/commit/(?P<rev>[^/]+)"),
    ("info", "GET", rf"/api/models/{REPO}(/revision/(?P<rev>[^/]+))?"),
    ("batch", "POST", rf"/{REPO}\.git/info/lfs/objects/batch"),
    ("put", "PUT", r"/lfs/(?P<oid>[0-9a-f]{64})"),
    ("blob", "GET", r"/lfs/(?P<oid>[0-9a-f]{64})"),
    ("head", "HEAD", rf"/{REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)"),
    ("resolve", "GET", rf"/{REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)"),
]


class Refused(Exception):
    """An answer that is an error: status, code of the Hub, message."""


@dataclass
class Fault:
    """What goes wrong on a route, the next `times` times it is asked.

    Args:
        route: a name of `ROUTES`.
        kind: `status` (an error before anything is done), `reset` (of the connection, before anything is done), `drop`
            (done, but the reply is lost), `truncate` (done, half of the reply), `delay` (done, the reply comes late),
            `html` (an error page of a proxy).
        status: of `status` and `html`.
        seconds: of `delay`.
        times: how often.
        repo: only on this repository; every one if empty.
    """

    route: str
    kind: str
    status: int = 503
    seconds: float = 0.0
    times: int = 1
    repo: str = ""


@dataclass(frozen=True)
class File:
    """One version of one file; LFS content lies in the blobs."""

    content: bytes
    is_lfs: bool

    @property
    def sha1(self) -> str:
        """As git names it."""
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def sha256(self) -> str:
        """As LFS names it."""
        return hashlib.sha256(self.content).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        """As `tree` lists it."""
        lfs = {"oid": self.sha256, "size": len(self.content), "pointerSize": 130}
        item = {"type": "file", "path": path, "size": len(self.content), "oid": self.sha1}
        return {**item, "lfs": lfs} if self.is_lfs else item


@dataclass(frozen=True)
class Commit:
    """An immutable snapshot."""

    oid: str
    parent: str | None
    message: str
    files: dict[str, File]


@dataclass
class Repository:
    """Commits, the main branch and tags."""

    private: bool = False
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def main(self) -> Commit:
        """What the main branch shows."""
        return self.commits[-1]

    def add(self, message: str, files: dict[str, File]) -> Commit:
        """Put a commit on the main branch."""
        parent = self.commits[-1].oid if self.commits else None
        names = sorted((path, file.sha256) for path, file in files.items())
        oid = hashlib.sha1(repr((parent, message, names, len(self.commits))).encode()).hexdigest()
        self.commits.append(Commit(oid, parent, message, files))
        return self.main

    def at(self, revision: str | None) -> Commit:
        """The commit that a branch, tag or commit id names."""
        oid = self.tags.get(revision or "main", revision)
        if oid in (None, "main"):
            return self.main
        for commit in self.commits:
            if commit.oid == oid:
                return commit
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")


class HubServer(ThreadingHTTPServer):
    """The server and its state. Use as a context manager: it serves from a thread."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        # Blobs lie on another host, as on the Hub: the client does not follow it there when it asks for metadata.
        self.storage = f"http://localhost:{self.server_address[1]}"
        self.lock = threading.RLock()
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.struck: list[Fault] = []
        self.log: list[tuple[str, str]] = []
        self.tokens = {"hf_write": ("me", "write"), "hf_read": ("me", "read"), "hf_other": ("other", "write")}
        self.before_commit: Callable[[str], None] | None = None

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """A client that went away is no news."""

    def files(self, repo: str, revision: str | None = None) -> dict[str, bytes]:
        """What a revision shows."""
        with self.lock:
            return {path: file.content for path, file in self.repositories[repo].at(revision).files.items()}

    def take_fault(self, route: str, repo: str) -> Fault | None:
        """The fault that strikes now, if any."""
        with self.lock:
            for fault in self.faults:
                if fault.route == route and fault.repo in ("", repo):
                    fault.times -= 1
                    if fault.times <= 0:
                        self.faults.remove(fault)
                    self.struck.append(fault)
                    return fault
        return None


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def do(self) -> None:
        """Find the route, let a fault strike, act, reply."""
        target = urlsplit(self.path)
        self.query = parse_qs(target.query)
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else self._chunks()
        path = unquote(target.path).replace("/api/spaces/", "/api/models/spaces/")
        matches = ((name, re.fullmatch(pattern, path)) for name, method, pattern in ROUTES if method == self.command)
        route, found = next((match for match in matches if match[1]), ("", None))
        if found is None:
            return self.reply(404, {"error": f"no route {self.command} {path}"})
        given = {name: value for name, value in found.groupdict().items() if value is not None}
        repo = given.get("repo") or (self._json_repo() if route == "create" else "")
        self.server.log.append((route, repo))
        fault = self.server.take_fault(route, repo)
        if fault and fault.kind == "reset":
            return self.vanish()
        if fault and fault.kind == "status":
            return self.reply(fault.status, {"error": "injected"}, {"X-Error-Message": "injected"})
        if fault and fault.kind == "html":
            return self.reply(fault.status, b"<html>Service unavailable</html>", {"Content-Type": "text/html"})
        try:
            with self.server.lock:
                status, value, headers = getattr(self, route)(**given)
        except Refused as error:
            status, code, message = error.args
            value, headers = {"error": message}, {"X-Error-Code": code, "X-Error-Message": message}
        if fault and fault.kind == "drop":
            return self.vanish()
        if fault and fault.kind == "delay":
            time.sleep(fault.seconds)
        self.reply(status, value, headers, truncated=bool(fault and fault.kind == "truncate"))

    do_GET = do_POST = do_PUT = do_HEAD = do

    def _chunks(self) -> bytes:
        parts = []
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
        return b"".join(parts)

    def _json_repo(self) -> str:
        wanted = json.loads(self.body)
        space = "spaces/" if wanted.get("type") == "space" else ""
        return f"{space}{wanted.get('organization') or self._user()[0]}/{wanted['name']}"

    def vanish(self) -> None:
        """Reset the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def reply(self, status: int, value: Any, headers: dict[str, str] | None = None, truncated: bool = False) -> None:
        """Send an answer; a truncated one promises more than comes."""
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if truncated else content)
        if truncated:
            self.wfile.flush()
            self.vanish()

    # ---- rights ----

    def _user(self) -> tuple[str, str]:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.server.tokens:
            raise Refused(401, "", "Invalid credentials in Authorization header")
        return self.server.tokens.get(token, ("", "none"))

    def _repository(self, repo: str, write: bool = False) -> Repository:
        user, role = self._user()
        found = self.server.repositories.get(repo)
        if found is None or (found.private and user != repo.split("/")[-2]):
            raise Refused(404 if user else 401, "RepoNotFound", "Repository not found")
        if write and (role != "write" or user != repo.split("/")[-2]):
            raise Refused(403, "", "Forbidden: you do not have write access")
        return found

    # ---- routes: each returns status, value, headers ----

    def create(self) -> tuple[int, Any, dict[str, str]]:
        user, role = self._user()
        repo, wanted = self._json_repo(), json.loads(self.body)
        url = {"url": f"{self.server.url}/{repo}", "name": repo}
        if repo in self.server.repositories:
            return 409, {**url, "error": "You already created this model repo"}, {}
        if not user:
            raise Refused(401, "", "Invalid username or password.")
        if role != "write" or user != repo.split("/")[-2]:
            raise Refused(403, "", "Forbidden: you do not have the rights to create a model under this namespace")
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self.server.repositories[repo] = Repository(private)
        self.server.repositories[repo].add("initial commit", {".gitattributes": File(b"*.safetensors lfs\n", False)})
        return 200, url, {}

    def whoami(self) -> tuple[int, Any, dict[str, str]]:
        user, role = self._user()
        if not user:
            raise Refused(401, "", "Invalid username or password.")
        return 200, {"name": user, "orgs": [], "auth": {"accessToken": {"role": role}}}, {}

    def validate(self) -> tuple[int, Any, dict[str, str]]:
        errors = [] if json.loads(self.body)["content"].startswith("---\n") else [{"message": "no metadata"}]
        return (400 if errors else 200), {"errors": errors, "warnings": []}, {}

    def info(self, repo: str, rev: str | None = None) -> tuple[int, Any, dict[str, str]]:
        found = self._repository(repo)
        commit = found.at(rev)
        siblings = [{"rfilename": path} for path in commit.files]
        return (
            200,
            {"id": repo.removeprefix("spaces/"), "sha": commit.oid, "private": found.private, "siblings": siblings},
            {},
        )

    def tree(self, repo: str, rev: str) -> tuple[int, Any, dict[str, str]]:
        return 200, [file.entry(path) for path, file in self._repository(repo).at(rev).files.items()], {}

    def refs(self, repo: str) -> tuple[int, Any, dict[str, str]]:
        found = self._repository(repo)
        tags = [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid} for name, oid in found.tags.items()]
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": found.main.oid}
        return 200, {"branches": [main], "tags": tags, "converts": []}, {}

    def tag(self, repo: str, rev: str) -> tuple[int, Any, dict[str, str]]:
        found = self._repository(repo, write=True)
        name = json.loads(self.body)["tag"]
        if name in found.tags:
            raise Refused(409, "", f"Tag {name} already exists")
        found.tags[name] = found.at(rev).oid
        return 200, {}, {}

    def preupload(self, repo: str, rev: str) -> tuple[int, Any, dict[str, str]]:
        commit = self._repository(repo, write=True).at(rev)
        answer = []
        for file in json.loads(self.body)["files"]:
            is_lfs = file["path"].endswith(".safetensors") or file["size"] >= LFS_FROM
            old = commit.files.get(file["path"])
            oid = None if old is None else old.sha256 if old.is_lfs else old.sha1
            mode = "lfs" if is_lfs else "regular"
            answer.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return 200, {"files": answer}, {}

    def batch(self, repo: str) -> tuple[int, Any, dict[str, str]]:
        self._repository(repo, write=True)
        objects = []
        for item in json.loads(self.body)["objects"]:
            action = {"upload": {"href": f"{self.server.storage}/lfs/{item['oid']}", "header": {}}}
            objects.append(item if item["oid"] in self.server.blobs else {**item, "actions": action})
        return 200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"}

    def put(self, oid: str) -> tuple[int, Any, dict[str, str]]:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "", "the content is not what its name says")
        self.server.blobs[oid] = self.body
        return 200, {}, {}

    def commit(self, repo: str, rev: str) -> tuple[int, Any, dict[str, str]]:
        found = self._repository(repo, write=True)
        if self.server.before_commit is not None:
            self.server.before_commit(repo)
        lines = [json.loads(line) for line in self.body.decode().splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, found.main.oid):
            raise Refused(412, "", "The main branch has changed: a commit has happened since")
        files = dict(found.main.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                content = value["content"]
                is_coded = value.get("encoding") == "base64"
                files[value["path"]] = File(base64.b64decode(content) if is_coded else content.encode(), False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.server.blobs:
                    raise Refused(400, "", f"the blob of {value['path']} was never uploaded")
                files[value["path"]] = File(self.server.blobs[value["oid"]], True)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        made = found.add(header["summary"], files)
        url = f"{self.server.url}/{repo}/commit/{made.oid}"
        return 200, {"success": True, "commitUrl": url, "commitOid": made.oid, "hookOutput": ""}, {}

    def head(self, repo: str, rev: str, path: str) -> tuple[int, Any, dict[str, str]]:
        return self.resolve(repo, rev, path)

    def resolve(self, repo: str, rev: str, path: str) -> tuple[int, Any, dict[str, str]]:
        commit = self._repository(repo).at(rev)
        if path not in commit.files:
            raise Refused(404, "EntryNotFound", "Entry not found")
        file = commit.files[path]
        size = str(len(file.content))
        if file.is_lfs:
            names = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": size, "Content-Length": "0"}
            location = f"{self.server.storage}/lfs/{file.sha256}"
            return 302, b"", {"X-Repo-Commit": commit.oid, "Location": location, **names}
        return 200, file.content, {"X-Repo-Commit": commit.oid, "ETag": f'"{file.sha1}"', "Content-Length": size}

    def blob(self, oid: str) -> tuple[int, Any, dict[str, str]]:
        return 200, self.server.blobs[oid], {"ETag": f'"{oid}"', "Content-Length": str(len(self.server.blobs[oid]))}
