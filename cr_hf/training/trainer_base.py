"""A Trainer whose steps do not depend on how they are divided, and whose checkpoints are whole or not there."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler
from transformers import Trainer
from transformers.trainer_utils import has_length, rotate_checkpoints, seed_worker

from ..errors import CheckpointError
from .arguments import CRTrainingArguments
from .checkpoints import STAGING, STATE, changed_file, check_fits, write_checksums
from .kept_features import keep_features
from .sampling import EpochBatchSampler, token_lengths


class ExactTrainer(Trainer):
    """`Trainer` for any model under the rules of `CRTrainer`: batches, checkpoints and publishing.

    Nothing is asked of the network before `push_to_hub` is called, and no checkpoint is pushed on the way: `Trainer`
    would publish pickles and half-trained weights on the main branch.
    """

    args: CRTrainingArguments
    _batches: EpochBatchSampler | None = None
    _window_rows: int | Tensor | None = None
    _micro_batch = 0
    _staging: Path | None = None
    _is_stopped = False

    # ---- the data ----

    def get_train_dataloader(self) -> DataLoader:
        """Batches whose rows are a function of (seed, epoch): see `EpochBatchSampler`."""
        args, dataset = self.args, self.train_dataset
        self._batches = None
        if isinstance(dataset, IterableDataset | None) or not has_length(dataset):
            return super().get_train_dataloader()
        collator = self.data_collator
        if isinstance(dataset, datasets.Dataset):
            rows: Any = self._remove_unused_columns(dataset, description="training")
        else:
            rows, collator = dataset, self._get_collator_with_removed_columns(collator, description="training")
        by_length = args.train_sampling_strategy == "group_by_length"
        self._batches = EpochBatchSampler(
            len(rows),
            self._train_batch_size,
            args.gradient_accumulation_steps,
            seed=args.seed if args.data_seed is None else args.data_seed,
            shuffle=args.train_sampling_strategy != "sequential",
            lengths=token_lengths(dataset, args.length_column_name) if by_length else None,
            processes=args.world_size,
            process=args.process_index,
            drop_last=args.dataloader_drop_last,
        )
        return DataLoader(
            rows,
            batch_sampler=self._batches,
            collate_fn=collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            in_order=args.dataloader_in_order,
            worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
        )

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Rows in their order: sorted by length, as `Trainer` would, predictions no longer match their rows."""
        return SequentialSampler(eval_dataset) if self.args.world_size == 1 and has_length(eval_dataset) else None

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self._is_stopped or self.state.global_step >= self.state.max_steps:
            # Resumed from the last checkpoint of a run that was done: `Trainer` would take one step more.
            self.control.should_training_stop = True
            return
        if self._batches is not None:
            # Not through the loader: the one that skips what was done before a resume hides the sampler.
            self._batches.epoch = kwargs["epoch"]
        super()._run_epoch(*args, **kwargs)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """The micro-batches of one optimizer step; their rows are counted to weight each by its share."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        sizes = [_rows(batch["labels"]) for batch in batches if "labels" in batch]
        self._window_rows = sum(sizes) if sizes and len(sizes) == len(batches) else None
        if self.args.world_size > 1 and self._window_rows is not None:
            rows: Any = torch.tensor(self._window_rows, device=device, dtype=torch.float64)
            self._window_rows = self.accelerator.reduce(rows, "sum") / self.args.world_size
        self._micro_batch = 0
        return batches, num_items

    def _row_share(self, inputs: dict[str, Any]) -> float | Tensor:
        """Rows of this micro-batch over the mean rows of the micro-batches of this step, of all processes."""
        self._micro_batch += 1
        if self._window_rows is None or "labels" not in inputs:
            return 1.0
        return _rows(inputs["labels"]) * self.current_gradient_accumulation_steps / self._window_rows

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_fsdp_enabled:
            # accelerate 1.15 shards the token embeddings by themselves, and fails where what holds them was sharded
            # before, as BertEmbeddings is by its name in `_no_split_modules`.
            model: Any = self.model
            tokens = getattr(model, "get_input_embeddings", lambda: None)()
            holders = {type(module).__name__ for module in model.modules() if tokens in module.children()}
            model._no_split_modules = sorted(set(getattr(model, "_no_split_modules", None) or ()) - holders)
        return super()._prepare_for_training(*args, **kwargs)

    # ---- checkpoints ----

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        check_fits(resume_from_checkpoint, self.accelerator.unwrap_model(self.model))
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        keep_features(self)

    def _load_best_model(self) -> None:
        best = Path(str(self.state.best_model_checkpoint))
        changed = changed_file(best)
        if changed is not None:
            raise CheckpointError(f"{best}: {changed} is not as it was saved: copy it again, or train anew")
        check_fits(best, self.accelerator.unwrap_model(self.model))
        super()._load_best_model()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder, name = Path(self._get_output_dir(trial)), f"checkpoint-{self.state.global_step}"
        self._staging = folder / STAGING
        if self.args.should_save:
            shutil.rmtree(self._staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        staged, self._staging = self._staging, None
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(folder / name)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(staged / name / STATE))
            write_checksums(staged / name)
            shutil.rmtree(folder / name, ignore_errors=True)
            (staged / name).rename(folder / name)
            staged.rmdir()
            rotate_checkpoints(str(folder), self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def _get_output_dir(self, trial: Any) -> str:
        """Where checkpoints are written: the staging folder while one is being saved."""
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    # ---- the Hub ----

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Note the name of the repository; it is made when something is published."""
        name: Any = self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name
        self.hub_model_id = name

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Publish the model as it is now as `cr-hf publish` does: checked, in one commit, verified, with a card.

        Arguments are those of `Trainer.push_to_hub`, where `blocking` must be True and `revision` None, and `tag`,
        `head_only` and `license` of `publish_run`. Returns a `Published`, in other processes than the first `None`.

        Raises:
            PublishError: saying what was published, what was not, and the mend.
            ValueError: for an option of `Trainer.push_to_hub` that this does not have.
        """
        if not blocking or revision is not None or set(kwargs) - {"tag", "head_only", "license"}:
            raise ValueError("CRTrainer.push_to_hub takes commit_message, token, private, tag, head_only and license")
        self.init_hf_repo()
        if not self.is_world_process_zero():
            return None
        # The one import that runs upwards, and only here: whoever trains need not load what publishes.
        from ..hub import publish_trainer

        return publish_trainer(
            self,
            str(self.hub_model_id),
            token=token or self.args.hub_token,
            private=self.args.hub_private_repo if private is None else private,
            message=commit_message,
            **kwargs,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Only `push_to_hub` publishes."""


def _rows(labels: Tensor) -> int | Tensor:
    """How many rows the loss of a batch is a mean of: of classes of tokens those that are not -100."""
    is_by_token = labels.ndim == 2 and not labels.is_floating_point()
    return (labels != -100).sum() if is_by_token else len(labels)
