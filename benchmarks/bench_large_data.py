"""Memory of a head that trains on features ten times as many: 65,000 and 650,000 rows of 2,688, kept on disk.

7 GB of disk are needed for a while. Anonymous memory (RssAnon of /proc/self/status, Linux) is what the rows would take
if they were read into memory; the pages of a mapped file are the system's to take back. Each size is measured in a
process of its own. Writes benchmarks/results/large_data.json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import RESULTS

from cr_hf import CRConfig, CRForFeatureClassification, CRTrainer, CRTrainingArguments
from cr_hf.features.encode import FeatureDataset, collate_features
from cr_hf.files import write_json
from cr_hf.runs.results import describe_machine

ROWS, WIDTH, CLASSES, STEPS = (65_000, 650_000), 2_688, 5, 400
LIMIT_GB, GROWTH = 2.0, 1.10


def anonymous_bytes() -> int:
    """Anonymous memory of this process."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.search(r"RssAnon:\s+(\d+) kB", status)[1])  # type: ignore[index]


def write_features(path: Path, rows: int) -> None:
    """Random features whose class can be learned, written a part at a time."""
    features = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, WIDTH))
    generator = np.random.default_rng(0)
    for start in range(0, rows, 5_000):
        features[start : start + 5_000] = generator.standard_normal((min(5_000, rows - start), WIDTH), np.float32)
    features.flush()


def train(path: Path) -> dict[str, Any]:
    """Train a head on a file of features: statistics over all rows, then steps on rows from everywhere."""
    features = np.load(path, mmap_mode="r")
    labels = np.arange(len(features)) % CLASSES
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            peak[0] = max(peak[0], anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    before, started = anonymous_bytes(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        arguments = CRTrainingArguments(
            output_dir=folder,
            max_steps=STEPS,
            per_device_train_batch_size=128,
            save_strategy="steps",
            save_steps=STEPS // 2,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        config = CRConfig(in_features=WIDTH, num_labels=CLASSES)
        CRTrainer(
            model=CRForFeatureClassification(config),
            args=arguments,
            train_dataset=FeatureDataset(features, labels),
            data_collator=collate_features,
        ).train()
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    return {"rows": len(features), "bytes_before": before, "bytes_peak": peak[0], "seconds": round(seconds, 1)}


def main() -> None:
    """Measure each size in its own process and write benchmarks/results/large_data.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where the features are written, by default a temporary folder")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.train:
        torch.manual_seed(0)
        print(json.dumps(train(asked.train)))
        return
    runs = []
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        for rows in ROWS:
            path = Path(folder) / "features.npy"
            write_features(path, rows)
            command = [sys.executable, __file__, "--train", str(path)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            runs.append(json.loads(output.splitlines()[-1]))
            print(runs[-1], flush=True)
            path.unlink()
    small, large = (run["bytes_peak"] for run in runs)
    result = {
        "environment": describe_machine(),
        "width": WIDTH,
        "steps": STEPS,
        "runs": runs,
        "growth": large / small,
        "targets": {"gigabytes": LIMIT_GB, "growth": GROWTH},
        "passed": large < LIMIT_GB * 1e9 and large <= GROWTH * small,
    }
    print(json.dumps(result))
    write_json(RESULTS / "large_data.json", result)


if __name__ == "__main__":
    main()
