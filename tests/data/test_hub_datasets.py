"""Data sets of the Hub, from a server on 127.0.0.1, by the unmodified client in processes of their own."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "sst5_finetune.yaml"
NAMES, COMMIT = ["low", "middle", "high"], "a" * 40
FILES = {
    f"{split}.jsonl": "\n".join(
        json.dumps({"text": f"{split} text {row}", "label": NAMES[row % 3]}) for row in range(rows)
    ).encode()
    for split, rows in (("train", 90), ("validation", 30), ("test", 30))
}


class Handler(BaseHTTPRequestHandler):
    """Answers what the client asks of the plain data set me/rows, and notes which files it reads."""

    asked: list[tuple[str, str, str | None]] = []  # noqa: RUF012

    def reply(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.asked.append((self.command, path, self.headers.get("Range")))
        name = path.rpartition("/")[2]
        if path in ("/api/datasets/me/rows", f"/api/datasets/me/rows/revision/{COMMIT}"):
            siblings = [{"rfilename": file} for file in FILES]
            self.send(200, json.dumps({"id": "me/rows", "sha": COMMIT, "tags": [], "siblings": siblings}).encode())
        elif path == f"/api/datasets/me/rows/tree/{COMMIT}":
            self.send(200, json.dumps([entry(file) for file in FILES]).encode())
        elif path.startswith("/datasets/me/rows/resolve/") and name in FILES:
            self.send_file(name)
        else:
            self.send(404, b'{"error": "Entry not found"}', {"X-Error-Code": "EntryNotFound"})

    do_GET = do_HEAD = do_POST = reply

    def send_file(self, name: str) -> None:
        content, wanted = FILES[name], self.headers.get("Range")
        headers = {"ETag": f'"{entry(name)["oid"]}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if wanted is None or self.command == "HEAD":
            self.send(200, content, headers)
            return
        start, _, end = wanted.removeprefix("bytes=").partition("-")
        stop = min(int(end) + 1 if end else len(content), len(content))
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        self.send(206, content[int(start) : stop], headers)

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing: the tests read `asked`."""


def entry(file: str) -> dict[str, object]:
    """As the Hub lists a file."""
    return {"type": "file", "path": file, "size": len(FILES[file]), "oid": hashlib.sha1(FILES[file]).hexdigest()}


@pytest.fixture
def hub() -> Iterator[str]:
    """Address of the running server."""
    Handler.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def in_a_fresh_process(command: list[str], endpoint: str, home: Path) -> subprocess.CompletedProcess[str]:
    own = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    environment = {**os.environ, **own, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, timeout=300, check=False
    )


@pytest.mark.slow
def test_training_rows_are_streamed_from_the_hub(hub: str, tiny_backbone: Callable[..., Path], tmp_path: Path) -> None:
    values = ["data.name=me/rows", f"data.label_names={NAMES}", "data.streaming=true", "max_steps=8", "use_cpu=true"]
    values += ["hidden_sizes=[8]", "eval_strategy=steps", "save_strategy=steps", "eval_steps=4", "save_steps=4"]
    values += [f"backbone={tiny_backbone('bert')}", f"output_dir={tmp_path / 'run'}"]
    done = in_a_fresh_process(["-m", "cr_hf.cli", "train", str(RECIPE), *values], hub, tmp_path / "home")
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert results["training"]["steps"] == 8, "more than one pass over 90 rows in batches of 32"
    assert results["data"]["source"] == "me/rows"
    assert results["data"]["labels"] == NAMES
    assert results["data"]["rows"] == {"validation": 30, "test": 30}
    reads = [bounds for command, path, bounds in Handler.asked if command == "GET" and path.endswith("/train.jsonl")]
    assert len(reads) > 1
    assert None not in reads, "train is read in ranges, never downloaded"


@pytest.mark.slow
def test_a_hub_data_set_is_loaded_and_no_network_is_said_at_once(hub: str, tmp_path: Path) -> None:
    code = """
import sys, time
from cr_hf.data import DataConfig, load_rows
from cr_hf.runs import build_classifier, load_recipe
start = time.monotonic()
try:
    print({name: len(rows) for name, rows in load_rows(DataConfig(name="me/rows")).items()})
except Exception as error:
    print(type(error).__name__, error)
    try:
        build_classifier(load_recipe(sys.argv[1], ["backbone=all-MiniLM-L6-v2"]), {})
    except Exception as error:
        print(type(error).__name__, error)
    assert time.monotonic() - start < 8
"""
    done = in_a_fresh_process(["-c", code, str(RECIPE)], hub, tmp_path / "one")
    assert done.stdout.strip() == "{'train': 90, 'validation': 30, 'test': 30}", done.stderr[-3000:]
    done = in_a_fresh_process(["-c", code, str(RECIPE)], "http://127.0.0.1:9", tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    data, backbone = done.stdout.splitlines()
    assert data.startswith("DataError Hub data set 'me/rows' cannot be loaded (no answer from http://127.0.0.1:9:")
    assert backbone.startswith("RecipeError backbone 'all-MiniLM-L6-v2' cannot be loaded (no answer from http://127.")
    assert "Retrying" not in done.stderr
