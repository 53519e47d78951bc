"""The commands that bring a finished run elsewhere: to the Hub, into other runtimes, onto a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .errors import RecipeError


def publish(
    run: Annotated[Path, typer.Argument(help="A finished run directory.")],
    repo: Annotated[str, typer.Argument(help="namespace/name on the Hub.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write and check a folder, upload nothing.")] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Of --dry-run; published/NAME beside the run by default.")
    ] = None,
    head_only: Annotated[
        bool | None, typer.Option("--head-only/--whole", help="Without the frozen backbone's weights, or with them.")
    ] = None,
    private: Annotated[bool | None, typer.Option("--private/--public", help="Of a repository that is made.")] = None,
    tag: Annotated[str | None, typer.Option(help="Tag of the commit, such as v1.")] = None,
    license: Annotated[str | None, typer.Option(help="Of the model, as the Hub names it: apache-2.0, ...")] = None,
    space: Annotated[str | None, typer.Option(help="namespace/name of a Space: the page of `cr-hf demo` too.")] = None,
) -> None:
    """Publish a finished run on the Hub in one verified commit, or write what would be published to a folder."""
    from . import hub

    for name in (repo, space):
        if name is not None:
            hub.check_name(name)
    from .progress import set_verbosity
    from .runs import Run

    set_verbosity(quiet=False, verbose=False)
    if dry_run:
        if space:
            raise RecipeError(
                "--dry-run writes the model alone: leave out --space, and look at the page with `cr-hf demo`"
            )
        target = folder or run.parent / "published" / repo.split("/")[-1]
        written = hub.dry_run(run, repo, target, head_only=head_only, license=license)
        total = sum(path.stat().st_size for path in written.rglob("*") if path.is_file())
        typer.echo(f"Checked; {total / 1e6:.1f} MB in {written}. Nothing was uploaded.")
        return
    if space:
        hub.check_demo(Run(run))
        hub.check_access(space)
    done = [hub.publish_run(run, repo, private=private, tag=tag, head_only=head_only, license=license)]
    if space:
        done.append(hub.publish_space(repo, space, private=private))
    for one in done:
        news, named = "Published" if one.changed else "Nothing changed", f", tag {one.tag}" if one.tag else ""
        typer.echo(f"{news}: {one.repo_id} at commit {one.commit[:12]}{named}; downloaded and verified.")


def export(
    run: Annotated[Path, typer.Argument(help="A finished run directory.")],
    format: Annotated[str, typer.Option(help="onnx (for onnxruntime, OpenVINO, browsers) or torch-export.")] = "onnx",
    output: Annotated[Path | None, typer.Option(help="A new folder; exported/NAME beside the run by default.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Also weights of 8 bits, measured on validation rows.")] = False,
) -> None:
    """Write a finished run as one graph, from token ids (or the columns of a table) to logits, for other runtimes."""
    from .hub import export_graph
    from .progress import set_verbosity

    set_verbosity(quiet=False, verbose=False)
    target = output or run.parent / "exported" / run.name
    found = export_graph(run, target, format, int8)
    measured = "".join(f"; {name} {value:.4f}" for name, value in found.items() if name != "difference")
    typer.echo(f"Checked: logits within {found['difference']:.1g} of the model's{measured}. In {target}.")


def demo(
    run: Annotated[Path, typer.Argument(help="A finished run directory, of single texts and classes.")],
    port: Annotated[int, typer.Option(help="Of http://127.0.0.1.", min=1, max=65535)] = 7860,
) -> None:
    """Serve a page to try a run on: classes, certified radius, sensitivity to words, typing errors by a slider."""
    from .hub import serve
    from .runs import Run

    serve(Run(run), port)
