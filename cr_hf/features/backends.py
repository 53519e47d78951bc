"""Ways to run a frozen backbone: torch, and on the CPU one graph by OpenVINO or ONNX Runtime; in 32 bits or fewer."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import RecipeError, nearest
from ..modeling import CRForSequenceClassification
from .cache import Features

PACKAGES = {"torch": (), "openvino": ("openvino", "onnx", "onnxscript"), "onnx": ("onnxruntime", "onnx", "onnxscript")}
ENCODERS = ("torch", "torch-bf16", "openvino", "openvino-bf16", "onnx", "onnx-int8")
# What a processor must know, or fewer bits are slower; as Linux names it.
NEEDED = {"bf16": ("avx512_bf16", "amx_bf16"), "int8": ("avx512_vnni", "avx_vnni", "amx_int8")}
CPU_FLAGS = Path("/proc/cpuinfo")
TOLERANCE = 1e-4


def exact(encoder: str) -> str:
    """The same encoder in 32 bits."""
    return encoder.partition("-")[0]


def check_encoder(encoder: str, device: torch.device) -> None:
    """Refuse an encoder that is unknown, not installed or not for this machine.

    Raises:
        RecipeError: naming the mend.
    """
    if encoder not in ENCODERS:
        hint = nearest(encoder, ENCODERS) or f": use one of {', '.join(ENCODERS)}"
        raise RecipeError(f"encoder={encoder!r} is unknown{hint}")
    backend, _, precision = encoder.partition("-")
    missing = [name for name in PACKAGES[backend] if importlib.util.find_spec(name) is None]
    if missing:
        raise RecipeError(f"encoder={encoder!r} needs {missing[0]}: pip install 'cr-hf[fast]'")
    if device.type != "cpu":
        if backend != "torch":
            raise RecipeError(f"encoder={encoder!r} is for the CPU and the model is on {device.type}: use torch-bf16")
    elif precision:
        known = CPU_FLAGS.read_text().split() if CPU_FLAGS.is_file() else []
        if not set(NEEDED[precision]) & set(known):
            flags = " or ".join(NEEDED[precision])
            raise RecipeError(f"encoder={encoder!r} needs a processor with {flags}: use {backend}")


class FeatureRunner:
    """Runs a frozen backbone; calls of `encode_texts` with the same one share its graph.

    Args:
        model: its backbone, pooling and layers make the features; its weights must not change afterwards.
        encoder: one of `ENCODERS`.
        longest: tokens of a text, at most.

    Raises:
        RecipeError: if the encoder is not for this machine; from the first batch, if it cannot run this backbone.
    """

    def __init__(self, model: CRForSequenceClassification, encoder: str, longest: int) -> None:
        check_encoder(encoder, model.device)
        self.model, self.encoder, self.longest = model.evaluating(), encoder, longest
        self.backend, _, self.precision = encoder.partition("-")
        self._graph: Callable[[Mapping[str, Tensor]], Features] | None = None

    def __call__(self, inputs: Mapping[str, Tensor]) -> Features:
        """Features of a batch of token ids, shape (batch, in_features), float32."""
        if self.backend == "torch":
            return self._by_torch(inputs)
        taken = graph_inputs(self.model, inputs)
        if self._graph is None:
            try:
                with tempfile.TemporaryDirectory() as folder, silent():
                    self._graph = self._compiled(taken, Path(folder) / "model.onnx")
            except Exception as error:  # whatever a backbone or an exporter raises
                kind = self.model.config.backbone_config.model_type
                raise RecipeError(f"encoder={self.encoder!r} cannot run this backbone ({kind}): use torch") from error
            own = self._by_torch(inputs)
            difference = np.abs(self._graph(taken) - own) / np.maximum(1, np.abs(own))
            if not (self.precision or difference.max() <= TOLERANCE):
                raise RecipeError(f"encoder={self.encoder!r} gives other features than torch: use torch")
        return self._graph(taken)

    def _by_torch(self, inputs: Mapping[str, Tensor]) -> Features:
        device = self.model.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            passed = {name: values.to(device) for name, values in inputs.items()}
            return self.model.get_features(**passed).float().cpu().numpy()

    def _compiled(self, inputs: Mapping[str, Tensor], path: Path) -> Callable[[Mapping[str, Tensor]], Features]:
        # No size may be 1 where it is to vary.
        traced = {name: values.repeat(2, 2)[:, : self.longest] for name, values in inputs.items()}
        program = trace(TextGraph(self.model, self.model.get_features), traced, self.longest)
        write_onnx(program, path, self.model.backbone, "features")
        threads = torch.get_num_threads()
        if self.backend == "openvino":
            import openvino

            core = openvino.Core()
            core.set_property({"ENABLE_MMAP": False})  # the file is removed
            hints = {"INFERENCE_PRECISION_HINT": self.precision or "f32", "INFERENCE_NUM_THREADS": threads}
            request = core.compile_model(core.read_model(path), "CPU", hints).create_infer_request()
            return lambda batch: request.infer({name: values.numpy() for name, values in batch.items()})[0].copy()
        if self.precision == "int8":
            from onnxruntime.quantization import quantize_dynamic

            quantize_dynamic(path, path, per_channel=True, op_types_to_quantize=["MatMul", "Gemm"])
        return open_onnx(path, threads)


# ---- graphs ----


def graph_inputs(model: Any, encoded: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a tokenizer's tensors that a graph of the model reads."""
    takes_types = "token_type_ids" in inspect.signature(model.backbone.forward).parameters
    names = ("input_ids", "attention_mask", "token_type_ids")[: 2 + takes_types]
    return {name: encoded[name] for name in names if name in encoded}


class TextGraph(nn.Module):
    """Named inputs, which a user of the graph sees, and one output: what `answer` makes of them."""

    def __init__(self, model: nn.Module, answer: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.answer = model, answer

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        more = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self.answer(input_ids=input_ids, attention_mask=attention_mask, **more)


def trace(graph: nn.Module, inputs: dict[str, Tensor], longest: int | None) -> torch.export.ExportedProgram:
    """A program with a dynamic batch and, up to `longest`, a dynamic length; `None` for rows of numbers."""
    sizes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if longest is not None:
        sizes[1] = torch.export.Dim("length", max=longest)
    with torch.no_grad():
        return torch.export.export(graph.eval(), (), inputs, dynamic_shapes=dict.fromkeys(inputs, sizes))


def write_onnx(program: torch.export.ExportedProgram, path: Path, weights: nn.Module, output: str) -> None:
    """Write a program as ONNX; weights of more than a GiB in a file of their own."""
    graph: Any = torch.onnx.export(program, dynamo=True, verbose=False, output_names=[output])
    graph.save(path, external_data=sum(p.nbytes for p in weights.parameters()) > 2**30)


def open_onnx(path: Path, threads: int = 0) -> Callable[[Mapping[str, Tensor]], NDArray[Any]]:
    """From named inputs to the output of a graph, by ONNX Runtime; with 0 threads (default) it chooses how many."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options)
    return lambda batch: session.run(None, {name: values.numpy() for name, values in batch.items()})[0]


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Exporters warn of what does not concern a classifier, and log how far they are."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
