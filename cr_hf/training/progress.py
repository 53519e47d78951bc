"""What a training shows while it runs: one live line, and above it a row for every epoch."""

from __future__ import annotations

from typing import Any

from transformers import ProgressCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

COLUMNS = {"epoch": 5, "loss": 8, "task_loss": 11, "dreg": 8, "dreg_lambda": 8}
"""What a row holds before the validation metric, by its name in the logs, and how wide it is."""
TITLES = {"dreg": "DREG", "dreg_lambda": "lambda"}
WIDEST = 16


class EpochTable(TrainerCallback):
    """Writes a row for every evaluation, or for every epoch without one, under a live line of steps.

    Numbers are those that the trainer logged last. A row whose metric is better than all before it ends in "best".
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._metric, self._steps = "", 0
        self._logs: dict[str, Any] = {}
        self._best: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the line, and write the header."""
        if not state.is_world_process_zero:
            return
        self._metric = (args.metric_for_best_model or "loss").removeprefix("eval_")
        self._logs, self._steps, self._best = {}, state.global_step, state.best_metric
        self._bar = logging.tqdm(
            desc="train", total=state.max_steps, initial=state.global_step, unit=" steps", leave=False,
            dynamic_ncols=True, disable=args.disable_tqdm,
        )  # fmt: skip
        names = [f"{TITLES.get(name, name.replace('_', ' ')):>{width}}" for name, width in COLUMNS.items()]
        self._bar.write("".join(names) + ("" if args.eval_strategy == "no" else f"  {self._title}"))

    @property
    def _title(self) -> str:
        name = self._metric.replace("_", " ")
        return name if len(name) > WIDEST else f"val {name}"

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the line on."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._steps)
            self._steps = state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the numbers of the next row."""
        if self._bar is not None and logs is not None and "loss" in logs:
            self._logs = {**logs}

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a row that ends in the validation metric."""
        if self._bar is None:
            return
        value = (metrics or {}).get(f"eval_{self._metric}")
        sign = 1 if args.greater_is_better else -1
        is_best = value is not None and (self._best is None or sign * value > sign * self._best)
        if is_best:
            self._best = value
        cell = f"  {_number(value):>{len(self._title)}}" + (" best" if is_best else "")
        self._row({"epoch": state.epoch, **self._logs}, cell)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the row of an epoch that was not evaluated."""
        if self._bar is not None and self._logs:
            self._row(self._logs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write what is left, and take the line away."""
        self.on_epoch_begin(args, state, control)
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def _row(self, values: dict[str, Any], last: str = "") -> None:
        cells = {name: _number(values.get(name)) for name in COLUMNS}
        cells |= {name: f"{values[name]:.3g}" for name in ("epoch", "dreg_lambda") if name in values}
        self._bar.write("".join(f"{cells[name]:>{width}}" for name, width in COLUMNS.items()) + last)
        self._logs = {}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:#.4g}".rstrip(".")


def show_epochs(trainer: Trainer) -> None:
    """Put an `EpochTable` in the place of the dictionaries and bars of `Trainer`; its table in a notebook stays."""
    if trainer.pop_callback(ProgressCallback) or trainer.pop_callback(PrinterCallback):
        trainer.add_callback(EpochTable())
