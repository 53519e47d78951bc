"""A finished run as one graph for other runtimes, from token ids or the columns of a table to logits."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data import load_rows
from ..errors import PublishError
from ..features import TextGraph, graph_inputs, open_onnx, silent, text_columns, trace, write_onnx
from ..files import write_json, writing
from ..modeling import prepare_tokenizer
from ..runs import PROBE_TEXTS, TABLE, Run

GRAPHS = {"onnx": "onnx/model.onnx", "torch-export": "model.pt2"}
INT8 = "onnx/model_quantized.onnx"
TOLERANCE = 1e-4
TEXTS = (*PROBE_TEXTS, "", "плохой фильм", "word " * 600)
BATCH = 32


class _OfFeatures(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        return self.model(features).logits


def export_graph(
    run_dir: str | Path, folder: str | Path, format: str = "onnx", int8: bool = False
) -> dict[str, float]:
    """Write a finished run as a graph with dynamic batch and length, beside its tokenizer and labels.

    The graph holds everything from token ids to logits: backbone, pooling, normalisation, head. It is compared with
    the model before it is written.

    Args:
        run_dir: a finished run directory.
        folder: a new folder. ONNX is laid out in it as transformers.js looks for it.
        format: `"onnx"` (default) or `"torch-export"`, a `torch.export` program.
        int8: also write a graph with weights of 8 bits (ONNX only), and measure both on the validation rows.

    Returns:
        `difference`: of the logits from the model's, the largest, relative to those above 1. With `int8` also the
        run's best metric of both graphs on the validation rows: `validation` and `validation_int8`.

    Raises:
        CheckpointError: if the run is not finished.
        PublishError: if the folder is there, a package is missing, or the graph cannot be made or answers otherwise.
    """
    folder, run = Path(folder), Run(run_dir)
    if format not in GRAPHS:
        raise PublishError(f"format={format!r} is unknown: use {' or '.join(GRAPHS)}")
    if int8 and (format != "onnx" or run.kind == "table"):
        raise PublishError("int8 is for the ONNX graph of a run of texts: leave it out")
    if run.recipe.reads_images:
        raise PublishError(f"{run.path} is of images, and a graph of texts or of a table: use torch.onnx.export")
    if folder.exists():
        raise PublishError(f"{folder} is there already: choose another folder")
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        with writing(folder.parent), silent():
            part.mkdir(parents=True)
            found = _write(run, part, format, int8)
            part.rename(folder)
    except ImportError as error:
        raise PublishError(f"format={format!r} needs {error.name}: pip install 'cr-hf[onnx]'") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return found


def _write(run: Run, folder: Path, format: str, int8: bool) -> dict[str, float]:
    rows = _tried_rows(run)
    path = folder / GRAPHS[format]
    path.parent.mkdir(exist_ok=True)
    expected = [_answer(run, batch) for batch in rows]
    try:
        program = _trace(run, rows[0])
        if format == "onnx":
            import onnxruntime  # noqa: F401

            write_onnx(program, path, run.model, "logits")
        else:
            torch.export.save(program, path)
    except ImportError:
        raise
    except Exception as error:  # whatever a backbone or an exporter raises
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        cause = (str(root).splitlines() or [type(root).__name__])[0]
        raise PublishError(f"{run.path}: its model cannot be exported as {format} ({cause})") from error
    answer = open_onnx(path) if format == "onnx" else _program(path)
    found = [
        np.abs(answer(batch) - own) / np.maximum(1, np.abs(own)) for batch, own in zip(rows, expected, strict=True)
    ]
    worst = max(float(difference.max()) for difference in found)
    if not worst <= TOLERANCE:
        raise PublishError(f"{run.path}: the graph gives other logits than the model (by {worst:.2g}): not written")
    _write_companions(run, folder)
    return {"difference": worst, **(_quantize(run, folder) if int8 else {})}


def _tried_rows(run: Run) -> list[dict[str, Tensor]]:
    """Inputs to trace and compare with: texts together and alone, or rows in the range of the training rows."""
    if run.kind == "table":
        norm = run.model.classifier.feature_norm
        drawn = torch.randn(8, run.model.config.in_features, generator=torch.Generator().manual_seed(0))
        scale = getattr(norm, "scale", torch.ones(1))
        rows = drawn / torch.where(scale == 0, 1.0, scale) + getattr(norm, "mean", 0.0)
        return [{"features": rows}, {"features": rows[:1]}]
    pairs = list(TEXTS[::-1]) if run.recipe.data.text_pair_column else None
    alone = [_tokens(run, [TEXTS[0]], pairs and [TEXTS[1]])]
    return [_tokens(run, list(TEXTS), pairs), *alone]


def _tokens(run: Run, texts: list[str], pairs: list[str] | None = None) -> dict[str, Tensor]:
    tokenizer = prepare_tokenizer(run.tokenizer, run.model.config.max_length_for(run.tokenizer))
    encoded = tokenizer(texts, pairs, padding=True, truncation=True, return_tensors="pt")
    return graph_inputs(run.model, encoded)


def _answer(run: Run, batch: dict[str, Tensor]) -> NDArray[Any]:
    with torch.no_grad():
        return run.model(**batch).logits.numpy()


def _trace(run: Run, batch: dict[str, Tensor]) -> Any:
    model = run.model.requires_grad_(False)
    if run.kind == "table":
        return trace(_OfFeatures(model), batch, None)
    graph = TextGraph(model, lambda **inputs: model(**inputs).logits)
    return trace(graph, batch, model.config.max_length_for(run.tokenizer))


def _program(path: Path) -> Any:
    graph = torch.export.load(path).module()
    return lambda batch: graph(**batch).detach().numpy()


def _write_companions(run: Run, folder: Path) -> None:
    """What turns rows into inputs and logits into labels: config.json is one that every loader of ONNX knows."""
    config = run.model.config
    labels = {"id2label": config.id2label, "label2id": config.label2id, "problem_type": config.problem_type}
    if run.kind == "table":
        shutil.copyfile(run.path / TABLE, folder / TABLE)
        write_json(folder / "config.json", labels)
        return
    kind = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
    write_json(folder / "config.json", {**kind, **labels})
    prepare_tokenizer(run.tokenizer, config.max_length_for(run.tokenizer)).save_pretrained(folder)


def _quantize(run: Run, folder: Path) -> dict[str, float]:
    """Write the graph of 8 bits, and compare both on the validation rows."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(folder / GRAPHS["onnx"], folder / INT8)
    task = run.task
    rows = load_rows(run.data(), task.problem_type, splits=["validation"])["validation"]
    columns = [column[:] for column in text_columns(rows)]
    found = {}
    for name, file in (("validation", GRAPHS["onnx"]), ("validation_int8", INT8)):
        answer = open_onnx(folder / file)
        starts = range(0, len(rows), BATCH)
        logits = [answer(_tokens(run, *(column[at : at + BATCH] for column in columns))) for at in starts]
        found[name] = float(task.measure(np.concatenate(logits), np.asarray(rows["label"][:]))[task.best_metric])
    return found
