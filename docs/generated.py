"""Pages of the site that are made from the sources: the README, keys of recipes, commands, and files of the root."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

from cr_hf.cli import app
from cr_hf.runs import recipe_keys

logger = logging.getLogger("mkdocs.hooks.generated")
ROOT = Path(__file__).resolve().parents[1]
AT_THE_ROOT = {"index.md": "README.md", **{name: name for name in ("RESULTS.md", "CHANGELOG.md", "SECURITY.md")}}
AT_THE_ROOT["CONTRIBUTING.md"] = "CONTRIBUTING.md"
LINK = re.compile(r"\[([^\]]*)\]\((?!\w+:)([^)#\s]+)(#[^)]*)?\)")
ABOUT_KEYS = """# Recipes, key by key

A recipe is one flat YAML file. Every key can also be given on the command line as `key=value`, and a key of `data:` as
`data.key=value`; `cr-hf keys` prints this page. A key that does not exist is refused, with the nearest one that
does. The recipes of the repository are in `recipes/`; a run keeps the one it was trained with, as `recipe.yaml`.
"""


def keys_page() -> str:
    """What `cr-hf keys` says."""
    parts = [ABOUT_KEYS]
    for group, keys in recipe_keys().items():
        parts += [f"## {group}\n", "| key | default | meaning |", "|---|---|---|"]
        for name, (default, meaning) in keys.items():
            text = meaning.replace("|", "\\|").replace("<", "&lt;")
            parts.append(f"| `{name}` | {f'`{default}`' if default else 'required'} | {text} |")
        parts.append("")
    return "\n".join(parts)


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
