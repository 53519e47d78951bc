"""The embedded demo data: made-up reviews on five levels, for a run that needs no network.

Nobody wrote these reviews: wherever a number measured on them appears, it is labelled synthetic. A review joins one to
three remarks about its subject and, mostly, a verdict. Each strays from the level of the review now and then, as
people's do: some reviews could stand one level higher or lower, and no model can be right about all of them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

LEVELS = ("very negative", "negative", "neutral", "positive", "very positive")
SIZES = {"train": 1500, "validation": 300, "test": 300}


def _phrases(*levels: str) -> tuple[tuple[str, ...], ...]:
    """The phrases of each level, which are written with semicolons between."""
    return tuple(tuple(level.split("; ")) for level in levels)


# What a review can be about: its names, and what there is to say about it.
SUBJECTS = tuple(
    zip(
        _phrases(
            "film; thriller; comedy; documentary; sequel; drama",
            "restaurant; bistro; noodle bar; pizzeria; cafe",
            "hotel; guest house; hostel; resort",
            "phone; laptop; camera; tablet; smartwatch",
            "novel; biography; cookbook; story collection",
            "app; video game; podcast; online course",
        ),
        _phrases(
            "plot; acting; dialogue; pacing; soundtrack; ending; camerawork; humour",
            "food; service; menu; coffee; atmosphere; dessert; wine list; seating",
            "room; breakfast; location; bathroom; welcome; housekeeping; pool; view",
            "battery; screen; keyboard; design; speaker; software; finish; charger",
            "prose; story; opening; translation; middle part; argument; cover; research",
            "interface; content; sound; first hour; support; structure; writing; music",
        ),
        strict=True,
    )
)

# Remarks about one aspect, from --, the worst, to ++, the best.
REMARKS = _phrases(
    "the {aspect} was dreadful; the {aspect} was an insult; I could not stand the {aspect}; the {aspect} was beyond "
    "saving; nothing about the {aspect} worked; the {aspect} made me want to leave; the {aspect} could hardly have "
    "been worse; the {aspect} was a disgrace; the {aspect} was shockingly bad",
    "the {aspect} could have been better; I did not care for the {aspect}; the {aspect} let it down; the {aspect} "
    "was not what I had hoped for; the {aspect} wore thin quickly; the {aspect} was hardly inspired; I was not won "
    "over by the {aspect}; the {aspect} felt careless; the {aspect} needed more thought; the {aspect} was rather "
    "poor",
    "the {aspect} was average; the {aspect} did its job, no more; the {aspect} was neither good nor bad; the "
    "{aspect} was what you would expect; I have no strong feelings about the {aspect}; the {aspect} was acceptable; "
    "the {aspect} had its moments and its gaps; the {aspect} was hard to judge; the {aspect} left no impression",
    "I liked the {aspect}; the {aspect} was not bad at all; the {aspect} was better than I had feared; the {aspect} "
    "held up well; the {aspect} was pleasant; I had no complaints about the {aspect}; the {aspect} grew on me; the "
    "{aspect} was solid; there is a lot to be said for the {aspect}; the {aspect} was hardly a disappointment",
    "the {aspect} was superb; I could not fault the {aspect}; the {aspect} was a pure joy; the {aspect} alone is "
    "worth the money; I cannot praise the {aspect} enough; the {aspect} went far beyond what I had hoped for; the "
    "{aspect} could hardly have been better; the {aspect} was close to perfect; nothing about the {aspect} could be "
    "improved",
)
VERDICTS = _phrases(
    "Avoid it.; I want my money back.; A complete waste of an evening.; I would not wish it on anyone.; Never "
    "again.; The worst {subject} I know.; Do not let the good reviews fool you.; I regret every minute.",
    "I would not go out of my way for it.; There are better choices.; Not for me.; I expected more from this "
    "{subject}.; I doubt that I will come back to it.; It never quite recovers.; All in all a letdown.; You can "
    "safely skip it.",
    "It is fine, nothing more.; You could do worse, you could do better.; I am in two minds about this {subject}.; "
    "It evens out in the end.; Some will like it, some will not.; I neither regret it nor recommend it.; An ordinary "
    "{subject}.; I had forgotten it a week later.",
    "I would recommend it, with small reservations.; I am glad that I tried it.; Worth a look.; I would come back to "
    "it.; A decent {subject}, all things considered.; It won me over in the end.; Better than most.; You will not "
    "regret it.",
    "I loved every minute.; The best {subject} in years.; I would give it six stars if I could.; Do not miss it.; I "
    "have told all my friends about it.; An unforgettable {subject}.; I have been back three times already.; It does "
    "not get better than this.",
)
OPENERS = _phrases(
    "Just one {subject} of many, I thought.; We tried this {subject} last week.; I had read mixed things about this "
    "{subject}.; My sister chose this {subject}.; I wanted to love this {subject}.; I did not expect much of this "
    "{subject}.; Everyone talks about this {subject}.; I found this {subject} by chance.",
)[0]
TURNS = ("but", "although", "even if", "while", "though")

# How far a remark, or a verdict, strays from the level of its review; each entry is equally likely.
REMARK_STRAYS = (-1, -1, 0, 0, 0, 0, 0, 0, 1, 1)
VERDICT_STRAYS = (-1, 0, 0, 0, 0, 0, 1)


def _pick(items: Sequence[Any], stream: random.Random) -> Any:
    """One item. Only `random()` itself is promised to be the same in every version of Python."""
    return items[int(stream.random() * len(items))]


def _near(level: int, strays: Sequence[int], stream: random.Random) -> int:
    strayed = level + int(_pick(strays, stream))
    return min(max(strayed, 0), len(LEVELS) - 1)


def _review(level: int, stream: random.Random) -> str:
    subjects, aspects = _pick(SUBJECTS, stream)
    subject, left = _pick(subjects, stream), list(aspects)
    strengths = [_near(level, REMARK_STRAYS, stream) for _ in range(_pick((1, 2, 2, 3), stream))]
    remarks = []
    for strength in strengths:
        aspect = left.pop(int(stream.random() * len(left)))
        remarks.append(_pick(REMARKS[strength], stream).format(aspect=aspect))
    if len(remarks) > 1:
        turn = _pick(TURNS, stream) if strengths[0] != strengths[1] else "and"
        remarks[:2] = [f"{remarks[0]}, {turn} {remarks[1]}"]
    sentences = [remark[0].upper() + remark[1:] + "." for remark in remarks]
    if stream.random() < 0.5:
        sentences.insert(0, _pick(OPENERS, stream).format(subject=subject))
    if stream.random() < 0.7:
        verdict = _pick(VERDICTS[_near(level, VERDICT_STRAYS, stream)], stream)
        sentences.append(verdict.format(subject=subject))
    return " ".join(sentences)


def demo_reviews(seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Five-level reviews, as many of each level, no text twice.

    Args:
        seed: of everything.

    Returns:
        By split, `SIZES` rows `{"text": str, "label": int}`; the label is an index of `LEVELS`.
    """
    stream, seen = random.Random(seed), set[str]()
    splits: dict[str, list[dict[str, Any]]] = {}
    for split, size in SIZES.items():
        rows = splits[split] = []
        while len(rows) < size:
            level = len(rows) % len(LEVELS)
            text = _review(level, stream)
            if text not in seen:
                seen.add(text)
                rows.append({"text": text, "label": level})
    return splits
