"""What `test_processes.py` and `test_resume.py` train, alone or in processes that work together."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from accelerate import FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import DistributedType
from feature_rows import Rows
from transformers import AutoTokenizer, DataCollatorWithPadding, EarlyStoppingCallback, TrainerCallback

from cr_hf import CRConfig, CRForFeatureClassification, CRForSequenceClassification, CRTrainer, CRTrainingArguments
from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.train import _finished_model

WORDS = ["good", "bad", "great", "awful", "dull", "witty", "boring", "superb"]
SINGLE = {"per_device_train_batch_size": 16}


def arguments(folder: Path, **more: Any) -> CRTrainingArguments:
    values: dict[str, Any] = {"logging_steps": 1, "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    values |= {"dataloader_pin_memory": False, "learning_rate": 1e-2, "report_to": "none"}
    return CRTrainingArguments(output_dir=str(folder), **{**values, **more})


def text_rows(tokenizer: Any, rows: int = 46) -> list[dict[str, Any]]:
    texts = [" ".join(WORDS[(row * 7 + word) % len(WORDS)] for word in range(1 + row * 5 % 11)) for row in range(rows)]
    return [{**tokenizer(text), "labels": row % 3} for row, text in enumerate(texts)]


def train_head(folder: Path, **more: Any) -> CRTrainer:
    """SGD in float64 over 70 rows: the last step of each epoch has 6."""
    torch.manual_seed(0)
    config = CRConfig(in_features=6, num_labels=3, hidden_sizes=[8, 8], dropout=0.0, **more.pop("config", {}))
    model = CRForFeatureClassification(config).double()
    args = arguments(folder, **{"optim": "sgd", "num_train_epochs": 2, "dreg_lambda": 0.1, **more})
    trainer = CRTrainer(
        model=model, args=args, train_dataset=Rows(70, torch.float64), eval_dataset=Rows(31, torch.float64, seed=2)
    )
    trainer.train()
    return trainer


def train_texts(
    folder: Path,
    backbone: Path,
    trainer_class: type[CRTrainer] = CRTrainer,
    resume: bool = False,
    callbacks: Any = (),
    **more: Any,
) -> CRTrainer:
    """Fine-tuning in float64, batches grouped by length, of a backbone without dropout."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    model = CRForSequenceClassification.from_backbone(
        str(backbone), num_labels=3, hidden_sizes=[8], dropout=0.0, dtype=torch.float64
    ).double()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    args = arguments(
        folder,
        **{"optim": "sgd", "max_steps": 5, "train_sampling_strategy": "group_by_length", "head_learning_rate": 0.1},
        **more,
    )
    trainer = trainer_class(
        model=model,
        args=args,
        train_dataset=text_rows(tokenizer),
        eval_dataset=text_rows(tokenizer, 9),
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=list(callbacks),
    )
    trainer.train(resume)
    return trainer


def result(trainer: CRTrainer) -> dict[str, Any]:
    model = trainer.accelerator.unwrap_model(trainer.model)
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {
        "logs": logs,
        "weights": model.state_dict(),
        "predictions": trainer.predict(trainer.eval_dataset).predictions,
        "tail_ratio": trainer.evaluate()["eval_gradient_tail_ratio"],
    }


def compare(folder: Path, backbone: Path, **batches: Any) -> dict[str, Any]:
    """The runs whose results must not depend on how a global batch is divided."""
    jobs = {
        "head": lambda **more: train_head(folder, **more),
        "chain": lambda **more: train_head(folder, config={"dreg_mode": "chain", "dreg_num_tangents": None}, **more),
        "texts": lambda **more: train_texts(folder, backbone, **more),
    }
    return {name: result(job(**batches)) for name, job in jobs.items()}


class ShardedTrainer(CRTrainer):
    """FSDP2 on the CPU too, where accelerate takes processes for plain DDP."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        self.accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
        self.accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap", state_dict_type="SHARDED_STATE_DICT"
        )
        self.is_fsdp_enabled = True


class KilledAfterSaving(TrainerCallback):
    """The end of a process, by SIGKILL, once the first checkpoint is there."""

    def on_save(self, *_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def train_sharded(folder: Path, backbone: Path, killed: bool) -> None:
    """`train_texts` with weights divided between processes; the first two steps, or, resumed, the rest of it."""
    values = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "save_strategy": "steps"}
    trainer = train_texts(
        folder,
        backbone,
        trainer_class=ShardedTrainer,
        resume=not killed,
        callbacks=[KilledAfterSaving()] if killed else [],
        save_steps=2,
        **values,
    )
    held = sum(value.to_local().numel() for value in trainer.model.parameters())
    recipe = load_recipe(Path(__file__).resolve().parents[2] / "recipes" / "sst5_finetune.yaml", [])
    model = _finished_model(recipe, trainer, trainer.model)
    if os.environ["RANK"] == "0":
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        torch.save({"logs": logs, "held": held, "weights": model.state_dict()}, folder / "results.pt")


def early_stopping_trainer(folder: Path, **more: Any) -> CRTrainer:
    """A run that early stopping ends; every random part is in use."""
    torch.manual_seed(0)
    config = CRConfig(in_features=6, num_labels=3, hidden_sizes=[8, 8], dropout=0.3)
    values = {"num_train_epochs": 40, "eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 2}
    values |= {"load_best_model_at_end": True, "metric_for_best_model": "loss", "dreg_lambda": 0.05}
    values |= {"dreg_lambda_end": 0.01, "dreg_schedule": "cosine", "lr_scheduler_type": "cosine"}
    return CRTrainer(
        model=CRForFeatureClassification(config),
        args=arguments(folder, **{**values, **more}),
        train_dataset=Rows(70),
        eval_dataset=Rows(31, seed=2),
        callbacks=[EarlyStoppingCallback(3)],
    )
