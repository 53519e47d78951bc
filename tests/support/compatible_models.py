"""Lines about loading, running and exporting models."""

import copy
import pickle
from typing import Any

import torch
from classifiers import TEXTS
from compatible import Desk, refused, works
from feature_rows import Rows
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, pipeline

from cr_hf import CRClassifier, CRForSequenceClassification, CRTrainer

LOADING, RUNNING = "Saving and loading", "Running"


def reload(desk: Desk, tolerance: float = 1e-6, saved: Any = None, kind: Any = None, **options: Any) -> Any:
    """Save, load with these options, and compare the logits."""
    folder, batch, expected = desk.saved(**(saved or {}))
    model = (kind or AutoModelForSequenceClassification).from_pretrained(folder, **options)
    with torch.no_grad():
        found = model(**batch).logits
    torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)
    assert model.classifier.readout.weight.dtype == torch.float32
    return model


WAYS: dict[str, dict[str, Any]] = {
    "`AutoModelForSequenceClassification`": {},
    "`CRForSequenceClassification.from_pretrained`": {"kind": CRForSequenceClassification},
    "`dtype=torch.bfloat16`: the head stays in float32": {"dtype": torch.bfloat16, "tolerance": 0.1},
    "`dtype=torch.float16`: the head stays in float32": {"dtype": torch.float16, "tolerance": 0.1},
    '`attn_implementation="eager"`': {"attn_implementation": "eager", "tolerance": 1e-5},
    '`attn_implementation="sdpa"`': {"attn_implementation": "sdpa", "tolerance": 1e-5},
    '`device_map="cpu"`': {"device_map": "cpu"},
    '`device_map="auto"`': {"device_map": "auto"},
    "sharded weights (`max_shard_size`)": {"saved": {"max_shard_size": "20KB"}},
    '`variant="fp16"`': {"saved": {"variant": "fp16"}, "variant": "fp16"},
}


def _way(fields: dict[str, Any]) -> Any:
    def attempt(desk: Desk) -> None:
        reload(desk, **fields)

    return attempt


for _what, _fields in WAYS.items():
    works(LOADING, _what)(_way(_fields))


@works(LOADING, "`AutoConfig`, `AutoModelForSequenceClassification.from_config`")
def _(desk: Desk) -> None:
    folder, batch, _ = desk.saved()
    model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder))
    model.fit_feature_norm(model.eval().get_features(**batch))
    model(**batch)


@works(LOADING, "`AutoModel`: the backbone of a CR checkpoint")
def _(desk: Desk) -> None:
    folder, batch, _ = desk.saved()
    assert AutoModel.from_pretrained(folder)(**batch).last_hidden_state.shape[0] == 3


@works(LOADING, "weights offloaded to the disk (`device_map`, `offload_folder`)")
def _(desk: Desk) -> None:
    reload(desk, device_map={"backbone": "disk", "classifier": "cpu"}, offload_folder=str(desk.folder))


@works(LOADING, "`num_labels=` with `ignore_mismatched_sizes=True`: a new readout on a trained head")
def _(desk: Desk) -> None:
    folder, batch, _ = desk.saved()
    model = CRForSequenceClassification.from_pretrained(folder, num_labels=5, ignore_mismatched_sizes=True)
    assert model(**batch).logits.shape == (3, 5)


@refused(
    LOADING,
    "`num_labels=` alone",
    "refused: a readout of another size would be random; `ignore_mismatched_sizes=True` says so",
    "ignore_mismatched_sizes=True starts it anew",
)
def _(desk: Desk) -> None:
    CRForSequenceClassification.from_pretrained(desk.saved()[0], num_labels=5)


@refused(LOADING, "weights as a pickle (`pytorch_model.bin`)", "refused: no pickle is read", "safetensors")
def _(desk: Desk) -> None:
    folder = desk.saved()[0]
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    CRForSequenceClassification.from_pretrained(folder)


@works(LOADING, "`state_dict` and `load_state_dict`, `copy.deepcopy`")
def _(desk: Desk) -> None:
    model, batch = desk.texts()
    other = copy.deepcopy(model)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(**batch).logits, model(**batch).logits)


@works(LOADING, "`resize_token_embeddings`")
def _(desk: Desk) -> None:
    model, batch = desk.texts()
    before = model(**batch).logits
    model.resize_token_embeddings(len(desk.tokenizer) + 2)
    torch.testing.assert_close(model(**batch).logits, before)


@works(RUNNING, '`pipeline("text-classification")`, `top_k=None`, batches')
def _(desk: Desk) -> None:
    model, _ = desk.texts()
    rows = pipeline("text-classification", model=model, tokenizer=desk.tokenizer, top_k=None)(TEXTS, batch_size=2)
    assert [len(row) for row in rows] == [3] * 3


@works(RUNNING, "`pipeline` on pairs of texts")
def _(desk: Desk) -> None:
    model, _ = desk.texts()
    classify: Any = pipeline("text-classification", model=model, tokenizer=desk.tokenizer)
    assert len(classify([{"text": "a", "text_pair": "b"}])) == 1


@works(RUNNING, "`output_hidden_states`, `output_attentions`")
def _(desk: Desk) -> None:
    model, batch = desk.texts()
    model.backbone.set_attn_implementation("eager")
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == len(output.attentions) + 1


@works(RUNNING, "`position_ids`, `inputs_embeds`")
def _(desk: Desk) -> None:
    model, batch = desk.texts()
    ids = batch.pop("input_ids")
    positions = torch.arange(ids.shape[1]).expand(len(ids), -1)
    found = model(inputs_embeds=model.get_input_embeddings()(ids), position_ids=positions, **batch).logits
    torch.testing.assert_close(found, model(input_ids=ids, **batch).logits)


@works(RUNNING, "`return_dict=False`")
def _(desk: Desk) -> None:
    model, batch = desk.texts()
    assert model(**batch, return_dict=False)[0].shape == (3, 3)


@works(RUNNING, "`torch.compile`, without a break in the graph")
def _(desk: Desk) -> None:
    model, rows = desk.head(feature_norm="layer_norm"), Rows(8)
    torch.testing.assert_close(
        torch.compile(model, backend="aot_eager", fullgraph=True)(rows.features).logits, model(rows.features).logits
    )


@works(RUNNING, "`torch.func`: `vmap` and `jacrev` of a head")
def _(desk: Desk) -> None:
    model, rows = desk.head(feature_norm="layer_norm"), Rows(8)
    found = torch.func.vmap(torch.func.jacrev(lambda row: model(row[None]).logits[0]))(rows.features)
    assert found.shape == (8, 3, 6)


@works(RUNNING, "`torch.inference_mode`")
def _(desk: Desk) -> None:
    model, batch = desk.texts()
    with torch.inference_mode():
        model(**batch)


@works(RUNNING, "`torch.export`; ONNX: see [serving](serving.md#without-torch)")
def _(desk: Desk) -> None:
    model, rows = desk.head(feature_norm="layer_norm"), Rows(8)
    program = torch.export.export(model, (rows.features,), dynamic_shapes=({0: torch.export.Dim("rows")},))
    torch.testing.assert_close(program.module()(rows.features[:3]).logits, model(rows.features[:3]).logits)


@works(RUNNING, "`torch.ao.quantization.quantize_dynamic` of the backbone")
def _(desk: Desk) -> None:
    model, batch = desk.texts()
    model.backbone = torch.ao.quantization.quantize_dynamic(model.backbone, {nn.Linear}, torch.qint8)
    model(**batch)


@refused(
    RUNNING,
    "`torch.ao.quantization.quantize_dynamic` of the whole model",
    "the head stays in float32, and is small: quantize `model.backbone`",
    "no attribute 'dtype'",
)
def _(desk: Desk) -> None:
    model, batch = desk.texts()
    torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)(**batch)


@refused(
    RUNNING,
    "`nn.DataParallel` under `CRTrainer`",
    "refused: it would add up DREG per device; `accelerate launch` starts a process a GPU",
    "accelerate launch",
)
def _(desk: Desk) -> None:
    args = desk.arguments()
    args._n_gpu = 2
    CRTrainer(model=desk.head(), args=args, train_dataset=Rows(8))


SKLEARN = "scikit-learn"
FAST: dict[str, Any] = {"hidden_sizes": [4], "num_train_epochs": 1, "dreg_lambda": 0.01}


@works(SKLEARN, "`Pipeline` with a scaler before the estimator")
def _(desk: Desk) -> None:
    rows = Rows(40)
    make_pipeline(StandardScaler(), CRClassifier(**FAST)).fit(rows.features.numpy(), rows.labels.numpy())


@works(SKLEARN, "`GridSearchCV`")
def _(desk: Desk) -> None:
    rows = Rows(40)
    search = GridSearchCV(CRClassifier(**FAST), {"hidden_sizes": [[4], [6]]}, cv=2)
    search.fit(rows.features.numpy(), rows.labels.numpy())


@works(SKLEARN, "`clone`, pickling")
def _(desk: Desk) -> None:
    rows = Rows(40)
    fitted = clone(CRClassifier(**FAST)).fit(rows.features.numpy(), rows.labels.numpy())
    pickle.loads(pickle.dumps(fitted)).predict(rows.features.numpy())
