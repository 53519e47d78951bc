"""Model cards: everything they say comes from the files of a finished run."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData
from huggingface_hub import eval_result_entries_to_yaml as entries_to_yaml

from .._registration import model_class_of
from ..errors import CheckpointError
from ..files import Json, markdown_table, read_json, write_text
from ..runs import (
    CARD,
    CARD_BEGINS,
    CARD_ENDS,
    EVAL_RESULTS,
    RESULTS,
    Answer,
    LambdaChoice,
    beside_sentence,
    class_rows,
    confusion_rows,
    metric_table,
)

DATA_LICENCES = {
    "SetFit/sst5": "SST-5 comes from the Stanford Sentiment Treebank (Socher et al., 2013), which names no licence: "
    "see its authors' page before commercial use.",
    "Yelp/yelp_review_full": "Yelp reviews are under the Yelp Dataset Terms of Use: academic, non-commercial use.",
}
READ = {"image-classification": "image", "audio-classification": "sound", "token-classification": "token"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SECONDS = (
    ("seconds_preparing", "to prepare (features kept from an earlier run are not computed again)"),
    ("seconds_training", "of training"),
)
# Those that the Hub knows: its name and ours.
METRICS = (("accuracy", "accuracy"), ("f1", "macro_f1"), ("mse", "mean_squared_error"))


def write_card(
    run_dir: Path,
    folder: Path | None = None,
    name: str | None = None,
    license: str | None = None,
    published: str | None = None,
) -> None:
    """Write `README.md` and `.eval_results` of a finished run.

    Args:
        run_dir: the run; its `README.md` and its `study.json` are read if they are there.
        folder: where to write, and whose `results.json` and `config.json` are described; the run directory by
            default.
        name: Hub id that the card tells how to load; the run directory's name by default.
        license: of the model, as the Hub names it; left out by default.
        published: the card on the Hub, whose text and metadata written by hand are kept.

    Raises:
        CheckpointError: if the run is not finished.
    """
    folder = folder or run_dir
    mend = "a card needs a finished run, train it again"
    results, config = read_json(folder / RESULTS, mend), read_json(folder / "config.json", mend)
    study = read_json(run_dir / "study.json", "make the study again") if (run_dir / "study.json").is_file() else None
    mine = run_dir / CARD
    cards = [card for card in (mine.read_text(encoding="utf-8") if mine.is_file() else None, published) if card]
    title = name or (str(run_dir) if not run_dir.is_absolute() else run_dir.name)
    try:
        card = render_card(results, config, title, license, study, cards, is_local=name is None)
        entries = _entries(results)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, yaml.YAMLError, RecursionError) as error:
        cause = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise CheckpointError(f"{run_dir}: no card can be made of its files ({cause}): train the run again") from error
    write_text(folder / CARD, str(card))
    if entries:
        path = folder / EVAL_RESULTS
        path.parent.mkdir(exist_ok=True)
        write_text(path, yaml.safe_dump(entries_to_yaml(entries), sort_keys=False))


def render_card(
    results: Json,
    config: Json,
    name: str,
    license: str | None = None,
    study: Json | None = None,
    earlier: Sequence[str] = (),
    is_local: bool = False,
) -> ModelCard:
    """The card of a run.

    Args:
        results: `results.json`.
        config: `config.json`.
        name: Hub id or folder that is loaded.
        license: of the model.
        study: `study.json`, for the comparison with other heads.
        earlier: earlier cards; what was written by hand in them is kept.
        is_local: of a run, which has no code beside it as a published model has.

    Returns:
        The card; `str()` of it is `README.md`.
    """
    data = _metadata(results, config, name, license)
    before, after = "", ""
    for text in earlier:
        old = ModelCard(text, ignore_metadata_errors=True)
        for key, value in old.data.to_dict().items():
            if key == "tags" and isinstance(value, list):
                data.tags = list(dict.fromkeys([*(data.tags or []), *value]))
            if getattr(data, key, None) is None and key != "model-index":
                setattr(data, key, value)
        head, tail = _by_hand(old.text)
        before, after = _join(before, head), _join(after, tail)
    read = READ.get(_pipeline_tag(results, config), "text")
    return ModelCard.from_template(
        data,
        template_path=str(_template()),
        title=escape(name.rstrip("/").split("/")[-1]),
        name=name.replace('"', ""),
        is_local=is_local,
        is_table=_is_table(results),
        task="" if _is_table(results) else model_class_of(config).pipeline_tag,
        what=_what(results, read),
        backbone=_backbone(config),
        training=_training(results),
        lambda_choice=_lambda_choice(LambdaChoice(**results["lambda_choice"])) if results.get("lambda_choice") else "",
        synthetic=results["data"]["synthetic"],
        results=_results_table(results["metrics"]),
        answer=_answer(results),
        seed=int(results["training"]["seed"]),
        comparison=_comparison(study) if study else "",
        diagnostics=_sensitivity(results.get("diagnostics") or {}),
        limits=_limits(results, "row" if _is_table(results) else read),
        data_licence=DATA_LICENCES.get(results["data"].get("in_place_of") or results["data"]["source"], ""),
        version=escape(results["cr_hf_version"]),
        user_before=before,
        user_after=after,
    )


def _what(results: Json, read: str) -> str:
    """One sentence: the task, the head and what it reads."""
    model, labels = results["model"], results["data"]["labels"] or []
    kind = (
        "ChainzRule (CR) head" if model["activation"] == "polynomial" else f"MLP head ({escape(model['activation'])})"
    )
    is_table = _is_table(results)
    classes = (
        f"A {'table' if is_table else read} classifier with {len(labels)} classes ({', '.join(map(escape, labels))})"
    )
    task = classes if labels else "A regression model for texts"
    task += f", trained on {code(title)}" if (title := results["data"].get("title")) else ""
    frozen = "frozen" if model["freeze_backbone"] else "fine-tuned"
    encoder = f"a {frozen} {code(model['backbone_type'])} encoder"
    return (
        f"{task}: a {kind} with widths {_widths(model)} on {'numeric columns' if is_table else encoder}, "
        f"trained with Differential Regularization (DREG), a penalty on the Jacobian of every layer."
    )


def _template() -> Path:
    """Inside an installed package, beside it in a checkout."""
    places = [
        folder / "model_cards" / "template.md" for folder in (Path(__file__).parents[1], Path(__file__).parents[2])
    ]
    return next(place for place in places if place.is_file())


def escape(text: str) -> str:
    """Text as Markdown and HTML show it, on one line: a label may hold anything."""
    one_line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]()#|~!])", r"\\\1", html.escape(one_line, quote=False))


def code(text: Any) -> str:
    """Text as a span of code, whatever it holds."""
    return f"`{' '.join(str(text).replace('`', ' ').split())}`"


def _widths(model: Json) -> list[int]:
    return [int(size) for size in model["hidden_sizes"]]


def _metadata(results: Json, config: Json, name: str, license: str | None) -> ModelCardData:
    base = config.get("backbone_source") or {}
    source = results["data"]["source"]
    is_hub_data = _is_of_the_hub(results)
    values: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": _pipeline_tag(results, config),
        "tags": ["chainzrule", "dreg", "cr"],
        "metrics": [kind for kind, key in METRICS if any(key in found for found in results["metrics"].values())],
        "license": license,
        "base_model": base.get("repo_id"),
        "base_model_revision": base.get("revision"),
        "datasets": [source] if is_hub_data else None,
    }
    if is_hub_data:
        values["model_name"] = name.split("/")[-1]
        values["eval_results"] = [
            EvalResult(
                task_type=_pipeline_tag(results, config),
                dataset_type=source,
                dataset_name=source,
                dataset_split=split,
                dataset_revision=results["data"]["revision"],
                metric_type=kind,
                metric_value=measured[key],
            )
            for split, measured in results["metrics"].items()
            for kind, key in METRICS
            if key in measured
        ]
    return ModelCardData(**{key: value for key, value in values.items() if value})


def _pipeline_tag(results: Json, config: Json) -> str:
    return "tabular-classification" if _is_table(results) else model_class_of(config).pipeline_tag


def _is_table(results: Json) -> bool:
    """Whether the run is that of a table, which has no backbone."""
    return results["model"]["backbone_type"] is None


def _is_of_the_hub(results: Json) -> bool:
    """Whether the rows came from the Hub: local files may be a sample, and must not stand on a leaderboard."""
    return bool(HUB_ID.fullmatch(results["data"]["source"]))


def _entries(results: Json) -> list[EvalResultEntry]:
    """Accuracy on the test split, where the data are a data set of the Hub."""
    data, measured = results["data"], results["metrics"].get("test")
    if not _is_of_the_hub(results) or measured is None or "accuracy" not in measured:
        return []
    low, high = measured["accuracy_interval"]
    notes = f"accuracy on the test split, 95 % interval {low:.4f} to {high:.4f}, seed {results['training']['seed']}"
    return [
        EvalResultEntry(
            dataset_id=data["source"],
            task_id="default",
            value=measured["accuracy"],
            dataset_revision=data["revision"],
            notes=notes,
        )
    ]


def _backbone(config: Json) -> str:
    if not config.get("head_only"):
        return ""
    source, places = config["backbone_source"], []
    if "package" in source:
        package = code(f"{source['package']}=={source['version']}")
        places.append(f"the package {package} if it is installed")
    if "repo_id" in source:
        places.append(f"{code(source['repo_id'])} at commit {code(source['revision'])}")
    where = ", else from ".join(places)
    return f"This repository holds the head alone. The frozen encoder comes from {where}; its SHA-256 is checked."


def _training(results: Json) -> list[str]:
    data, model, run, machine = (results[key] for key in ("data", "model", "training", "environment"))
    rows = ", ".join(f"{count:,} {escape(split)}" for split, count in data["rows"].items())
    revision = f" at revision {code(data['revision'])}" if data["revision"] else ""
    stands_for = f", in place of {escape(data['in_place_of'])}" if data.get("in_place_of") else ""
    pooled = f"{code(model['pooling'])} pooling of hidden states {code(model['feature_layers'])}, "
    pooled = "" if _is_table(results) else pooled
    versions = {"cr_hf": results["cr_hf_version"]}
    versions |= {name: machine[name.lower()] for name in ("torch", "transformers", "Python")}
    times = [f"{run[key]:,} s {what}" for key, what in SECONDS if run.get(key) is not None]
    trials = (results.get("search") or {}).get("trials", [])
    searched = [f"settings: the best of {len(trials)} on the validation rows"] if trials else []
    return [
        f"data: {escape(data['source'])}{revision}{stands_for}; rows: {rows}",
        f"DREG lambda {model['dreg_lambda']:.4g} at widths {_widths(model)} (mode {code(model['dreg_mode'])}), "
        f"dropout {float(model['dropout'])}{_order(model)}",
        *searched,
        f"features: {pooled}{model['in_features']:,} wide, {code(model['feature_norm'])}",
        f"{model['parameters_head']:,} parameters in the head, {model['parameters_total']:,} in all",
        f"epochs: {run['epochs']:g}; steps: {run['steps']:,}; {', '.join(times)} on {escape(machine['device'])}, with "
        + ", ".join(f"{name} {escape(version)}" for name, version in versions.items()),
    ]


def _sensitivity(diagnostics: Json) -> list[str]:
    """The numbers that runs of 0.1.0 have, and the certified accuracy of every split in one line."""
    numbers = {key: value for key, value in diagnostics.items() if isinstance(value, int | float)}
    said, lines = [f"{escape(key.replace('_', ' '))}: {value:.4g}" for key, value in numbers.items()], []
    for split, found in diagnostics.get("splits", {}).items():
        certified = found.get("certified") or {}
        shares, rows = certified.get("accuracy", {}), certified.get("rows", found["rows"])
        curve = ", ".join(f"{share:.4f} within {escape(radius)}" for radius, share in shares.items())
        sample = f" ({rows:,} random rows)" if rows < found["rows"] else ""
        lines += [f"on {escape(split)}{sample} {curve}"] if curve else []
    about = "right, and certain to stay so while the features that the head reads move by so much in L2, in deviations"
    about += " of a feature over the training rows; of words it says nothing"
    return [*said, f"certified accuracy ({about}): {'; '.join(lines)}"] if lines else said


def _order(model: Json) -> str:
    """How the order of the classes was used, if it was; runs of 0.1.0 knew the cumulative link alone."""
    loss = (
        f", loss {code(model.get('ordinal_loss', 'cumulative_link'))}" if model.get("objective") == "ordinal" else ""
    )
    return loss + (f", soft labels {model['soft_labels']}" if model.get("soft_labels") else "")


def _lambda_choice(choice: LambdaChoice) -> str:
    """How lambda was chosen, and the curve."""
    curve = zip(choice.grid, choice.accuracies, choice.standard_errors, strict=True)
    return (
        f"DREG lambda {choice.chosen:.3g} was chosen on the validation rows by the one-standard-error rule: "
        f"of {len(choice.grid)} values the largest whose accuracy, the mean of {len(choice.seeds)} seeds, is at "
        f"most one standard error (over rows) below that of the best, {choice.best:.3g}.\n\n"
    ) + markdown_table(
        [
            ["lambda", "validation accuracy", "standard error"],
            *([f"{value:.3g}", f"{accuracy:.4f}", f"{error:.4f}"] for value, accuracy, error in curve),
        ]
    )


def _results_table(metrics: dict[str, Json]) -> str:
    if not metrics:
        return ""
    header, *rows = metric_table({escape(split): values for split, values in metrics.items()})
    return markdown_table([header, *([escape(name.replace("_", " ")), *cells] for name, *cells in rows)])


def _answer(results: Json) -> str:
    """Simpler classifiers beside the head, the scores of the classes and, unless they are many, what is confused."""
    found = Answer.of(results)
    if found is None:
        return ""
    rows, confused = class_rows(found), confusion_rows(found)
    if len(rows) == len(confused) and len(confused[0]) == len(rows):
        taken = [[f"taken for {name}" for name in confused[0][1:]], *(row[1:] for row in confused[1:])]
        rows = [[*scores, *counts] for scores, counts in zip(rows, taken, strict=True)]
    table = markdown_table([[escape(cell) for cell in row] for row in rows])
    return "\n\n".join(part for part in (escape(beside_sentence(found)), table) if part)


def _comparison(study: Json) -> str:
    """Test accuracy of the study's heads at its largest share of the labels."""
    fraction = max(study["fractions"], key=float)
    rows = []
    for head, cell in study["fractions"][fraction]["heads"].items():
        values = 100 * np.array(cell["test_accuracies"])
        rows.append([escape(head), f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"])
    return (
        f"Test accuracy in percent at {float(fraction):.0%} of the labels, mean ± standard deviation of "
        f"{int(study['seeds'])} seeds, settings chosen on validation.\n\n"
    ) + markdown_table([["head", "accuracy"], *rows])


def _limits(results: Json, row: str) -> list[str]:
    labels = ", ".join(map(escape, results["data"]["labels"] or []))
    encoder = "" if _is_table(results) else " and of its encoder"
    others = "domains, languages and lengths" if row == "text" else "populations"
    classes = f"It knows these classes only: {labels}. Any {row} gets one of them, whatever it is about."
    noted = (results["data"].get("understood") or {}).get("notes", [])
    return [
        classes if labels else "Any text gets a number, whatever it is about.",
        f"It was measured on the data above; other {others} were not measured here.",
        *([f"Noted in its data: {'; '.join(map(escape, noted))}."] if noted else []),
        f"It repeats the biases of its training data{encoder}. Do not decide about people with it.",
    ]


def _by_hand(text: str) -> tuple[str, str]:
    """What stands before and after the generated block; a card without the block is all by hand."""
    start, end = text.find(CARD_BEGINS), text.find(CARD_ENDS)
    if start < 0 or end < start:
        return "", text.strip()
    return text[:start].strip(), text[end + len(CARD_ENDS) :].strip()


def _join(first: str, second: str) -> str:
    if second in first:
        return first
    return second if first in second else f"{first}\n\n{second}"
