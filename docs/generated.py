"""Pages of the site that are made from the sources: the README, keys of recipes, commands, and files of the root."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import griffe
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

from cr_hf.cli import app
from cr_hf.runs.recipe import NOT_OF_MODEL

logger = logging.getLogger("mkdocs.hooks.generated")
ROOT = Path(__file__).resolve().parents[1]
AT_THE_ROOT = {"index.md": "README.md", **{name: name for name in ("RESULTS.md", "CHANGELOG.md", "SECURITY.md")}}
AT_THE_ROOT["CONTRIBUTING.md"] = "CONTRIBUTING.md"
LINK = re.compile(r"\[([^\]]*)\]\((?!\w+:)([^)#\s]+)(#[^)]*)?\)")
KEYS = {
    "What is trained, and where it goes": "runs.recipe.Recipe",
    "The model": "modeling.configuration_cr.CRConfig",
    "Training": "training.arguments.CRTrainingArguments",
    "Data, below `data:`": "data.config.DataConfig",
}
NO_KEYS = NOT_OF_MODEL | {"model", "training", "data", "**kwargs"}
ABOUT_KEYS = """# Recipes, key by key

A recipe is one flat YAML file. Every key can also be given on the command line as `key=value`, and a key of `data:` as
`data.key=value`. A key that does not exist is refused at once, with the nearest one that does. The recipes of the
repository are in `recipes/`; a run keeps the one it was trained with, as `recipe.yaml`.
"""
OF_TRANSFORMERS = "Every other field of transformers' `TrainingArguments` is a key as well, such as `learning_rate`."


def keys_page() -> str:
    """The keys of a recipe, out of the docstrings of the classes that have them."""
    package = griffe.load("cr_hf", search_paths=[ROOT])
    parts = [ABOUT_KEYS]
    for title, name in KEYS.items():
        found = package[name]
        parts += [f"## {title}\n", "| key | default | meaning |", "|---|---|---|"]
        for section in found.docstring.parse("google", warnings=False):
            for key in section.value if section.kind.value == "parameters" else ():
                if key.name not in NO_KEYS:
                    meaning = " ".join(key.description.split()).replace("|", "\\|")
                    parts.append(f"| `{key.name}` | {_default(found, key.name)} | {meaning} |")
        parts.append(f"\n{OF_TRANSFORMERS}\n" if name.startswith("training") else "")
    return "\n".join(parts)


def _default(found: Any, name: str) -> str:
    """The default of a field as a recipe writes it."""
    value = found.members[name].value if name in found.members else None
    if value is None:
        return "required"
    text = re.sub(r"field\(default=([^,]+),.*", r"\1", str(value)).replace("_", "")
    words = {"None": "null", "True": "true", "False": "false"}
    return f"`{words.get(text, str(value) if text.startswith(chr(39)) else text).strip(chr(39))}`"


def commands_page() -> str:
    """What `--help` says, of every command."""
    command = typer.main.get_command(app)
    context = command.make_context("cr-hf", [], resilient_parsing=True)
    text = get_docs_for_click(obj=command, ctx=context, name="cr-hf")
    return text.replace("# `cr-hf`", "# Commands", 1)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    pages = {page: (ROOT / name).read_text(encoding="utf-8") for page, name in AT_THE_ROOT.items()}
    pages |= {"recipes.md": keys_page(), "commands.md": commands_page()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links as GitHub has them into links of the site; those to files it lacks become plain text."""

    def mend(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2].removeprefix("../").removeprefix("docs/"), found[3] or ""
        target = "index.md" if target == "README.md" else target
        if files.get_file_from_path(target) is not None:
            return f"[{text}]({target}{anchor})"
        if not (ROOT / target).exists():
            logger.warning("%s links to %s, which is not there", page.file.src_uri, target)  # refused by --strict
        return text

    return LINK.sub(mend, markdown)
