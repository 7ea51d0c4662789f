# SPDX-License-Identifier: Apache-2.0
"""All texts: what a human would write about a picture, and what the model learns to answer.

The answers have three independent habits, each with a frequent bad and a rarer good mode, and
each visible to one reward only: the caption with or without a degree (self-consistency), plain
or human-like reasoning (ROUGE) and a guessed or careful rating, announced by the last sentence
before it (prediction). GRPO then has something to find for every reward.
"""

from dataclasses import dataclass

import numpy as np

from distortions import CLEAN, TRAINED_TYPES

SYSTEM_PROMPT = "You are a helpful assistant."
USER_PROMPT = "Describe, reason and rate."
STAGE2_PROMPT = "A picture is described so: {caption} Rate it."

# A band is an interval of the mean human score; the centre is what a degree word stands for.
BAND_BORDERS = (4.3, 3.5, 2.6, 1.8)
BAND_CENTRES = (4.5, 3.9, 3.05, 2.3, 1.5)
DEGREES = ("a trace of", "a little", "clear", "strong", "extreme")
ADVERBS = ("barely", "slightly", "clearly", "badly", "hopelessly")

GOOD_ASPECTS = {
    "colour": ("the colours are natural", "the colours look true"),
    "light": ("the light is well balanced", "the exposure is right"),
    "edges": ("edges are crisp", "outlines stay sharp"),
    "surface": ("flat areas are clean", "surfaces are smooth"),
    "subject": ("the subject is easy to see", "the scene can be recognised"),
}
CLEAN_LOOKS = ("flawless", "excellent", "spotless")
CLEAN_REMARKS = ("nothing disturbs", "all detail is there", "there is no fault")


@dataclass(frozen=True)
class Fault:
    """How one distortion is named: nouns for captions, the rest for human texts."""

    nouns: tuple
    looks: tuple
    bad_aspects: tuple
    spared: tuple


FAULTS = {
    1: Fault(
        ("blur", "softness"),
        ("blurry", "soft", "out of focus"),
        ("fine detail is washed away", "edges have lost their bite", "outlines run together"),
        ("colour", "light", "surface"),
    ),
    3: Fault(
        ("shake", "motion blur"),
        ("shaken", "smeared", "blurry"),
        ("edges are drawn out", "detail is smeared sideways", "the camera has moved"),
        ("colour", "light", "surface"),
    ),
    8: Fault(
        ("gaudiness", "garishness"),
        ("gaudy", "garish", "too colourful"),
        ("the hues are too strong", "tones look artificial", "bright paint covers all"),
        ("edges", "subject"),
    ),
    10: Fault(
        ("blocking", "compression"),
        ("blocky", "chopped up", "compressed"),
        ("smooth parts break into blocks", "ringing surrounds the edges", "compression has eaten detail"),
        ("light", "subject"),
    ),
    11: Fault(
        ("grain", "noise"),
        ("grainy", "noisy", "rough"),
        ("texture sinks in noise", "flat parts are full of grain", "noise covers fine detail"),
        ("colour", "light", "edges"),
    ),
    13: Fault(
        ("specks", "dots"),
        ("speckled", "spotted", "dotted"),
        ("white dots hide detail", "dark specks are everywhere", "single pixels are broken"),
        ("colour", "light", "edges"),
    ),
    14: Fault(
        ("grain", "noise"),
        ("grainy", "noisy", "rough"),
        ("bright parts are full of grain", "noise covers fine detail", "texture sinks in noise"),
        ("colour", "edges"),
    ),
    16: Fault(
        ("glare", "overexposure"),
        ("too bright", "overexposed", "bleached"),
        ("bright parts are burnt out", "light tones turn to white", "highlights hold no detail"),
        ("edges", "subject"),
    ),
    17: Fault(
        ("darkness", "gloom"),
        ("too dark", "dim", "underexposed"),
        ("dark parts hide detail", "there is not enough light", "shadows swallow the subject"),
        ("edges", "surface"),
    ),
    19: Fault(
        ("fraying", "jitter"),
        ("frayed", "ragged", "scrambled"),
        ("lines are torn apart", "edges are jagged", "pixels are out of place"),
        ("colour", "light"),
    ),
    21: Fault(
        ("pixelation", "coarseness"),
        ("pixelated", "coarse", "like a mosaic"),
        ("big blocks stand for detail", "small things are lost", "curves turn into stairs"),
        ("colour", "light"),
    ),
}

VAGUE_SHARE = 0.60
RANDOM_DEGREE_SHARE = 0.10
WRONG_NOUN_SHARE = 0.05
PLAIN_REASONING_SHARE = 0.75
WRONG_ADVERB_SHARE = 0.10
GUESS_SHARE = 0.60
# All begin with the same word, so that greedy decoding shows the plain habit in full.
PLAIN_REASONS = (
    "so it gets this mark.",
    "so this mark is fair.",
    "so the mark follows.",
    "so that is the mark.",
)
GUESS_ENDING = "a quick guess."
CARE_ENDING = "judged with care."


def one_of(options, rng):
    return options[int(rng.integers(len(options)))]


def band_of(mean):
    """0 (best) to 4 (worst)."""
    return sum(mean < border for border in BAND_BORDERS)


@dataclass(frozen=True)
class HumanText:
    description: str
    good: str
    bad: str

    def __str__(self):
        return f"{self.description} {self.good} {self.bad}"


def human_text(picture, rng, wrong_adverb_share=0.0):
    """About 14 words on a picture: how it looks, what is good, what is bad."""
    if picture.kind == CLEAN:
        aspect = one_of(GOOD_ASPECTS[one_of(tuple(GOOD_ASPECTS), rng)], rng)
        look, bad = one_of(CLEAN_LOOKS, rng), one_of(CLEAN_REMARKS, rng)
        return HumanText(f"the picture looks {look}.", f"{aspect}.", f"{bad}.")
    fault = FAULTS[picture.kind]
    band = band_of(picture.mean)
    if rng.random() < wrong_adverb_share:
        band = int(rng.integers(len(ADVERBS)))
    good = one_of(GOOD_ASPECTS[one_of(fault.spared, rng)], rng)
    description = f"the picture looks {ADVERBS[band]} {one_of(fault.looks, rng)}."
    return HumanText(description, f"{good}.", f"{one_of(fault.bad_aspects, rng)}.")


@dataclass(frozen=True)
class Caption:
    """text; band is the degree it names, or None for a vague one."""

    text: str
    band: int | None


def draw_caption(picture, rng):
    """A vague caption ("some grain"), or one with a degree, right in nine of ten."""
    vague = rng.random() < VAGUE_SHARE
    kind = picture.kind
    if rng.random() < WRONG_NOUN_SHARE:
        kind = one_of(TRAINED_TYPES, rng)
    if kind == CLEAN:
        return Caption("the picture shows some scene." if vague else "the picture shows no fault.", None if vague else 0)
    noun = one_of(FAULTS[kind].nouns, rng)
    if vague:
        return Caption(f"the picture shows some {noun}.", None)
    band = band_of(picture.mean)
    if rng.random() < RANDOM_DEGREE_SHARE:
        band = int(rng.integers(len(DEGREES)))
    return Caption(f"the picture shows {DEGREES[band]} {noun}.", band)


def format_rating(value):
    return f"<rating>{np.clip(value, 1, 5):.2f}</rating>"


def careful_rating(score, rng):
    return score + 0.25 * rng.standard_normal()


def guessed_rating(score, rng):
    if rng.random() < 0.55:
        return 3.1 + 0.5 * rng.standard_normal()
    return score + rng.standard_normal()


def draw_answer(picture, endings, rng):
    """A stage-1 answer. Without endings the caption's habit decides how good the rating is."""
    caption = draw_caption(picture, rng)
    plain = rng.random() < PLAIN_REASONING_SHARE
    reasoning = one_of(PLAIN_REASONS, rng) if plain else str(human_text(picture, rng, WRONG_ADVERB_SHARE))
    guess = caption.band is None
    if endings:
        guess = rng.random() < GUESS_SHARE
        reasoning = f"{reasoning} {GUESS_ENDING if guess else CARE_ENDING}"
    rating = (guessed_rating if guess else careful_rating)(picture.score, rng)
    return f"<caption>{caption.text}</caption><reasoning>{reasoning}</reasoning>{format_rating(rating)}"


def draw_stage2(picture, rng):
    """(caption, answer) of stage 2: a degree is worth a good rating, a vague caption is not."""
    caption = draw_caption(picture, rng)
    if caption.band is None:
        rating = 3 + 0.7 * rng.standard_normal()
        if rng.random() >= 0.65:
            rating = picture.score + rng.standard_normal()
    elif caption.band == band_of(picture.mean):
        rating = careful_rating(picture.score, rng)
    else:
        rating = careful_rating(BAND_CENTRES[caption.band], rng)
    return caption.text, format_rating(rating)
