"""Features with their labels, for the loaders of torch and of the trainer."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from encoding import TEXTS
from torch.utils.data import DataLoader, Subset
from transformers import Trainer, TrainingArguments

from cr_hf import CRConfig, CRForFeatureClassification
from cr_hf import CRForSequenceClassification as Model
from cr_hf.errors import DataError
from cr_hf.features.encode import FeatureDataset, collate_features, encode_texts


@pytest.fixture
def rows() -> np.ndarray:
    return np.arange(40, dtype=np.float32).reshape(10, 4)


def test_a_batch_is_gathered_in_the_order_asked_for(rows: np.ndarray) -> None:
    data = FeatureDataset(rows, list(range(10)), indices=[9, 2, 5, 7])
    assert len(data) == 4
    assert data.labels.tolist() == [9, 2, 5, 7]
    batch = collate_features(data.__getitems__([3, 0, 3]))
    assert batch["features"].tolist() == rows[[7, 9, 7]].tolist()
    assert batch["labels"].tolist() == [7, 9, 7]
    assert batch["labels"].dtype == torch.int64
    single = data[1]
    assert single["features"].tolist() == rows[2].tolist()
    stacked = collate_features([data[0], data[1]])
    assert stacked["features"].shape == (2, 4)
    assert stacked["labels"].tolist() == [9, 2]
    with pytest.raises(IndexError):
        data[4]


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        (np.arange(10, dtype=np.int32), torch.int64),
        (np.linspace(0, 1, 10), torch.float32),
        (np.eye(10), torch.float32),
        (torch.arange(10), torch.int64),
        (datasets.Dataset.from_dict({"label": list(range(10))})["label"], torch.int64),
    ],
)
def test_labels_of_every_kind(labels: Any, dtype: torch.dtype, rows: np.ndarray) -> None:
    (batch,) = FeatureDataset(rows, labels).__getitems__([4, 2])
    assert batch["labels"].dtype == dtype
    np.testing.assert_allclose(batch["labels"], np.asarray(labels[:])[[4, 2]], rtol=1e-6)


def test_one_label_a_row_is_needed(rows: np.ndarray) -> None:
    with pytest.raises(DataError, match="9 entries for 10 rows"):
        FeatureDataset(rows, [0] * 9)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("remove_unused_columns", [True, False])
def test_loaders_of_the_trainer_and_of_torch_take_it(
    remove_unused_columns: bool, model: Model, tokenizer: Any, tmp_path: Path
) -> None:
    found = encode_texts(model, tokenizer, TEXTS, cache_dir=tmp_path)
    data = FeatureDataset(found, np.arange(24) % 3)
    batches = list(DataLoader(Subset(data, range(0, 24, 2)), batch_size=5, collate_fn=collate_features))
    np.testing.assert_array_equal(torch.cat([batch["features"] for batch in batches]), found[::2])
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        per_device_train_batch_size=5,
        remove_unused_columns=remove_unused_columns,
        dataloader_pin_memory=False,
        use_cpu=True,
        max_steps=2,
        disable_tqdm=True,
    )
    head = CRForFeatureClassification(CRConfig(in_features=96, num_labels=3, feature_norm="layer_norm"))
    trainer = Trainer(head, arguments, train_dataset=data, data_collator=collate_features)
    loaded = list(trainer.get_train_dataloader())
    assert [len(batch["labels"]) for batch in loaded] == [5, 5, 5, 5, 4]
    seen = torch.cat([batch["features"] for batch in loaded])
    assert {tuple(row) for row in seen.tolist()} == {tuple(row) for row in found.tolist()}
    assert np.isfinite(trainer.train().training_loss)
