"""A page on which one types a text and sees its classes, how stable they are, and which words they depend on.

`cr-hf demo RUN` serves it for a run, and in a Space of the Hub it stands beside the model that `MODEL` names.
"""

import os

import gradio as gr
import torch
from perturbations import perturb_text
from transformers import AutoModelForSequenceClassification, AutoTokenizer

MODEL = os.environ.get("CR_HF_MODEL", "{{ model }}")
STRONGEST = 0.7  # beyond that a word cannot be read on its colour
ABOUT = """The certified radius says how far the features that the head reads can move, in standard deviations of a
feature over the training rows and in L2 over all of them, before the class can change. It says nothing about words:
move the slider to see what typing errors do. The stronger a word's colour, the more the margin between the two
likeliest classes changes with the word's embedding."""

tokenizer = AutoTokenizer.from_pretrained(MODEL)
model = AutoModelForSequenceClassification.from_pretrained(MODEL, trust_remote_code=True).eval()
# Given by `cr-hf demo`; a Space has no training rows.
counts_nearest = globals().get("counts_nearest", lambda *_: None)(model, tokenizer)


def word_sensitivity(text: str, inputs: dict[str, torch.Tensor]) -> list[tuple[str, float]]:
    """Every word with the L2 norm of the margin's gradient by its embeddings; the largest is `STRONGEST`."""
    spans = inputs["offset_mapping"][0].tolist()
    embeddings = model.get_input_embeddings()(inputs["input_ids"]).detach().requires_grad_()
    top = model(inputs_embeds=embeddings, attention_mask=inputs["attention_mask"]).logits.topk(2).values
    (gradient,) = torch.autograd.grad((top[0, 0] - top[0, 1]), embeddings)
    norms = gradient[0].norm(dim=-1).tolist()
    words: list[tuple[int, int, float]] = []
    for (start, end), norm in zip(spans, norms, strict=True):
        if words and start == words[-1][1] and text[start - 1 : end].isalnum():  # a piece of the same word
            words[-1] = (words[-1][0], end, max(words[-1][2], norm))
        elif start < end:
            words.append((start, end, norm))
    largest = max((norm for *_, norm in words), default=0.0) or 1.0
    return [(text[start:end], STRONGEST * norm / largest) for start, end, norm in words]


def classify(text: str, severity: float) -> tuple[str, dict[str, float], str, str, list[tuple[str, float]]]:
    """What the page shows of a text, damaged as far as the slider says."""
    read = perturb_text(text, "typos", int(severity)) if severity else text
    if not read.strip():
        return read, {}, "Type a text first.", "", []
    (logits,) = model.predict_texts([read], tokenizer)
    names = model.config.id2label
    classes = {names[number]: float(share) for number, share in enumerate(logits.softmax(-1))}
    longest = model.config.max_length_for(tokenizer)
    options = {"truncation": True, "max_length": longest, "return_tensors": "pt", "return_offsets_mapping": True}
    inputs = tokenizer(read, **options)
    radius = float(model.certified_radius(inputs["input_ids"], inputs["attention_mask"])[0])
    counts = counts_nearest(read) if counts_nearest else {}
    nearest = ", ".join(f"{count} {label}" for label, count in counts.items())
    nearest = f"The {sum(counts.values())} nearest training texts: {nearest}" if counts else ""
    certified = f"Certified radius: **{radius:.3g}** standard deviations"
    return read, classes, certified, nearest, word_sensitivity(read, inputs)


# Fonts of the system: those of gradio's themes are fetched from elsewhere.
theme = gr.themes.Default(primary_hue="blue", font="system-ui", font_mono="monospace")
theme.set(button_primary_background_fill="*primary_600", button_primary_background_fill_dark="*primary_700")
with gr.Blocks(title="How sure, and how stable?") as page:
    gr.Markdown(f"# How sure, and how stable?\n{os.path.basename(MODEL)}")
    with gr.Row():
        with gr.Column():
            text = gr.Textbox(label="Text", placeholder="Type or paste a text.", lines=4, elem_id="text")
            severity = gr.Slider(0, 5, 0, step=1, label="Typing errors, from none to 20 % of the letters")
            button = gr.Button("Classify", variant="primary", elem_id="classify")
            read = gr.Textbox(label="The text as it is read", interactive=False, elem_id="read")
        with gr.Column():
            classes = gr.Label(label="Classes", num_top_classes=5, elem_id="classes")
            radius = gr.Markdown(elem_id="radius")
            nearest = gr.Markdown(elem_id="nearest")
            words = gr.HighlightedText(label="What the answer depends on", show_legend=False, elem_id="words")
    gr.Markdown(ABOUT)
    for event in (button.click, text.submit, severity.release):
        event(classify, [text, severity], [read, classes, radius, nearest, words])

if __name__ == "__main__":
    page.launch(theme=theme, footer_links=[], server_port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
