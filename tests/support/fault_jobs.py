"""The jobs that faults disturb: encoding, training and a study."""

import hashlib
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from children import Child, start_command
from transformers import AutoTokenizer

import cr_hf.features.encode
from cr_hf import CRForFeatureClassification, CRForSequenceClassification
from cr_hf.errors import CRError
from cr_hf.features.encode import encode_texts
from cr_hf.training.checkpoints import damage_of

DEMO = Path(__file__).resolve().parents[2] / "recipes" / "demo.yaml"
TINY = ["data.max_train_samples=120", "data.max_eval_samples=40", "hidden_sizes=[8]", "use_cpu=true"]
TRAIN = [*TINY, "num_train_epochs=6", "disable_tqdm=true", "per_device_train_batch_size=16", "save_total_limit=3"]
STUDY = [*TINY, "--heads", "linear,cr+dreg", "--fractions", "0.5,1", "--seeds", "3", "--search-seeds", "2"]
TEXTS = [f"film {number} was {word}" for number in range(120) for word in ("good", "bad", "dull", "witty")]
SHARD_ROWS = 16
OUT = "out"


@dataclass
class Job:
    """What is disturbed.

    Args:
        backbone: folder of a tiny one.
        folder: an empty one; every try gets a folder in it.
    """

    backbone: Path
    folder: Path
    tries: int = 0
    whole: Any = field(default=None, init=False)
    seconds: float = field(default=0.0, init=False)

    def start(self, place: Path, **limits: Any) -> Child:
        """Begin it, or go on with it, in a process of its own."""
        raise NotImplementedError

    def result(self, place: Path) -> Any:
        """All that must not depend on a fault."""
        raise NotImplementedError

    def is_finished(self, place: Path) -> bool:
        """Whether there is nothing to go on with."""
        return False

    def what_is_left_loads(self, place: Path) -> str:
        """What is wrong with what a fault left; empty if it can be used."""
        return ""

    def new_place(self) -> Path:
        """A folder for one try."""
        self.tries += 1
        place = self.folder / f"{type(self).__name__.lower()}-{self.tries}"
        place.mkdir(parents=True)
        return place

    def run_whole(self) -> None:
        """Once undisturbed: the result and how long it takes."""
        for _ in range(2):  # the first fills the caches
            place = self.new_place()
            started = time.perf_counter()
            ended = self.start(place).wait()
            assert ended.code == 0, ended.errors
            self.seconds = time.perf_counter() - started
            self.whole = self.result(place)

    def goes_on(self, place: Path, loads: bool = True) -> str:
        """What is wrong with the result after going on; empty if it is as if nothing had happened.

        Args:
            place: of the try.
            loads: every checkpoint that is left must load.
        """
        if loads and (problem := self.what_is_left_loads(place)):
            return problem
        if not self.is_finished(place):
            ended = self.start(place).wait()
            if ended.code:
                return f"does not go on: {ended.errors[-1500:]}"
        return "" if self.result(place) == self.whole else "another result"


class Training(Job):
    """A head on frozen features, through the command line."""

    def start(self, place: Path, **limits: Any) -> Child:
        words = ["train", str(DEMO), f"backbone={self.backbone}", f"output_dir={OUT}", *TRAIN, "--resume"]
        return start_command(words, place, **limits)

    def result(self, place: Path) -> Any:
        results = json.loads((place / OUT / "results.json").read_text(encoding="utf-8"))
        return (place / OUT / "model.safetensors").read_bytes(), results["metrics"], results["training"]["steps"]

    def is_finished(self, place: Path) -> bool:
        return (place / OUT / "results.json").is_file()

    def what_is_left_loads(self, place: Path) -> str:
        for checkpoint in (place / OUT / "checkpoints").glob("checkpoint-*"):
            if damage_of(checkpoint) is not None:
                return f"{checkpoint.name} is torn"
            CRForFeatureClassification.from_pretrained(checkpoint)
        return ""


class Study(Job):
    """Two heads at two fractions of the labels."""

    def start(self, place: Path, **limits: Any) -> Child:
        words = ["study", str(DEMO), f"backbone={self.backbone}", *STUDY, "--output", OUT]
        return start_command(words, place, **limits)

    def result(self, place: Path) -> Any:
        study = json.loads((place / OUT / "study.json").read_text(encoding="utf-8"))
        del study["environment"]
        return study


class Encoding(Job):
    """Texts to features, which are kept."""

    def start(self, place: Path, **limits: Any) -> Child:
        def encode() -> None:
            cr_hf.features.encode.SHARD_ROWS = SHARD_ROWS
            try:
                encode_texts(*self.model_and_tokenizer(), TEXTS, cache_dir=place)
            except CRError as error:  # as the command line tells it
                print(f"error: {error}", file=sys.stderr)
                sys.exit(2)

        return Child(encode, **limits)

    def model_and_tokenizer(self) -> tuple[Any, Any]:
        """A frozen backbone."""
        model = CRForSequenceClassification.from_backbone(str(self.backbone), num_labels=2, freeze_backbone=True)
        return model, AutoTokenizer.from_pretrained(self.backbone)

    def result(self, place: Path) -> Any:
        return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.glob("*/*.npy")}
