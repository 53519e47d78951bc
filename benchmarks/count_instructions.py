"""Machine instructions of a head step, of encoding 32 texts and of a prediction, counted by valgrind on tiny networks.

Counts do not depend on what else runs on a machine, so a slowdown of our own code shows where seconds would hide it;
imports and the first calls are not counted. Prints how far each moved from benchmarks/results/instructions.json, and
ends with 1 if one grew by more than 10 % on the same versions and processor; `--write` makes that file anew.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import mmap
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

BASELINE = Path(__file__).resolve().parent / "results" / "instructions.json"
TOLERANCE = 0.10
VERSIONS = ("python", "torch", "transformers", "tokenizers", "numpy")
# One thread, and hashes that are the same in every process.
FIXED = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
VOCABULARY = "the a film plot actor scene is was not very good bad dull funny slow loud bright ."
WORDS = VOCABULARY.split()
# A request to valgrind is a word that means nothing to a processor: `rax` points at it, `rdi` rotates back to itself.
REQUEST = bytes.fromhex("4889f8 31d2 48c1c703 48c1c70d 48c1c73d 48c1c733 4887db 4889d0 c3")
ZERO, DUMP, START = 0x43540001, 0x43540003, 0x43540004


def workloads() -> dict[str, Callable[[], object]]:
    """What is counted, ready to run."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, PreTrainedTokenizerFast
    from transformers.utils import logging

    from cr_hf import CRConfig, CRForFeatureClassification, CRForSequenceClassification
    from cr_hf.features.encode import encode_texts

    torch.manual_seed(0)
    logging.disable_progress_bar()  # it comes after two seconds
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    backbone = BertConfig(vocab_size=len(vocabulary), **sizes).to_dict()
    texts_model = CRForSequenceClassification(
        CRConfig(backbone_config=backbone, num_labels=5, freeze_backbone=True, feature_norm="layer_norm")
    ).eval()
    texts = [" ".join(WORDS[(row + at) % len(WORDS)] for at in range(4 + row % 13)) for row in range(32)]

    head = CRForFeatureClassification(CRConfig(in_features=64, num_labels=5, hidden_sizes=[32, 32]))
    features, labels = torch.randn(32, 64), torch.arange(32) % 5
    head.fit_feature_norm(features)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        head.train()(features=features, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return {
        "head step": step,
        "encode 32 texts": lambda: encode_texts(texts_model, tokenizer, texts, cache_dir=False),
        "predict 1 text": lambda: texts_model.predict_texts(texts[:1], tokenizer),
    }


def count_here() -> None:
    """Run under valgrind: three calls of each workload between two requests, after two that warm up."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(REQUEST)
    ask = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))

    def request(code: int, name: bytes = b"") -> None:
        text = ctypes.c_char_p(name)
        ask(ctypes.byref((ctypes.c_uint64 * 6)(code, ctypes.cast(text, ctypes.c_void_p).value or 0)))

    work = workloads()
    gc.collect()
    gc.disable()
    request(START)
    for name, call in work.items():
        for warming_up in (True, False):
            request(ZERO)
            for _ in range(2 if warming_up else 3):
                call()
            if not warming_up:
                request(DUMP, name.encode())


def count() -> dict[str, int]:
    """Instructions of three calls of each workload."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        valgrind = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
        subprocess.run([*valgrind, sys.executable, __file__, "--here"], check=True, env={**os.environ, **FIXED})
        files = [path.read_text() for path in sorted(Path(folder).iterdir()) if "Client Request: " in path.read_text()]
    pattern = re.compile(r"Client Request: (.*?)\n.*^(?:summary|totals): (\d+)", re.DOTALL | re.MULTILINE)
    return {found[1]: int(found[2]) for found in map(pattern.search, files) if found}


def environment() -> dict[str, str]:
    """Versions, and the processor, of which valgrind shows programs no more than AVX2."""
    valgrind = subprocess.run(["valgrind", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    processor = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    versions = {name: version(name) for name in VERSIONS[1:]}
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        **versions,
        "valgrind": valgrind,
        "processor": processor[1] if processor else platform.machine(),
    }


def main() -> int:
    """Compare with the committed counts, or write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="make the committed counts anew")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        count_here()
        return 0
    if shutil.which("valgrind") is None or platform.machine() != "x86_64":
        print("instructions are not counted: that takes valgrind and an x86_64 processor")
        return 0
    counts = count()
    if options.write:
        BASELINE.write_text(json.dumps({"environment": environment(), "instructions": counts}, indent=2))
    baseline = json.loads(BASELINE.read_text())
    moved = {name: count / baseline["instructions"][name] - 1 for name, count in counts.items()}
    for name, share in moved.items():
        print(f"{name:16}{counts[name] / 3e6:8.2f} million instructions, {100 * share:+.1f} %")
    found = environment()
    # Libraries choose their code by the processor.
    judged = (*VERSIONS, "processor")
    others = [f"{name} {found[name]}" for name in judged if found[name] != baseline["environment"][name]]
    if others:
        print(f"counted with another environment than the baseline ({', '.join(others)}): shown and not judged")
    return int(not others and max(moved.values()) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
