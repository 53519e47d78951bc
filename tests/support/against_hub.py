"""`cr-hf` and scripts against a local Hub, in processes that have imported the unmodified client with its address.

Importing takes seconds: one process does it, and every command runs in a fork of it.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from children import Child, Ended
from hub_server import HubServer


class Commands:
    """A fresh process that never saw another Hub, and runs commands in forks of itself.

    Args:
        server: the Hub.
        home: folder of the client's files; remove `hub` in it, and all has to be fetched again.
    """

    def __init__(self, server: HubServer, home: Path) -> None:
        self.home = home
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "DISABLE_SAFETENSORS_CONVERSION": "1", "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = str(Path(__file__).parent)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "against_hub"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def close(self) -> None:
        """End the process."""
        self.process.communicate(timeout=60)

    def command_line(self, *arguments: object, token: str = "hf_write") -> Ended:
        """`cr-hf` with these arguments."""
        return self._ask({"arguments": ["cr-hf", *map(str, arguments)], "token": token})

    def script(self, script: str, *arguments: object) -> Ended:
        """Python code, which finds its arguments in `sys.argv`."""
        return self._ask({"script": script, "arguments": ["-c", *map(str, arguments)], "token": "hf_write"})

    def _ask(self, wanted: dict[str, Any]) -> Ended:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(wanted) + "\n")
        self.process.stdin.flush()
        return Ended(**json.loads(self.process.stdout.readline()))


def run(wanted: dict[str, Any]) -> None:
    """In a fork: what was asked for."""
    import cr_hf.cli

    sys.argv, os.environ["HF_TOKEN"] = wanted["arguments"], wanted["token"]
    if "script" in wanted:
        exec(wanted["script"], {"__name__": "__main__"})
    else:
        cr_hf.cli.main()


def check_once(folder: Path) -> None:
    """Load in a fresh process, which takes seconds, what no earlier command has loaded; a card plays no part in it."""
    from cr_hf.hub.export import check_loads
    from cr_hf.hub.upload import folder_digests

    digests = {
        name: digest for name, digest in folder_digests(folder).items() if name != "README.md" and name[0] != "."
    }
    mark = Path(os.environ["HF_HOME"]) / hashlib.sha256(repr(digests).encode()).hexdigest()
    if not mark.exists():
        check_loads(folder)
        mark.touch()


def main() -> None:
    """Import what commands import, and run what stands on each line of the standard input."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: F401

    import cr_hf.hub.publish
    from cr_hf import CRTrainer  # noqa: F401

    cr_hf.hub.publish.check_loads = check_once
    torch.set_num_threads(1)
    for line in sys.stdin:
        wanted = json.loads(line)
        ended = Child(lambda wanted=wanted: run(wanted)).wait()
        print(json.dumps(vars(ended)), flush=True)


if __name__ == "__main__":
    main()
