"""The commands of `cr-hf cache`."""

from __future__ import annotations

import typer

cache = typer.Typer(help="Features kept on disk, so that every text is encoded once.", no_args_is_help=True)


@cache.command("list")
def cache_list() -> None:
    """Show what is kept: size, rows, age in days and what it is."""
    from .features import list_caches

    for entry in list_caches():
        state = "" if entry.complete else "  (incomplete)"
        about = f"{entry.texts:9,} rows {entry.age / 86400:6.1f} d  {entry.description}{state}"
        typer.echo(f"{entry.size / 2**20:9.1f} MiB {about}")


@cache.command("clear")
def cache_clear() -> None:
    """Remove it all; it is made again when it is needed."""
    from .features import clear_caches

    removed = clear_caches()
    typer.echo(f"removed {len(removed)} entries, {sum(entry.size for entry in removed) / 2**20:.1f} MiB")
