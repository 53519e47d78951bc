"""Features with labels, a small head on them and its trainer."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from cr_hf import CRConfig, CRForFeatureClassification, CRTrainer, CRTrainingArguments


class Rows(Dataset):
    """Features whose label depends on two columns; column 3 is constant."""

    def __init__(self, rows: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.features = (torch.randn(rows, 6, generator=generator, dtype=torch.float64) * 3 + 1).to(dtype)
        self.features[:, 3] = 7.0
        self.labels = (self.features[:, 0] * self.features[:, 1] > 1).long() + (self.features[:, 2] > 2).long()

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"features": self.features[row], "labels": self.labels[row]}


def head(dtype: torch.dtype = torch.float32, **fields: Any) -> CRForFeatureClassification:
    torch.manual_seed(0)
    defaults = {"in_features": 6, "num_labels": 3, "hidden_sizes": [8, 8], "dropout": 0.0}
    return CRForFeatureClassification(CRConfig(**{**defaults, **fields})).to(dtype)


def trainer_of(model: nn.Module, folder: Path, rows: Dataset | None = None, **arguments: Any) -> CRTrainer:
    defaults = {"max_steps": 6, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    defaults |= {"per_device_train_batch_size": 16, "learning_rate": 1e-2, "dataloader_pin_memory": False}
    args = CRTrainingArguments(output_dir=str(folder), **{**defaults, **arguments})
    return CRTrainer(model=model, args=args, train_dataset=rows or Rows(70), eval_dataset=Rows(30, seed=2))
