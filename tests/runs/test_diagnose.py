"""The reference that a run keeps, `cr-hf diagnose`, and how sensitive a prediction is to each token."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import cr_hf.cli
from cr_hf import CRForSequenceClassification
from cr_hf.data import load_rows
from cr_hf.evaluation.sensitivity import fit_temperature, gradient_tail_ratio, input_gradient_norms
from cr_hf.evaluation.tokens import _gradients, token_gradient_norms
from cr_hf.features.encode import encode_texts
from cr_hf.runs.diagnose import compare_with_reference, comparison_lines, diagnose_texts
from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.train import train_recipe
from cr_hf.runs.use import Run

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "demo.yaml"
TINY = ["data.max_train_samples=60", "data.max_eval_samples=30", "num_train_epochs=1", "use_cpu=true"]

TinyBackbone = Callable[..., Path]


@pytest.fixture(scope="module")
def finished(tiny_backbone: TinyBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    values = [f"backbone={tiny_backbone('bert')}", f"output_dir={folder}", "hidden_sizes=[8]", *TINY]
    return train_recipe(load_recipe(RECIPE, values))


def diagnose(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["cr-hf", "diagnose", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        cr_hf.cli.main()
    return int(stopped.value.code or 0)


def reference_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text(encoding="utf-8"))["diagnostics"]


def test_a_run_keeps_a_reference_of_the_saved_model(finished: Path) -> None:
    reference = reference_of(finished)
    run = Run(finished)
    model, tokenizer, recipe = run.model, run.tokenizer, run.recipe
    assert set(reference["splits"]) == {"validation", "test"}
    rows = load_rows(recipe.data, "single_label_classification", splits=["validation", "test"])
    for name, found in reference["splits"].items():
        features = torch.from_numpy(np.asarray(encode_texts(model, tokenizer, rows[name]["text"], cache_dir=False)))
        norms = input_gradient_norms(model.classifier, features)
        assert found["rows"] == len(rows[name])
        assert found["gradients"]["margin"]["tail_ratio"] == pytest.approx(gradient_tail_ratio(norms), rel=1e-3)
        assert found["gradients"]["margin"]["peak"] == pytest.approx(norms.max().item(), rel=1e-3)
        assert found["linear"]["tail_ratio"] >= 1
        assert found["largest_slope_found"] <= found["lipschitz_bound"]
        if name == "validation":
            assert reference["reference_norms"] == pytest.approx(norms.tolist(), rel=1e-3)
            logits = model.predict_texts(rows[name]["text"], tokenizer)
            best = fit_temperature(logits.numpy(), rows[name]["label"])
            assert found["calibration"]["temperature"] == pytest.approx(best, rel=1e-2)
    assert reference["linear_head"]["rows"] == 60


def test_diagnose_prints_the_reference_and_needs_no_data(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert diagnose(monkeypatch, finished, "--output", tmp_path / "found.json") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Rows of test are ")
    for word in (
        "[low, high]: 95 %",
        "gradient tail ratio, margin",
        "of a linear head",
        "non-linearity",
        "Lipschitz bound",
        "temperature",
    ):
        assert word in printed
    ratio = reference_of(finished)["splits"]["test"]["gradients"]["margin"]["tail_ratio"]
    assert f"{ratio:.4g} [" in printed
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8")) == reference_of(finished)
    assert diagnose(monkeypatch, finished, "--json") == 0
    assert json.loads(capsys.readouterr().out) == reference_of(finished)


def test_new_texts_are_held_against_the_reference(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    source = tmp_path / "texts.txt"
    source.write_text("a gorgeous film\n<script>alert(1)</script> & dull\nso boring\n", encoding="utf-8")
    page, output = tmp_path / "tokens.html", tmp_path / "found.json"
    assert diagnose(monkeypatch, finished, source, "--output", output, "--html", page) == 0
    printed = capsys.readouterr().out
    assert "new texts" in printed
    assert "The gradient tail ratio of these texts is" in printed
    found = json.loads(output.read_text(encoding="utf-8"))["new_texts"]
    assert found["rows"] == 3
    assert set(found["comparison"]) == {"tail_ratio", "peak"}
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html
    assert not re.search(r"(src|href)=|https?:", html)
    assert html.count("<figure>") == 3
    assert not re.search(r"\[(CLS|SEP)\]|>##", html), "special tokens, or pieces of words"
    assert re.search(r">gorgeous</span>", html)
    assert re.search(r"predicted: [\w ]+ \(([\w ]+ 0\.\d{3}(, )?){5}\)", html)
    assert "sensitive" in html
    assert "prefers-color-scheme: dark" in html


def test_unusual_texts_are_named(finished: Path) -> None:
    model, tokenizer = Run(finished).model, Run(finished).tokenizer
    reference = reference_of(finished)
    usual = diagnose_texts(model, tokenizer, ["a fine film", "not bad at all"], reference)
    assert usual["gradients"]["margin"]["peak"] > 0
    assert "calibration" not in usual
    norms = np.array(reference["reference_norms"])
    same = compare_with_reference(norms, norms)
    assert all(part["outside"] is None and part["ratio"] == 1 for part in same.values())
    steep = compare_with_reference([*np.tile(norms, 5), *[norms.max() * 30] * 5], np.tile(norms, 40))
    assert {part["outside"] for part in steep.values()} == {"above"}
    even = compare_with_reference(np.full(30, norms.min() / 2), norms)
    assert {part["outside"] for part in even.values()} == {"below"}
    lines = comparison_lines({"rows": 155, "comparison": steep}, "texts")
    assert len(lines) == 2
    assert all("above what is usual" in line for line in lines)


@pytest.mark.parametrize("rows", [10, 200])
def test_rows_like_those_of_the_reference_are_rarely_called_unusual(rows: int) -> None:
    """In 5 % of samples, however many rows they have: the peak of a long tail is as uncertain in the reference."""
    generator = np.random.default_rng(0)
    samples = [generator.lognormal(size=rows + 100) for _ in range(60)]
    found = [compare_with_reference(norms[:rows], norms[rows:]) for norms in samples]
    for name in ("tail_ratio", "peak"):
        assert sum(one[name]["outside"] is not None for one in found) <= 7
        assert all(one[name]["interval"][0] <= one[name]["interval"][1] for one in found)


def test_mistakes_are_one_line(
    finished: Path,
    tiny_backbone: TinyBackbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "recipe.yaml").write_text("{}", encoding="utf-8")
    old = tmp_path / "old"
    old.mkdir()
    (old / "results.json").write_text("{}", encoding="utf-8")
    (old / "recipe.yaml").write_bytes((finished / "recipe.yaml").read_bytes())
    run = Run(finished)
    broken, tokenizer = run.model, run.tokenizer
    with torch.no_grad():
        next(broken.backbone.parameters())[:] = torch.nan
    for name in ("recipe.yaml", "results.json"):
        (tmp_path / "broken").mkdir(exist_ok=True)
        (tmp_path / "broken" / name).write_bytes((finished / name).read_bytes())
    broken.save_pretrained(tmp_path / "broken")
    tokenizer.save_pretrained(tmp_path / "broken")
    for arguments, message in (
        ([tmp_path / "none"], "is no run directory"),
        ([unfinished], "is not finished: continue it with --resume"),
        ([old], "before diagnostics were kept"),
        ([finished, tmp_path / "empty.txt"], "there are no texts to diagnose"),
        ([finished, "none.csv"], "none.csv"),
        ([finished, "--html", tmp_path / "x.html"], "give the texts"),
        ([tmp_path / "broken", "a film"], "broken: backbone.embeddings.word_embeddings.weight is not finite"),
    ):
        assert diagnose(monkeypatch, *arguments) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert message in errors[0]


@pytest.mark.parametrize(
    "more",
    [
        ["freeze_backbone=false"],
        ["freeze_backbone=false", "objective=ordinal", "ordinal_loss=cumulative_link"],
        ["lora_r=2"],
    ],
)
def test_backbones_that_train_are_diagnosed_by_their_features(
    more: list[str], tiny_backbone: TinyBackbone, tmp_path: Path
) -> None:
    values = [f"backbone={tiny_backbone('bert')}", f"output_dir={tmp_path / 'run'}", "hidden_sizes=[8]", *TINY, *more]
    found = reference_of(train_recipe(load_recipe(RECIPE, values)))["splits"]["test"]
    assert found["gradients"]["margin"]["tail_ratio"] > 0
    assert found["lipschitz_of"] == ("score" if "objective=ordinal" in more else "logits")


# ---- tokens ----


def test_token_sensitivity_is_the_gradient_by_the_embeddings(family: str, tiny_backbone: TinyBackbone) -> None:
    folder = tiny_backbone(family)
    model = CRForSequenceClassification.from_backbone(folder, num_labels=3, hidden_sizes=[8], freeze_backbone=True)
    model.fit_feature_norm(torch.randn(20, model.config.in_features))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "a gorgeous, witty film"
    [(_, ids, norms)] = _gradients(model, tokenizer, [text])
    assert torch.equal(ids, tokenizer(text, return_tensors="pt")["input_ids"])
    embeddings = model.backbone.get_input_embeddings()(ids).detach()

    def margin(inputs_embeds: torch.Tensor) -> torch.Tensor:
        top = model(inputs_embeds=inputs_embeds).logits[0].topk(2).values
        return top[0] - top[1]

    expected = torch.autograd.functional.jacobian(margin, embeddings)[0].norm(dim=-1)
    assert norms[0].tolist() == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-6)
    together = token_gradient_norms(model, tokenizer, ["awful", text, "fine"])
    assert together[1].item() == pytest.approx(expected.norm().item(), rel=1e-3)
    assert all(parameter.grad is None for parameter in model.parameters())
