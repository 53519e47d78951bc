"""A finished run as the repository that is published: written to a folder, checked, and loaded as a stranger would."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_hub import get_token
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import logging

from .._registration import model_class_of
from ..data import load_rows
from ..errors import CheckpointError, DataError, PublishError
from ..features import text_columns
from ..files import read_json, write_text
from ..modeling import CRConfig, CRModel
from ..runs import CARD, PROBE, RECIPE, RESULTS, TABLE, TOKENIZER_FILES, load_recipe, read_recipe
from ..training import load_model
from .card import write_card

logger = logging.get_logger(__name__)

COPIED = (RESULTS, PROBE, "study.json")
ALLOWED = re.compile(
    r"config\.json|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|README\.md|recipe\.yaml|LICENSE"
    r"|results\.json|probe\.json|study\.json|\w+\.py|\.eval_results/[\w.-]+\.yaml|\.gitattributes|(pre)?processor_config\.json|"
    + TOKENIZER_FILES.pattern
)
FORBIDDEN = (
    (re.compile(r"training_args\.bin"), "holds training arguments as a pickle"),
    (re.compile(r"(optimizer|scheduler|scaler|rng_state)[\w-]*\.\w+"), "is the state of an optimizer or a generator"),
    (re.compile(r".*\.(bin|pt|pth|pkl|pickle|ckpt|joblib)"), "is a pickle"),
    (re.compile(r".*\.(csv|tsv|jsonl|parquet|arrow|txt|gz)"), "may hold training data"),
)
PICKLE_STARTS = (*(b"\x80" + bytes([protocol]) for protocol in (2, 3, 4, 5)), b"PK\x03\x04")
TOKEN = re.compile(
    r"hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
ABSOLUTE = re.compile(r"""(?:^|[\s"'`=(\[])((?:/[\w.+-]+){2,}|~/[\w.+-]+|[A-Za-z]:\\+\w[^\s"']*)""", re.MULTILINE)
ESCAPED = re.compile(r"\\(u[\da-fA-F]{4}|x[\da-fA-F]{2}|U000[\da-fA-F]{5}|.)", re.DOTALL)
LETTERS = {"n": "\n", "t": "\t", "r": "\r"}
SHORTEST_TEXT = 30
"""Characters: a training text below this could stand in a card by chance."""
TOLERANCE = 1e-4
LOAD_TIMEOUT = 600
LOAD = """
import json, sys
sys.modules["cr_hf"] = None
import transformers
folder, probe = sys.argv[1], json.load(sys.stdin)
model = getattr(transformers, sys.argv[2]).from_pretrained(folder, trust_remote_code=True)
if "shapes" in probe:
    logits = model.probe(probe["shapes"])
else:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    logits = model.predict_texts(probe["texts"], tokenizer, probe.get("text_pairs"))
print("\\n" + json.dumps(logits.tolist()))
"""
HANDLER = """# What Inference Endpoints runs: texts in, classes and their probabilities out.
from transformers import pipeline


class EndpointHandler:
    def __init__(self, path=""):
        self.classify = pipeline("{task}", model=path, trust_remote_code=True)

    def __call__(self, data):
        inputs = data.get("inputs") if isinstance(data, dict) else None
        given = inputs if isinstance(inputs, list) else [inputs]
        if not given or any(one is None or isinstance(one, (bool, int, float, list)) for one in given):
            raise ValueError('"inputs" must be one input or a list of them, such as {{"inputs": ["a text"]}}')
        parameters = data.get("parameters") or {{}}
        if not isinstance(parameters, dict):
            raise ValueError('"parameters" must be names and values, such as {{"parameters": {{"top_k": 1}}}}')
        return self.classify(inputs, **{{"truncation": True, **parameters}})
"""


def export_run(
    run_dir: str | Path,
    folder: str | Path,
    name: str | None = None,
    head_only: bool | None = None,
    license: str | None = None,
    published_card: str | None = None,
) -> Path:
    """Write what would be published of a run, and nothing else, to a folder.

    Args:
        run_dir: a finished run directory.
        folder: a new or empty folder.
        name: Hub id that the card tells how to load.
        head_only: leave the frozen backbone out; by default as the run was saved.
        license: of the model, for the card.
        published_card: the card on the Hub, whose text written by hand is kept.

    Returns:
        The folder.

    Raises:
        CheckpointError: if the run is not finished.
        PublishError: if the run cannot be published in this form, or something in it must not be published.
    """
    run_dir, folder = Path(run_dir), Path(folder)
    require_results(run_dir)
    require_empty(folder)
    model, tokenizer = load_model(
        run_dir, model_class=model_class_of(read_json(run_dir / "config.json", "train it again"))
    )
    if getattr(model.config.backbone_config, "auto_map", None):
        raise PublishError(
            f"the backbone {model.config.backbone_config.model_type!r} needs code of its own repository, which a CR "
            "checkpoint cannot carry: use a backbone that transformers knows"
        )
    try:
        model.save_pretrained(folder, head_only=head_only)
    except (ValueError, OSError) as error:
        raise PublishError(f"{run_dir}: {str(error).splitlines()[0]}") from error
    tokenizer.save_pretrained(folder)
    for file in (file for file in COPIED if (run_dir / file).is_file()):
        shutil.copyfile(run_dir / file, folder / file)
    if (run_dir / RECIPE).is_file():
        values = _without_folders(read_recipe(run_dir / RECIPE))
        values.pop("output_dir", None)
        write_text(folder / RECIPE, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    add_remote_code(folder)
    write_text(folder / "handler.py", HANDLER.format(task=model.pipeline_tag))
    write_card(run_dir, folder, name=name, license=license, published=published_card)
    check_folder(folder, training_texts(run_dir))
    return folder


def auto_map(model_class: Any) -> dict[str, str]:
    """Where the Auto classes find the code of a model, for `config.json`."""
    classes = {"AutoConfig": CRConfig, "AutoModel": CRModel, model_class.auto_class: model_class}
    return {auto: f"{Path(inspect.getfile(one)).stem}.{one.__name__}" for auto, one in classes.items()}


def add_remote_code(folder: Path) -> None:
    """Put the model's code beside `config.json`, and name it there."""
    config = read_json(folder / "config.json", "export the run again")
    model_class = model_class_of(config)
    source = Path(inspect.getfile(model_class))
    for path in [source, *map(Path, get_relative_import_files(source))]:
        shutil.copyfile(path, folder / path.name)
    text = json.dumps({**config, "auto_map": auto_map(model_class)}, indent=2, sort_keys=True, ensure_ascii=False)
    write_text(folder / "config.json", text + "\n")


def check_folder(folder: Path, training_texts: Iterable[str] = ()) -> None:
    """Refuse, by name, what must never be published.

    Args:
        folder: what would be published.
        training_texts: none of these may stand in any file.

    Raises:
        PublishError: naming the file, what is wrong with it and the mend.
    """
    texts: dict[str, str] = {}
    for path in sorted(path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise PublishError(f"{name} is a link: put the file itself there")
        if not ALLOWED.fullmatch(name):
            reason = next((why for rule, why in FORBIDDEN if rule.fullmatch(path.name)), "is no part of a checkpoint")
            raise PublishError(f"{name} {reason}: remove it, it must not be published")
        content = path.read_bytes()
        if content.startswith(PICKLE_STARTS):
            raise PublishError(f"{name} is a pickle by its content: remove it, it must not be published")
        if path.suffix not in (".safetensors", ".model"):
            texts[name] = content.decode("utf-8", errors="replace")
    for required in ("config.json", CARD):
        if required not in texts:
            raise PublishError(f"{required} is missing in {folder}: export the run again")
    for name, text in texts.items():
        if TOKEN.search(text) or (get_token() or "\0") in text:
            raise PublishError(f"{name} holds an access token: remove it from the file and revoke it")
        found = _absolute_path(name, text)
        if found:
            raise PublishError(f"{name} holds the absolute path {found}: give paths relative to where you work")
    prose = "\n".join(_plain(text) for name, text in texts.items() if not name.endswith(".py"))
    for text in training_texts:
        if len(text) >= SHORTEST_TEXT and text in prose:
            raise PublishError(f"a training text is quoted ({text[:20]!r}...): remove it, the texts belong to others")


def check_loads(folder: Path) -> None:
    """Load the folder through its remote code in a fresh process that cannot import cr_hf, and compare logits.

    Raises:
        PublishError: if it does not load, or gives other logits on the probe texts than the run did.
    """
    try:
        probe = read_json(folder / PROBE, "train the run again")
        expected, _ = np.array(probe["logits"], np.float64), probe["shapes" if "shapes" in probe else "texts"]
        task = model_class_of(read_json(folder / "config.json", "export the run again")).auto_class
    except (CheckpointError, ValueError, KeyError, TypeError) as error:
        raise PublishError(f"{PROBE} is damaged ({error}): train the run again") from error
    with tempfile.TemporaryDirectory() as modules:
        done = subprocess.run(
            [sys.executable, "-c", LOAD, str(folder), task],
            input=json.dumps(probe),
            capture_output=True,
            text=True,
            timeout=LOAD_TIMEOUT,
            env={**os.environ, "HF_MODULES_CACHE": modules, "TOKENIZERS_PARALLELISM": "false"},
        )
    if done.returncode:
        cause = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise PublishError(f"{folder} does not load in a fresh process: {cause}")
    logits = np.array(json.loads(done.stdout.strip().splitlines()[-1]))
    same = logits.shape == expected.shape
    worst = float(np.max(np.abs(logits - expected) / np.maximum(1, np.abs(expected)))) if same else np.inf
    if not worst <= TOLERANCE:
        raise PublishError(
            f"{folder} gives other logits than the run did (by {worst:.2g}): the backbone or the run changed since"
        )


def training_texts(run_dir: str | Path) -> list[str]:
    """The texts a run was trained on, where its data can still be read; empty where they cannot."""
    if not (Path(run_dir) / RECIPE).is_file() or (Path(run_dir) / TABLE).is_file():
        return []
    recipe = load_recipe(Path(run_dir) / RECIPE)
    try:
        rows = load_rows(recipe.data, recipe.task.problem_type, splits=["train"])["train"]
    except (DataError, OSError) as error:
        logger.warning(f"the training texts are not at hand ({error}): whether a file quotes them was not checked")
        return []
    return [text for column in text_columns(rows) for text in column]


def _without_folders(values: Any) -> Any:
    """A recipe without the folders of one machine: of an absolute path its last part stays."""
    if isinstance(values, dict):
        return {key: _without_folders(value) for key, value in values.items()}
    if isinstance(values, str) and (Path(values).is_absolute() or values.startswith("~")):
        return Path(values).name
    return values


def _absolute_path(name: str, text: str) -> str | None:
    here = [str(path) for path in (Path.home(), Path.cwd(), Path(tempfile.gettempdir()), Path(sys.prefix))]
    for folder in here:
        if folder.count("/") > 1 and folder in text:
            return folder
    # A vocabulary may hold anything that looks like a path, and code its comments.
    if name.endswith(".py") or (TOKENIZER_FILES.fullmatch(name) and name != "tokenizer_config.json"):
        return None
    found = ABSOLUTE.search(text)
    return found.group(1) if found else None


def _plain(text: str) -> str:
    """JSON and YAML escape what a training text may hold."""
    shown = ESCAPED.sub(lambda m: chr(int(m[1][1:], 16)) if len(m[1]) > 1 else LETTERS.get(m[1], m[1]), text)
    return f"{text}\n{shown.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')}" if shown != text else text


def require_empty(folder: Path) -> None:
    """Refuse a folder that holds anything.

    Raises:
        PublishError: naming it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PublishError(f"{folder} is not an empty folder: choose another one, so that nothing else is published")


def require_results(run_dir: Path) -> None:
    """Refuse a folder that is no finished run of texts before anything is loaded.

    Raises:
        CheckpointError: naming what is missing.
        PublishError: for the run of a table.
    """
    for file in (RESULTS, "config.json", PROBE):
        if not (run_dir / file).is_file():
            raise CheckpointError(f"{run_dir} has no {file}: only a finished run can be published")
    if not read_json(run_dir / "config.json", "train it again").get("backbone_config"):
        raise PublishError(
            f"{run_dir} is the run of a table: classifiers on a backbone alone are published, keep it as a folder"
        )
