"""What `test_processes.py` and `test_resume.py` train, alone or in processes that work together."""

import os
from pathlib import Path
from typing import Any

import torch
from feature_rows import Rows
from torch.distributed.fsdp import fully_shard
from transformers import AutoTokenizer, DataCollatorWithPadding, EarlyStoppingCallback

from cr_hf import CRConfig, CRForFeatureClassification, CRForSequenceClassification, CRTrainer, CRTrainingArguments

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


def train_texts(folder: Path, backbone: Path, **more: Any) -> CRTrainer:
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
    trainer = CRTrainer(
        model=model,
        args=args,
        train_dataset=text_rows(tokenizer),
        eval_dataset=text_rows(tokenizer, 9),
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
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
    results = {name: result(job(**batches)) for name, job in jobs.items()}
    return {**results, "sharded": train_sharded(folder, backbone)}


def train_sharded(folder: Path, backbone: Path) -> dict[str, Any]:
    """Three steps of SGD; with two processes the weights are divided between them by FSDP2 of torch, on the CPU."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    model = CRForSequenceClassification.from_backbone(str(backbone), num_labels=3, hidden_sizes=[8], dropout=0.0)
    model = model.double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    processes, process = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if processes > 1:
        mesh = torch.distributed.init_device_mesh("cpu", (processes,))
        for part in (*model.backbone.encoder.layer, model.classifier, model):
            fully_shard(part, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = DataCollatorWithPadding(tokenizer)(text_rows(tokenizer, 16))
    inputs = {name: values[process::processes] for name, values in batch.items()}
    logs = []
    for _ in range(3):
        optimizer.zero_grad()
        output = model(**inputs)
        loss = output.task_loss + 0.1 * output.dreg.sum()
        loss.backward()
        norm = torch.nn.utils.get_total_norm([value.grad for value in model.parameters()])
        parts = torch.stack([loss.detach(), *output.dreg.detach()])
        if processes > 1:
            torch.distributed.all_reduce(parts)
        names = ("loss", "dreg_layer_1", "dreg_readout")
        logs.append(dict(zip(names, (parts / processes).tolist(), strict=True)))
        logs[-1]["grad_norm"] = float(norm.full_tensor() if processes > 1 else norm)
        optimizer.step()
    weights = {
        name: value.full_tensor() if processes > 1 and hasattr(value, "full_tensor") else value
        for name, value in model.state_dict().items()
    }
    held = sum(getattr(value, "to_local", lambda own=value: own)().numel() for value in model.parameters())
    saved = folder / f"saved_by_{processes}"
    if process == 0:
        # As a whole: the weights that every process holds a part of, under the names of the model that is not divided.
        whole = CRForSequenceClassification(model.config).double()
        whole.load_state_dict(weights)
        whole.save_pretrained(saved)
    return {"logs": logs, "weights": weights, "held": held, "saved": saved}


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
