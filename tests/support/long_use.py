"""A process that is used for long: what it holds of memory, files and temporary files, and predictions from threads.

`tests/reliability/test_long_use.py` uses it a little, `tests/support/soak.py` for long.
"""

import contextlib
import ctypes
import gc
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch

from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.train import train_recipe
from cr_hf.runs.use import Run

DEMO = Path(__file__).resolve().parents[2] / "recipes" / "demo.yaml"
TINY = ["data.max_train_samples=60", "data.max_eval_samples=30", "num_train_epochs=1", "hidden_sizes=[8]"]
TINY += ["use_cpu=true", "disable_tqdm=true"]
WORDS = "the a film plot was is not good bad dull witty boring superb zany !".split()  # noqa: SIM905
THREADS = 8
WARM_UP = 0.2
"""Share of the measurements that is left out: caches and allocators fill up first."""


def made_up_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 0 to 40 words."""
    drawn = random.Random(seed)
    return [" ".join(drawn.choices(WORDS, k=drawn.randrange(41))) for _ in range(count)]


def anonymous_memory() -> int:
    """Bytes that the process holds and no file backs, once glibc's malloc has given back what it keeps for reuse."""
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def open_files() -> int:
    """File descriptors in use."""
    return len(os.listdir("/proc/self/fd"))


def temporary_files() -> set[str]:
    """Names in the folder of temporary files."""
    return set(os.listdir(tempfile.gettempdir()))


def slope(steps: list[int], sizes: list[int]) -> dict[str, float]:
    """Bytes a step after the warm-up, by least squares, with a 95 % confidence interval."""
    start = int(WARM_UP * len(steps))
    along, size = np.array(steps[start:], float), np.array(sizes[start:], float)
    (rate, level), spread = np.polyfit(along, size, 1), np.square(along - along.mean()).sum()
    residuals = size - (level + rate * along)
    degrees = len(along) - 2
    reach = scipy.stats.t.ppf(0.975, degrees) * np.sqrt(np.square(residuals).sum() / degrees / spread)
    return {
        "bytes_a_step": float(rate),
        "interval_low": float(rate - reach),
        "interval_high": float(rate + reach),
        "measurements": len(along),
        "bytes_first": sizes[start],
        "bytes_last": sizes[-1],
        "bytes_most": max(sizes[start:]),
    }


def watched(steps: Iterator[int]) -> dict[str, Any]:
    """Memory along steps of a use, each told by how many have been done, and files before and after.

    The first step is part of the warm-up, so that files which stay open by design are not counted as leaks.
    """
    done, sizes = [next(steps)], [anonymous_memory()]
    gc.collect()
    files, temporary = open_files(), temporary_files()
    for step in steps:
        gc.collect()
        done.append(step)
        sizes.append(anonymous_memory())
    gc.collect()
    return {
        "steps": done[-1],
        "memory": slope(done, sizes),
        "open_files": [files, open_files()],
        "temporary_files_left": sorted(temporary_files() - temporary),
    }


def predicting(model: Any, tokenizer: Any, count: int, every: int) -> Iterator[int]:
    """Predictions in calls of 1 to 64 texts."""
    texts, sizes, done, told = made_up_texts(4000), random.Random(1), 0, 0
    while done < count:
        size = min(sizes.randrange(1, 65), count - done)
        start = sizes.randrange(len(texts) - size)
        logits = model.predict_texts(texts[start : start + size], tokenizer)
        assert logits.isfinite().all()
        done += size
        if done - told >= every or done == count:
            told = done
            yield done


def cycling(backbone: Path, folder: Path, count: int) -> Iterator[int]:
    """Train, save, load and predict, again and again in one directory; the results must be the same each time."""
    first = None
    recipe = load_recipe(DEMO, [f"backbone={backbone}", f"output_dir={folder}", *TINY])
    for cycle in range(count):
        train_recipe(recipe, overwrite=True)
        run = Run(folder)
        model, tokenizer = run.model, run.tokenizer
        logits = model.predict_texts(made_up_texts(20), tokenizer)
        first = logits if first is None else first
        assert torch.equal(logits, first), f"cycle {cycle} gave another model"
        yield cycle + 1


def compare_threads(model: Any, tokenizer: Any, calls: int, threads: int = THREADS) -> dict[str, int]:
    """Predictions from several threads at once beside those from one.

    Args:
        model: a classifier.
        tokenizer: of its backbone.
        calls: each of 1 to 32 texts.
        threads: at once.
    """
    texts, sizes = made_up_texts(1000, seed=2), random.Random(3)
    starts = [(sizes.randrange(900), sizes.randrange(1, 33)) for _ in range(calls)]

    def predict(where: tuple[int, int]) -> Any:
        start, size = where
        return model.predict_texts(texts[start : start + size], tokenizer)

    alone = [predict(where) for where in starts]
    with ThreadPoolExecutor(threads) as pool:
        together = list(pool.map(predict, starts))
    differing = sum(not torch.equal(one, other) for one, other in zip(alone, together, strict=True))
    return {"threads": threads, "calls": calls, "predictions": sum(len(one) for one in alone), "differing": differing}


def use(backbone: Path, folder: Path, predictions: int, cycles: int, calls: int) -> dict[str, Any]:
    """All of it in this process, with a folder of its own for temporary files."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder / "temporary")
    Path(tempfile.tempdir).mkdir(parents=True)
    recipe = load_recipe(DEMO, [f"backbone={backbone}", f"output_dir={folder / 'first'}", *TINY])
    run = Run(train_recipe(recipe))
    model, tokenizer = run.model, run.tokenizer
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "predictions": lambda: watched(predicting(model, tokenizer, predictions, max(100, predictions // 200))),
        "train_save_load_cycles": lambda: watched(cycling(backbone, folder / "cycles", cycles)),
        "threads": lambda: compare_threads(model, tokenizer, calls),
    }
    try:
        return {name: part() for name, part in parts.items()}
    finally:
        tempfile.tempdir = before
