"""Every fault on every route of a publish, against the server of `hub_server.py`, with clients in fresh processes.

`make hub-faults` runs it to write the figures of docs/publishing.md.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hub_server import Fault, HubServer

WORKERS = 8
READ = ("info", "tree", "refs", "head", "resolve", "blob")
WRITE = ("create", "validate", "preupload", "batch", "put", "commit", "tag")
EVERYWHERE = [
    *[("status", status) for status in (401, 403, 429, 500, 503)],
    *[(kind, 503) for kind in ("html", "reset", "drop", "truncate", "delay")],
]
UNRETRIED = ("info", "create", "validate", "commit", "refs", "tag")
ALWAYS = 10**6

CLIENT = """
import sys
sys.argv[0] = "cr-hf"  # as on the command line: transformers is not imported
import json
from pathlib import Path
import cr_hf.hub.upload
from cr_hf.errors import PublishError
assert "torch" not in sys.modules, "what uploads needs no model"

cr_hf.hub.upload.TIMEOUT = 1.0
for line in sys.stdin:
    wanted = json.loads(line)
    try:
        found = cr_hf.hub.upload.upload(Path(wanted.pop("folder")), **wanted)
        answer = {"commit": found.commit, "changed": found.changed}
    except PublishError as error:
        answer = {"error": str(error)}
    except Exception as error:
        answer = {"error": f"crashed with {error!r}"}
    print("answer", json.dumps(answer), flush=True)
"""


@dataclass
class Outcome:
    """What came of one fault.

    Args:
        fault: the fault.
        first: the client's answer under the fault.
        again: its answer to the same command without the fault; `None` where the first one succeeded.
        problem: what broke a promise, empty if nothing did.
    """

    fault: Fault
    first: dict[str, Any]
    again: dict[str, Any] | None
    problem: str

    @property
    def name(self) -> str:
        """Of the kind of fault, as a table shows it."""
        kind = str(self.fault.status) if self.fault.kind == "status" else self.fault.kind
        return f"{kind}, lasting" if self.fault.times == ALWAYS else kind


class Client:
    """A fresh process with the unmodified client, told what to publish line by line."""

    def __init__(self, server: HubServer, token: str | None = "hf_write") -> None:
        self.home = tempfile.TemporaryDirectory()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {
            "HF_ENDPOINT": server.url,
            "HF_HOME": self.home.name,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "1",
            "HF_HUB_ETAG_TIMEOUT": "1",
            "OMP_NUM_THREADS": "1",
        }
        if token:
            environment["HF_TOKEN"] = token
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate(timeout=60)
        self.home.cleanup()

    def send(self, folder: Path, repo_id: str, **options: Any) -> None:
        """Ask for a publish."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"folder": str(folder), "repo_id": repo_id, **options}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """What came of it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        assert self.process.stderr is not None
        raise AssertionError(f"the client died: {self.process.stderr.read()[-3000:]}")

    def publish(self, folder: Path, repo_id: str, **options: Any) -> dict[str, Any]:
        """Both."""
        self.send(folder, repo_id, **options)
        return self.answer()


def make_folder(folder: Path, size: int = 20_000) -> Path:
    """A small repository: text, text that is not ASCII, and weights that go through LFS."""
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n# 漢字 und Ümläute\n", encoding="utf-8")
    (folder / "config.json").write_text('{"id2label": {"0": "très bien"}}\n', encoding="utf-8")
    (folder / "model.safetensors").write_bytes(random.Random(0).randbytes(size))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def all_faults() -> list[Fault]:
    """Each kind once on each route it can hit, conflicts where they can occur, and faults that do not pass."""
    once = [
        Fault(route, kind, status, seconds=2.0 if kind == "delay" else 0.0)
        for route in READ + WRITE
        for kind, status in EVERYWHERE
        if not (route == "head" and kind in ("truncate", "html"))  # no body to cut
    ]
    once += [Fault(route, "status", 409) for route in ("create", "commit", "tag")]
    once.append(Fault("commit", "status", 412))
    lasting = [("status", 503), ("status", 401), ("reset", 503)]
    return once + [Fault(route, kind, status, times=ALWAYS) for route in UNRETRIED for kind, status in lasting]


def try_fault(server: HubServer, client: Client, fault: Fault, folder: Path, repo: str) -> Outcome:
    """Publish under a fault, and once more without it if that failed; say what broke a promise."""
    expected = contents(folder)
    server.struck.clear()
    server.blobs.clear()  # or nothing would be uploaded any more
    server.faults[:] = [replace(fault)]
    first = client.publish(folder, repo, tag="v1")
    server.faults.clear()
    problem, again = "", None
    if not server.struck:
        problem = "the fault did not strike"
    if "error" in first:
        known = server.repositories.get(repo)
        if known is not None and len(known.commits) > 1 and not expected.items() <= server.files(repo).items():
            problem = "main shows a part of the files"
        if "published" not in first["error"] or "\n" in first["error"]:
            problem = f"no clear error: {first['error']}"
        again = client.publish(folder, repo, tag="v1")
    if "error" in (again or first):
        return Outcome(fault, first, again, problem or "running it again did not complete it")
    repository = server.repositories[repo]
    if not expected.items() <= server.files(repo).items():
        problem = "main does not show the files"
    if len(repository.commits) != 2 or repository.tags.get("v1") != repository.main.oid:
        problem = f"{len(repository.commits) - 1} commits, tags {repository.tags}"
    return Outcome(fault, first, again, problem)


def try_all() -> list[Outcome]:
    """Every fault of `all_faults`."""
    faults = all_faults()
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_folder(Path(scratch) / "repository")

        waiting = iter(enumerate(faults))  # each takes the next, or all would wait for the slowest

        def work(_: int) -> list[Outcome]:
            with HubServer() as server, Client(server) as client:
                return [try_fault(server, client, fault, folder, f"me/fault-{number}") for number, fault in waiting]

        with ThreadPoolExecutor(WORKERS) as pool:
            return [outcome for outcomes in pool.map(work, range(WORKERS)) for outcome in outcomes]


def summarize(outcomes: list[Outcome]) -> dict[str, Any]:
    """Counts, in all and by kind of fault: published nevertheless, or one clear error and complete after a rerun."""
    tried, completed, refused = (Counter[str]() for _ in range(3))
    for outcome in outcomes:
        tried[outcome.name] += 1
        if not outcome.problem:
            (refused if outcome.again else completed)[outcome.name] += 1
    kinds = {
        name: {"tried": tried[name], "published": completed[name], "clear_error_and_rerun": refused[name]}
        for name in sorted(tried)
    }
    return {
        "tried": len(outcomes),
        "survived": completed.total() + refused.total(),
        "published": completed.total(),
        "clear_error_and_rerun": refused.total(),
        "routes": sorted({outcome.fault.route for outcome in outcomes}),
        "kinds": kinds,
    }


if __name__ == "__main__":
    results = try_all()
    for result in results:
        if result.problem:
            print(result.fault, result.first, result.again, result.problem, sep="\n  ")
    report = json.dumps(summarize(results), indent=2) + "\n"
    Path(sys.argv[1]).write_text(report, encoding="utf-8")
    print(report)
