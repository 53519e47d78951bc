"""Model cards: every number from results.json, text written by hand kept, nothing in a label taken for markup."""

import copy
import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from sample_run import CONFIG, RESULTS, STUDY

from cr_hf.errors import CheckpointError
from cr_hf.hub.card import escape, render_card, write_card
from cr_hf.runs.directory import EVAL_RESULTS

CARDS = Path(__file__).parents[2] / "model_cards"


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:[.,]\d+)*", text))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "results.json").write_text(json.dumps(RESULTS), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return tmp_path


def test_the_card_is_short_and_its_metadata_are_read_back() -> None:
    card = render_card(RESULTS, CONFIG, "me/sst5", license="apache-2.0")
    assert len(str(card).splitlines()) < 120
    assert len(ModelCard(str(card)).text.strip().splitlines()) < 80
    data = ModelCard(str(card)).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "text-classification"
    assert data.tags == ["chainzrule", "dreg", "cr"]
    assert data.datasets == ["SetFit/sst5"]
    assert data.license == "apache-2.0"
    assert data.base_model == "org/encoder"
    assert data.to_dict()["base_model_revision"] == "f" * 40
    measured = {(entry.dataset_split, entry.metric_type): entry.metric_value for entry in data.eval_results}
    assert measured[("test", "accuracy")] == 0.4731
    assert len(measured) == 4


def test_every_number_comes_from_the_results() -> None:
    changed = copy.deepcopy(RESULTS)
    changed["metrics"]["test"]["accuracy"] = 0.8765
    changed["training"]["seed"] = 99
    for results in (RESULTS, changed):
        text = ModelCard(str(render_card(results, CONFIG, "me/sst5", study=STUDY))).text
        allowed = numbers(json.dumps(results) + json.dumps(CONFIG) + "44.0 45.0 48.0 1.0 100 95 ")
        allowed |= {f"{float(number):.4f}" for number in numbers(json.dumps(results["metrics"]))}
        allowed |= {f"{number:,}" for number in (8544, 1101, 2210, 2688, 362373, 22927749)} | {
            "2",
            "6",
            "3",
            "2013",
            "5",
        }
        arxiv = {"2605.15463", "2605.24340", "2606.07908", "2606.23942"}
        assert numbers(text) - allowed - arxiv == set()
    assert "0.8765" in text
    assert "Seed 99" in text


def test_the_loss_of_ordered_classes_is_named() -> None:
    for model, said in (
        ({"objective": "ordinal"}, "loss `cumulative_link`"),  # of 0.1.0, which had no other
        (
            {"objective": "ordinal", "ordinal_loss": "squared_emd", "soft_labels": 1.0},
            "`squared_emd`, soft labels 1.0",
        ),
    ):
        results = {**RESULTS, "model": {**RESULTS["model"], **model}}
        assert said in str(render_card(results, CONFIG, "me/sst5"))


def test_sections_without_content_are_left_out() -> None:
    text = str(render_card(RESULTS, CONFIG, "me/sst5"))
    assert "Beside other heads" not in text
    assert "Sensitivity" not in text
    full = {**RESULTS, "diagnostics": {"gradient_tail_ratio": 1.234, "lipschitz_bound": 56.7}}
    text = str(render_card(full, CONFIG, "me/sst5", study=STUDY))
    assert "gradient tail ratio: 1.234" in text
    assert "| cr+dreg | 48.0 ± 1.0 |" in text
    private = {**RESULTS, "data": {**RESULTS["data"], "source": "local files"}, "metrics": {}}
    text = str(render_card(private, {}, "runs/mine"))
    assert "## Results" not in text
    assert "Licence" not in text
    assert "model-index" not in text
    assert ModelCard(text).data.datasets is None


def test_a_regression_model_has_no_classes() -> None:
    measured = {"mean_squared_error": 0.25, "r_squared": None, "rows": 10}
    results = {**RESULTS, "data": {**RESULTS["data"], "labels": None}, "metrics": {"test": measured}}
    card = ModelCard(str(render_card(results, {}, "me/x")))
    assert card.data.metrics == ["mse"]
    assert "A regression model" in card.text
    assert "| mean squared error | 0.2500 |" in card.text


def test_a_local_copy_of_a_data_set_claims_nothing_on_a_leaderboard(run_dir: Path) -> None:
    files = {"source": "local files", "in_place_of": "SetFit/sst5", "revision": None}
    results = {**RESULTS, "data": {**RESULTS["data"], **files}}
    (run_dir / "results.json").write_text(json.dumps(results), encoding="utf-8")
    write_card(run_dir, name="me/x")
    card = ModelCard((run_dir / "README.md").read_text(encoding="utf-8"))
    assert card.data.eval_results is None
    assert card.data.datasets is None
    assert "data: local files, in place of SetFit/sst5; rows" in card.text
    assert "Stanford Sentiment Treebank" in card.text
    assert not (run_dir / EVAL_RESULTS).exists()


def test_the_demo_says_that_it_is_synthetic() -> None:
    demo = {**RESULTS, "data": {**RESULTS["data"], "source": "embedded", "synthetic": True}}
    assert "synthetic" in str(render_card(demo, {}, "demo"))


def test_labels_are_no_markup() -> None:
    labels = [
        "<script>alert(1)</script>",
        "a|b",
        "**bold**",
        "[x](http://evil)",
        "two\nlines",
        "`code`",
        "# head",
        "---",
    ]
    results = {**RESULTS, "data": {**RESULTS["data"], "labels": labels}}
    text = str(render_card(results, {}, "me/x"))
    assert "<script>" not in text
    assert "[x](" not in text
    assert "a\\|b" in text
    assert "two lines" in text
    assert ModelCard(text).data.library_name == "transformers"
    assert escape("{{ 7 * 7 }} {% x %}").count("\\{") == 3


def test_jinja_in_a_label_or_in_text_by_hand_is_not_run() -> None:
    results = {**RESULTS, "data": {**RESULTS["data"], "labels": ["{{ 7 * 771 }}"]}}
    card = str(render_card(results, {}, "me/x", earlier=["Mine: {{ 7 * 771 }}"]))
    assert "5397" not in card
    assert "Mine: {{ 7 * 771 }}" in card


def test_text_by_hand_survives_here_and_on_the_hub(run_dir: Path) -> None:
    write_card(run_dir, name="me/sst5")
    first = (run_dir / "README.md").read_text(encoding="utf-8")
    write_card(run_dir, name="me/sst5")
    assert (run_dir / "README.md").read_text(encoding="utf-8") == first
    local = first.replace("<!-- cr-hf begin", "Read this first.\n\n<!-- cr-hf begin") + "\n\n## Ethics\n\nMine.\n"
    (run_dir / "README.md").write_text(local, encoding="utf-8")
    online = first.replace("library_name", "language: en\nlibrary_name") + "\nAdded on the web.\n"
    write_card(run_dir, name="me/sst5", published=online)
    card = ModelCard((run_dir / "README.md").read_text(encoding="utf-8"))
    assert card.data.language == "en"
    for text in ("Read this first.", "## Ethics", "Mine.", "Added on the web."):
        assert card.text.count(text) == 1
    assert card.text.index("Read this first.") < card.text.index("# sst5") < card.text.index("Added on the web.")
    second = (run_dir / "README.md").read_text(encoding="utf-8")
    write_card(run_dir, name="me/sst5", published=second)
    assert (run_dir / "README.md").read_text(encoding="utf-8") == second


def test_a_card_written_wholly_by_hand_is_kept(run_dir: Path) -> None:
    write_card(run_dir, name="me/x", published="---\nlicense: mit\n---\n# My own words\n")
    card = ModelCard((run_dir / "README.md").read_text(encoding="utf-8"))
    assert "# My own words" in card.text
    assert card.data.license == "mit"


def test_eval_results_are_in_the_form_of_the_hub(run_dir: Path) -> None:
    write_card(run_dir)
    [entry] = parse_eval_result_entries(yaml.safe_load((run_dir / EVAL_RESULTS).read_text(encoding="utf-8")))
    assert (entry.dataset_id, entry.value, entry.dataset_revision) == ("SetFit/sst5", 0.4731, "abc123")


def test_a_run_has_no_code_beside_it_and_a_published_model_has(run_dir: Path) -> None:
    for name in (None, "me/x"):
        write_card(run_dir, name=name)
        block = (run_dir / "README.md").read_text(encoding="utf-8").split("```")[1]
        assert ("import cr_hf" in block) is (name is None)
        assert ("trust_remote_code=True" in block) is (name is not None)


def test_no_path_of_this_machine_travels(run_dir: Path) -> None:
    write_card(run_dir)
    assert str(run_dir.parent) not in (run_dir / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("card", sorted(CARDS.glob("*/results.json")), ids=lambda path: path.parent.name)
def test_committed_cards_are_those_of_their_results(card: Path, tmp_path: Path) -> None:
    folder = card.parent
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_card(tmp_path, name=about["name"], license=about["license"])
    assert (tmp_path / "README.md").read_bytes() == (folder / "README.md").read_bytes()
    assert (tmp_path / EVAL_RESULTS).exists() == (folder / EVAL_RESULTS).exists()
    assert len(ModelCard((folder / "README.md").read_text(encoding="utf-8")).text.strip().splitlines()) < 80


@pytest.mark.parametrize(("content", "message"), [(None, "is missing"), ("{", "is not JSON")])
def test_an_unfinished_run_has_no_card(content: str | None, message: str, run_dir: Path) -> None:
    (run_dir / "results.json").unlink()
    if content is not None:
        (run_dir / "results.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        write_card(run_dir)
    assert not (run_dir / "README.md").exists()


def test_what_was_noted_in_the_data_stands_in_the_card() -> None:
    data = {**RESULTS["data"], "understood": {"notes": ["test.csv: 2 rows of test also stand in train"]}}
    card = str(render_card({**RESULTS, "data": data}, CONFIG, "me/tiny"))
    assert "test.csv: 2 rows of test also stand in train" in card
