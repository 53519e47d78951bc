"""A training before its first step: what a recipe is made into, and the trainer that runs it.

Two ways of data meet here. With a frozen backbone every split is encoded once, and the head trains on the features;
with a trained backbone the texts are tokenised.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import DataCollatorWithPadding, EarlyStoppingCallback, set_seed
from transformers.utils import logging

from ..data import schema_of, table_features
from ..evaluation import Task
from ..features import FeatureDataset, collate_features, encode_splits
from ..modeling import CRForFeatureClassification, tokenize
from ..training import CRTrainer, CRTrainingArguments, add_lora, check_same_features
from .build import build_model, check_together, recipe_lora_config, sweep_head, trains_on_features
from .choose_lambda import lambda_of_run
from .directory import BASE, claim
from .recipe import Recipe
from .row_features import row_features


def split_features(recipe: Recipe, model: Any, tokenizer: Any, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Features and labels of every split, encoded by a frozen backbone or the columns of a table."""
    if recipe.kind == "table":
        found = {}
        for name, rows in dataset.items():
            features = row_features(model, tokenizer, table_features(rows), schema_of(rows).shape, name)
            found[name] = (features, np.asarray(rows["label"][:]))
        return found
    return encode_splits(model, tokenizer, dataset, recipe.encoder)


def phase(name: str, arguments: CRTrainingArguments) -> contextlib.AbstractContextManager[Any]:
    """Work whose amount is not known, shown by the first process."""
    return logging.tqdm(desc=name, delay=2, leave=False, disable=arguments.process_index > 0)


@dataclass
class Job:
    """A recipe and what is made of it, which fits together.

    Args:
        recipe: what is trained.
        arguments: of the trainer.
        model: the classifier, with a fresh head.
        tokenizer: of its backbone, or its image processor; `None` for a table.
        dataset: the rows, by split.
    """

    recipe: Recipe
    arguments: CRTrainingArguments
    model: Any
    tokenizer: Any
    dataset: Any

    @classmethod
    def of(cls, recipe: Recipe, arguments: CRTrainingArguments, dataset: Any) -> Job:
        """The job of a recipe, its model initialised by the recipe's seed.

        Raises:
            RecipeError: if recipe, arguments and backbone do not fit together.
        """
        set_seed(recipe.seed)
        model, tokenizer = build_model(recipe, dataset)
        check_together(recipe, arguments, model)
        return cls(recipe, arguments, model, tokenizer, dataset)

    @property
    def run_dir(self) -> Path:
        """Where it writes."""
        return Path(self.recipe.output_dir)

    def trainer(self) -> tuple[CRTrainer, dict[str, Any]]:
        """Its trainer, and the splits that it reads."""
        return self._of_features() if trains_on_features(self.recipe, self.model) else self._of_texts()

    def _of_features(self) -> tuple[CRTrainer, dict[str, Any]]:
        """The head alone trains, on features."""
        recipe, arguments, model = self.recipe, self.arguments, self.model
        encoded = split_features(recipe, model, self.tokenizer, self.dataset)
        if arguments.process_index == 0:
            check_same_features(Path(str(arguments.output_dir)), *encoded["train"])
        if recipe.chooses_lambda:
            with phase("choose lambda", arguments):
                choice = lambda_of_run(recipe, arguments, model.config, encoded["train"], encoded["validation"])
            model.config.dreg_lambda = choice.chosen
        config = sweep_head(recipe, model.config).config
        set_seed(recipe.seed)
        head = CRForFeatureClassification(config)
        arguments.remove_unused_columns = False
        if arguments.train_sampling_strategy == "group_by_length":
            arguments.train_sampling_strategy = "random"  # features are all of one length
        splits = {name: FeatureDataset(features, labels) for name, (features, labels) in encoded.items()}
        return self._trainer(head, splits, collate_features), splits

    def _of_texts(self) -> tuple[CRTrainer, dict[str, Any]]:
        """Backbone and head train, or adapters and head; batches of tokens are padded to their longest."""
        recipe, arguments, model = self.recipe, self.arguments, self.model

        def tokenized(rows: dict[str, list]) -> Any:
            encoded = tokenize(self.tokenizer, rows["text"], rows.get("text_pair"))
            return {**encoded, arguments.length_column_name: [len(ids) for ids in encoded["input_ids"]]}

        texts = [name for name in ("text", "text_pair") if name in self.dataset["train"].column_names]
        splits: dict[str, Any] = {}
        with arguments.main_process_first(local=False, desc="tokenising the texts"), phase("tokenize", arguments):
            for name, rows in self.dataset.items():
                described = {} if recipe.data.streaming and name == "train" else {"desc": f"tokenize {name}"}
                splits[name] = rows.map(tokenized, batched=True, remove_columns=texts, **described)
        if recipe.lora_r is not None:
            if arguments.process_index == 0:
                claim(self.run_dir, BASE)
            model = add_lora(model, self.run_dir / BASE, recipe_lora_config(recipe, model))
        return self._trainer(model, splits, DataCollatorWithPadding(self.tokenizer)), splits

    def _trainer(self, model: Any, splits: dict[str, Any], collator: Callable[..., Any]) -> CRTrainer:
        patience = self.recipe.early_stopping_patience
        return CRTrainer(
            model=model,
            args=self.arguments,
            train_dataset=splits["train"],
            eval_dataset=splits["validation"],
            data_collator=collator,
            compute_metrics=Task.of(model.config).trainer_metrics(),
            callbacks=[] if patience is None else [EarlyStoppingCallback(patience)],
        )
