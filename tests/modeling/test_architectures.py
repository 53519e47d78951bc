"""Every text architecture of transformers that can be built tiny: right in every mode, or refused in one line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import VOCABULARY, build_tokenizer
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedConfig

from cr_hf import CRConfig, CRForSequenceClassification
from cr_hf.modeling.loading import UNSUPPORTED, new_backbone

POSITIONS = 80
# Every name for a size that a configuration may have, and how small it is here.
SIZES: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_encoder_layers", "num_attention_heads", "n_head", "n_heads", "num_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_encoder_attention_heads"), 2),
    **dict.fromkeys(("num_decoder_attention_heads", "num_local_experts", "num_experts", "type_vocab_size"), 2),
    **dict.fromkeys(("decoder_layers", "num_decoder_layers", "num_key_value_heads", "n_groups"), 1),
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("n_inner", "d_inner", "ffn_hidden_size", "dim_ff", "dff"), 48),
    **dict.fromkeys(("d_kv", "head_dim", "dim_head"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), POSITIONS),
    **dict.fromkeys(("vocab_size", "pronunciation_vocab_size", "shape_vocab_size"), len(VOCABULARY)),
    **{"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 0},
    **{"rotary_dim": 8, "state_size": 8, "attention_window": 8, "max_2d_position_embeddings": 16},
}
PLAIN = """
albert bart bert bert-generation bigbird_pegasus biogpt blenderbot blenderbot-small bloom camembert cohere
ctrl data2vec-text deberta deberta-v2 distilbert electra ernie eurobert falcon flaubert gemma gemma2 glm gpt2
gpt_bigcode gpt_neox gptj granite helium ibert jamba jina_embeddings_v3 layoutlm llama longt5 m2m_100 mamba
marian mbart megatron-bert mistral mixtral modernbert mpnet mpt mt5 mvp nllb-moe nomic_bert olmo openai-gpt
opt pegasus persimmon phi plbart prophetnet qwen2 qwen3 rembert roberta roberta-prelayernorm roc_bert roformer
rwkv splinter squeezebert stablelm starcoder2 switch_transformers t5 umt5 xglm xlm xlm-roberta xlm-roberta-xl
"""
PARTICULAR: dict[str, dict[str, Any]] = {
    "big_bird": {"attention_type": "original_full"},
    "codegen": {"n_head": 4},
    "esm": {"position_embedding_type": "absolute"},
    "gemma3_text": {"sliding_window": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "led": {"max_encoder_position_embeddings": POSITIONS, "max_decoder_position_embeddings": POSITIONS},
    "lilt": {"hidden_size": 48},
    "longformer": {},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 16},
    "mamba2": {"num_heads": 4, "expand": 2, "chunk_size": 8},
    "markuplm": {"max_depth": 4},
    "mobilebert": {"true_hidden_size": 32, "intra_bottleneck_size": 32},
    "recurrent_gemma": {"lru_width": 32, "num_hidden_layers": 3},
    "tapas": {"type_vocab_sizes": [3] * 7},
    "xlnet": {},
    "xlstm": {"num_blocks": 2},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}
# Parameters that a text alone never reaches: entities, global attention, boxes, tags, a memory, fixed positions.
UNUSED = {
    **{"esm": "contact_head", "led": "global", "lilt": "layout", "longformer": "global", "luke": "entit|e2|w2e"},
    **dict.fromkeys(("marian", "pegasus", "roformer"), "embed_positions"),
    **{"markuplm": "xpath", "xlnet": "mask_emb|seg_embed|r_s_bias"},
}
TEXTS = ["a gorgeous, witty film and a great plot", "bad", "the food was cold , and the service worse"]


def tiny(model_type: str) -> PreTrainedConfig:
    config_class = CONFIG_MAPPING[model_type]
    known = config_class().to_dict()
    sizes = {name: size for name, size in SIZES.items() if name in known}
    return config_class(**{**sizes, **PARTICULAR.get(model_type, {})})


def padded(side: str, filler: int = 0) -> dict[str, torch.Tensor]:
    tokenizer = build_tokenizer("bert", side)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    batch["input_ids"][batch["attention_mask"] == 0] = filler
    return dict(batch)


@pytest.mark.parametrize("model_type", [*PLAIN.split(), *PARTICULAR])
def test_it_is_right_in_every_mode(model_type: str, tmp_path: Path) -> None:
    AutoModel.from_config(tiny(model_type)).save_pretrained(tmp_path / "backbone")
    frozen = CRForSequenceClassification.from_backbone(
        str(tmp_path / "backbone"), num_labels=3, hidden_sizes=[4], freeze_backbone=True, feature_layers="all"
    )
    tokenizer = build_tokenizer("bert", "left")
    frozen.fit_feature_norm(torch.randn(9, frozen.config.in_features))
    with torch.no_grad():
        right = frozen(**padded("right")).logits
        assert torch.equal(frozen(**padded("left", filler=7)).logits, frozen(**padded("right", filler=7)).logits)
        torch.testing.assert_close(frozen(**padded("left")).logits, right, rtol=1e-4, atol=1e-5)
        alone = [frozen(input_ids=tokenizer(text, return_tensors="pt")["input_ids"]).logits for text in TEXTS]
        torch.testing.assert_close(torch.cat(alone), right, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(frozen.predict_texts(TEXTS, tokenizer), right, rtol=1e-4, atol=1e-5)
        longest = frozen.config.max_length_for(tokenizer)
        assert torch.isfinite(frozen(input_ids=torch.full((1, min(longest, POSITIONS)), 7)).logits).all()

    frozen.save_pretrained(tmp_path / "saved")
    loaded = CRForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded(**padded("left")).logits, frozen(**padded("left")).logits)

    trained = CRForSequenceClassification.from_backbone(str(tmp_path / "backbone"), num_labels=3, hidden_sizes=[4])
    trained.train()(**padded("left"), labels=torch.tensor([0, 1, 2])).loss.backward()
    unused = [name for name, value in trained.named_parameters() if value.requires_grad and value.grad is None]
    expected = UNUSED.get(model_type, "nothing").split("|")
    assert [name for name in unused if not any(part in name for part in expected)] == []
    assert all(torch.isfinite(value.grad).all() for value in trained.parameters() if value.grad is not None)


@pytest.mark.parametrize("model_type", sorted(UNSUPPORTED))
def test_what_cannot_be_right_is_refused_in_one_line(model_type: str) -> None:
    config = CRConfig(backbone_config=CONFIG_MAPPING[model_type](), num_labels=2)
    with pytest.raises(ValueError, match=f"backbone of type {model_type} .*: use another one") as caught:
        CRForSequenceClassification(config)
    assert "\n" not in str(caught.value)


def test_a_backbone_that_reads_no_text_is_refused() -> None:
    config = CONFIG_MAPPING["vit"](hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48)
    with pytest.raises(ValueError, match="backbone of type vit reads no text"):
        new_backbone(config)
