"""From texts to batches: on own copies, cut first, in bounded memory, and one line for what is no text."""

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from conftest import TinyBackbone, build_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cr_hf import CRForSequenceClassification
from cr_hf.modeling import texts
from cr_hf.modeling.texts import prepare_tokenizer, token_batches, tokenize

TEXTS = ["a gorgeous, witty film " * 30, "bad", "", "the food was cold , and the service worse"]


@pytest.fixture
def model(tiny_backbone: TinyBackbone) -> CRForSequenceClassification:
    return CRForSequenceClassification.from_backbone(
        str(tiny_backbone("bert")), num_labels=3, hidden_sizes=[8], dropout=0.5, max_seq_length=16
    )


def state_of(tokenizer: Any) -> tuple[Any, ...]:
    names = ("padding_side", "truncation_side", "model_max_length", "pad_token", "special_tokens_map")
    return tokenizer.backend_tokenizer.to_str(), *(getattr(tokenizer, name) for name in names)


class TestNothingIsChanged:
    def test_the_tokenizer(self, model: CRForSequenceClassification) -> None:
        tokenizer = build_tokenizer("bert", "left")
        tokenizer("bad", truncation=True, max_length=3, padding="max_length")
        before = state_of(tokenizer)
        model.predict_texts(TEXTS, tokenizer)
        assert state_of(tokenizer) == before

    def test_the_mode_of_the_model(self, model: CRForSequenceClassification) -> None:
        tokenizer = build_tokenizer("bert")
        expected = model.predict_texts(TEXTS, tokenizer)
        model.train()
        model.backbone.embeddings.eval()
        modes = [module.training for module in model.modules()]
        assert torch.equal(model.predict_texts(TEXTS, tokenizer), expected)
        assert [module.training for module in model.modules()] == modes

    def test_threads_that_share_them_do_not_see_each_other(self, model: CRForSequenceClassification) -> None:
        tokenizer = build_tokenizer("bert")
        expected = model.predict_texts(TEXTS, tokenizer)
        model.train()
        wrong: list[int] = []

        def predict() -> None:
            wrong.extend(not torch.equal(model.predict_texts(TEXTS, tokenizer), expected) for _ in range(20))

        threads = [threading.Thread(target=predict) for _ in range(3)]
        for thread in threads:
            thread.start()
        for length in range(2, 60):
            tokenizer(TEXTS, truncation=True, max_length=length, padding=True)
        for thread in threads:
            thread.join()
        assert (len(wrong), sum(wrong), model.training) == (60, 0, True)

    def test_a_tokenizer_that_is_changed_is_read_anew(self) -> None:
        tokenizer = build_tokenizer("bert")
        assert prepare_tokenizer(tokenizer, 16) is prepare_tokenizer(tokenizer, 16)
        before = prepare_tokenizer(tokenizer, 16).tokenize("xyz")
        tokenizer.add_tokens(["xyz"])
        assert before != prepare_tokenizer(tokenizer, 16).tokenize("xyz") == ["xyz"]
        assert prepare_tokenizer(tokenizer, 8).model_max_length == 8

    def test_a_model_that_has_predicted_can_be_copied_and_pickled(
        self, model: CRForSequenceClassification, tmp_path: Any
    ) -> None:
        model.save_pretrained(tmp_path)
        loaded, tokenizer = AutoModelForSequenceClassification.from_pretrained(tmp_path), build_tokenizer("bert")
        expected = loaded.predict_texts(TEXTS, tokenizer)
        torch.save(loaded, tmp_path / "model.pt")
        saved = torch.load(tmp_path / "model.pt", weights_only=False)
        for again in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded)), saved):
            assert torch.equal(again.predict_texts(TEXTS, tokenizer), expected)


class TestPadding:
    def test_the_end_of_text_pads_where_nothing_else_does_and_it_is_said(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        tokenizer = build_tokenizer("llama", "left")
        tokenizer.pad_token = None
        own = prepare_tokenizer(tokenizer, 16)
        prepare_tokenizer(tokenizer, 16)
        assert (own.pad_token, own.padding_side, tokenizer.pad_token) == ("[SEP]", "right", None)
        assert caplog.text.count("no padding token") == 1

    def test_without_either_it_is_one_line(self) -> None:
        tokenizer = build_tokenizer("bert")
        tokenizer.pad_token = tokenizer.eos_token = None
        with pytest.raises(ValueError, match=r"neither a padding nor an end-of-text token: set tokenizer\.pad_token"):
            prepare_tokenizer(tokenizer, 16)


class TestLongTexts:
    @pytest.mark.parametrize("side", ["right", "left"])
    @pytest.mark.parametrize(
        "text",
        [
            "good film, " * 3000,
            " " * 30_000 + "good film",
            "x" * 50_000 + " bad plot",
            "bad" + " \n" * 15_000 + "plot",
            "x" * 50_000 + ",good film",
            "bad, " + "xy1" * 20_000 + "\u4e2d plot",
            "bad " + "\u00e9" * 20_000 + " good,good",
        ],
    )
    def test_cutting_first_gives_the_tokens_of_the_whole_text(self, text: str, side: str) -> None:
        tokenizer = build_tokenizer("bert")
        tokenizer.truncation_side = side
        expected = tokenizer([text, "bad"], ["plot", text], truncation=True, max_length=16)
        found = tokenize(prepare_tokenizer(tokenizer, 16), [text, "bad"], ["plot", text])
        assert found["input_ids"] == expected["input_ids"]

    def test_no_call_takes_much_more_than_a_chunk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        own, sizes = prepare_tokenizer(build_tokenizer("bert"), 16), []
        call = type(own).__call__

        def counted(self: Any, rows: list[str], *rest: Any, **options: Any) -> Any:
            sizes.append(sum(map(len, rows)))
            return call(self, rows, *rest, **options)

        monkeypatch.setattr(type(own), "__call__", counted)
        monkeypatch.setattr(texts, "CHUNK_CHARACTERS", 5000)
        tokenize(own, ["good film " * 100_000] * 3 + ["good " * 100] * 50)
        assert max(sizes) <= 5000 + 2 * 32 * 16
        sizes.clear()
        tokenize(own, [" " * 1_000_000 + "good" + "\n " * 500_000 + "film"])
        assert sum(sizes) <= 5000, "blanks without tokens are not tokenized"
        sizes.clear()
        tokenize(own, ["bad " + "x" * 5_000_000 + " film"])
        assert sum(sizes) <= 5000, "nor is a word of which the tokenizer makes one unknown token"

    def test_what_is_no_text_is_named(self) -> None:
        own = prepare_tokenizer(build_tokenizer("bert"), 16)
        for bad in ("a \ud800 b", 3, None):
            with pytest.raises(ValueError, match="text 1 is no text") as caught:
                tokenize(own, ["good", bad])  # type: ignore[list-item]
            assert "\n" not in str(caught.value)

    def test_a_tokenizer_that_panics_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        own = prepare_tokenizer(build_tokenizer("bert"), 16)
        panic = type("PanicException", (BaseException,), {})

        def call(*_: Any, **__: Any) -> None:
            raise panic("the pattern backtracks without end")

        monkeypatch.setattr(type(own), "__call__", call)
        with pytest.raises(ValueError, match=r"the tokenizer .* fails on texts 0 to 1: the pattern backtracks"):
            tokenize(own, ["good", "bad"])

    @pytest.mark.parametrize("seconds", ["soon", "-1", "nan", "1e9"])
    def test_a_limit_that_is_no_number_is_one_line(self, seconds: str, monkeypatch: pytest.MonkeyPatch) -> None:
        own = prepare_tokenizer(build_tokenizer("bert"), 16)
        monkeypatch.setenv("CR_HF_TOKENIZER_SECONDS", seconds)
        with pytest.raises(ValueError, match=f"CR_HF_TOKENIZER_SECONDS='{seconds}': give a number of seconds"):
            tokenize(own, ["good"])


class TestAgainstTheBackbone:
    def test_a_token_that_the_backbone_does_not_know(self, model: CRForSequenceClassification) -> None:
        tokenizer = AutoTokenizer.from_pretrained(model.backbone.name_or_path)
        tokenizer.add_tokens(["zzz"])
        with pytest.raises(ValueError, match=r"the tokenizer gives token \d+, the backbone has \d+ embeddings"):
            model.predict_texts(["a zzz"], tokenizer)

    def test_more_tokens_than_positions(self, model: CRForSequenceClassification) -> None:
        with pytest.raises(ValueError, match="a text has 65 tokens, the backbone reads 64: truncation=True cuts it"):
            model(input_ids=torch.full((1, 65), 7))

    def test_no_token_at_all(self, model: CRForSequenceClassification) -> None:
        ids = torch.empty(2, 0, dtype=torch.long)
        assert torch.equal(model.get_features(ids, attention_mask=ids), torch.zeros(2, 32))


class TestTokenBatches:
    @pytest.mark.parametrize("budget", [1, 7, 40, 10_000])
    def test_every_row_once_within_the_budget(self, budget: int) -> None:
        lengths = [3, 9, 1, 0, 12, 3, 3, 8]
        batches = list(token_batches(lengths, budget))
        assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
        for batch in batches:
            assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget
        longest = [lengths[row] for batch in batches for row in batch]
        assert longest == sorted(lengths, reverse=True)

    def test_no_rows(self) -> None:
        assert list(token_batches([], 8)) == []
