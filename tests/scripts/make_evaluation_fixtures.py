#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/fixtures/evaluation: predictions and what biqa_eval must say of them, by scipy, numpy and rouge_score.

    python3 tests/scripts/make_evaluation_fixtures.py

needs numpy, scipy and rouge_score; building and running the tests needs none of them.
"""

import json
import math
import pathlib
import warnings

import numpy as np
from rouge_score import rouge_scorer
from scipy import optimize, stats

from random_streams import hash_text, random_order, stream_key, word

COMMAND = "python3 tests/scripts/make_evaluation_fixtures.py"
OUT = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "evaluation"
DRAWS, SEED = 200, 5
WORDS = ("the image is very blurry sharp noisy noise colours natural background lighting overexposed details "
         "compression artifacts running focused trees flies happily of a 2 3.5 RGB JPEG").split()
SCORER = rouge_scorer.RougeScorer(["rouge1", "rougeL"])
warnings.filterwarnings("ignore")


# ---- the formulas ----

def usable(x, y):
    return len(x) >= 2 and np.ptp(x) > 0 and np.ptp(y) > 0


def plcc(x, y):
    return stats.pearsonr(x, y)[0] if usable(x, y) else math.nan


def srcc(x, y):
    return stats.spearmanr(x, y)[0] if usable(x, y) else math.nan


def krcc(x, y):
    return stats.kendalltau(x, y)[0] if usable(x, y) else math.nan


def rmse(x, y):
    return np.sqrt(np.mean((x - y) ** 2)) if len(x) else math.nan


def fit4(x, b1, b2, b3, b4):
    return b2 + (b1 - b2) / (1 + np.exp(-(x - b3) / abs(b4)))


def fit5(x, b1, b2, b3, b4, b5):
    return b1 * (0.5 - 1 / (1 + np.exp(b2 * (x - b3)))) + b4 * x + b5


def fitted(x, y, curve):
    count = 4 if curve is fit4 else 5
    if not usable(x, y) or len(x) < count:
        return math.nan, math.nan
    spread = np.std(x, ddof=1)
    start = ((max(y), min(y), np.mean(x), spread / 4) if curve is fit4 else
             (max(y) - min(y), 1 / spread, np.mean(x), 0, np.mean(y)))
    try:
        best, _ = optimize.curve_fit(curve, x, y, p0=start, maxfev=100000, xtol=1e-15, ftol=1e-15, gtol=1e-15)
    except RuntimeError:  # the best curve lies at infinity
        return "no minimum", "no minimum"
    mapped = curve(x, *best)
    return plcc(mapped, y), rmse(mapped, y)


def agreement(rows, column):
    rated = [r for r in rows if r[column] is not None]
    x, y = (np.array([r[k] for r in rated], float) for k in (column, "score"))
    inside = (x >= 1) & (x <= 5)
    ranked = np.array([-1e9 if r[column] is None else r[column] for r in rows], float)
    every = np.array([r["score"] for r in rows], float)
    result = {"n": len(rows), "parse_failures": len(rows) - len(rated), "out_of_scale": int(np.sum(~inside)),
              "plcc": plcc(x, y), "srcc": srcc(x, y), "krcc": krcc(x, y), "rmse": rmse(x, y),
              "mae": np.mean(np.abs(x - y)) if len(x) else math.nan,
              "plcc_in_scale": plcc(x[inside], y[inside]), "srcc_in_scale": srcc(x[inside], y[inside]),
              "rmse_in_scale": rmse(x[inside], y[inside]),
              "srcc_all": srcc(ranked, every) if len(rated) else math.nan, "distinct_ratings": len(set(x))}
    for name, curve in (("fit4", fit4), ("fit5", fit5)):
        result[f"plcc_{name}"], result[f"rmse_{name}"] = fitted(x, y, curve)
    return result


def intervals(rows, name):
    """The bootstrap draws images with all their answers; both conditions share the draws."""
    images = answers_of_images(rows)
    key, count, drawn = stream_key([hash_text("evaluation: bootstrap"), SEED, hash_text(name)]), len(images), []
    for draw in range(DRAWS):
        picked = [row for i in range(count) for row in images[word(key, draw * count + i) * count >> 64]]
        values = []
        for column in ("rating", "caption_rating"):
            rated = [r for r in picked if r[column] is not None]
            x, y = (np.array([r[k] for r in rated], float) for k in (column, "score"))
            values += [plcc(x, y), srcc(x, y)]
        drawn.append(values)
    drawn = np.array(drawn)

    def interval(values):
        values = values[~np.isnan(values)]
        return [np.quantile(values, 0.025), np.quantile(values, 0.975)] if len(values) else None

    columns = {"image": [interval(drawn[:, 0]), interval(drawn[:, 1])],
               "caption": [interval(drawn[:, 2]), interval(drawn[:, 3])]}
    return columns, [interval(drawn[:, 0] - drawn[:, 2]), interval(drawn[:, 1] - drawn[:, 3])]


def other_images(human_texts, key):
    """For each image the image whose text stands in for its own: the next one in a random order. With equal texts among
    them, their images stand together, and it is as many places further as the most frequent text has images."""
    order, count = random_order(len(human_texts), key), len(human_texts)
    images = {}
    for image in order:
        images.setdefault(human_texts[image], []).append(image)
    groups = sorted(images.values(), key=lambda group: -len(group))
    together, most = sum(groups, []), len(groups[0])
    assert 2 * most <= count
    return {together[i]: together[(i + most) % count] for i in range(count)}


def texts(rows, name):
    rows = [r for r in rows if r["human_text"]]
    images = answers_of_images([r for r in rows if "text" in r])
    if not images:
        return None
    answers = [(image, row) for image, members in enumerate(images) for row in members]
    human_texts = [members[0]["human_text"] for members in images]
    result, own, chance = {"n": len(answers), "without_text": len(rows) - len(answers),
                           "distinct_texts": len(set(human_texts))}, [], []
    result["length_ratio"] = np.mean([len(r["text"].split()) / len(r["human_text"].split()) for _, r in answers])
    if result["distinct_texts"] < 2:
        return {**result, "rouge1_p": None, "rougel_f_chance": None}
    other = other_images(human_texts, stream_key([hash_text("evaluation: chance level"), SEED, hash_text(name)]))
    for image, row in answers:
        for values, reference in ((own, human_texts[image]), (chance, human_texts[other[image]])):
            scores = SCORER.score(reference, row["text"])
            values.append([*scores["rouge1"], *scores["rougeL"]])
    for i, part in enumerate(("rouge1_p", "rouge1_r", "rouge1_f", "rougel_p", "rougel_r", "rougel_f")):
        result[part] = np.mean([v[i] for v in own])
        result[part + "_chance"] = np.mean([v[i] for v in chance])
        result[part + "_excess"] = result[part] - result[part + "_chance"]
    return result


def repeats(rows, column):
    """Spread over the samples of each image, and the correlations of each sample."""
    images, numbers = answers_of_images(rows), sorted({r.get("repeat", 0) for r in rows})
    if len(numbers) < 2:
        return {"repeats": len(numbers), "instability": None, "plcc_repeats": None, "srcc_repeats": None}
    ratings = [[r[column] for r in members if r[column] is not None] for members in images]
    result = {"repeats": len(numbers), "instability": np.mean([np.std(x, ddof=1) for x in ratings if len(x) > 1])}
    for key, figure in (("plcc", plcc), ("srcc", srcc)):
        rated = [[r for r in rows if r["repeat"] == number and r[column] is not None] for number in numbers]
        values = [figure(*(np.array([r[k] for r in part], float) for k in (column, "score"))) for part in rated]
        result[key + "_repeats"] = [min(values), max(values)]
    return result


def answers_of_images(rows):
    images = {}
    for row in rows:
        images.setdefault(row["id"], []).append(row)
    return list(images.values())


# ---- the predictions ----

def predictions():
    rng = np.random.default_rng(12)
    rows = []

    def sentence(words):
        return " ".join(rng.choice(WORDS, words))

    def add(name, scores, ratings, captions, with_texts=False):
        for i, (score, rating, caption) in enumerate(zip(scores, ratings, captions)):
            human = sentence(12) if with_texts and i % 3 else ""
            kept = [w for w in human.split() if rng.random() < 0.6]
            answer = f"<caption>{' '.join(kept)} {sentence(5)}</caption><rating>{rating}</rating>"
            rows.append({"id": f"{i}.png", "set": name, "score": float(score),
                         "rating": None if rating is None else float(rating),
                         "caption_rating": None if caption is None else float(caption), "text": answer,
                         "human_text": human})

    def noisy(scores, spread, decimals):
        return np.round(scores + spread * rng.normal(size=len(scores)), decimals)

    def gaps(values, every):
        return [None if i % every == 2 else v for i, v in enumerate(values)]

    scores = np.round(rng.uniform(1, 5, 60), 4)
    add("random", scores, noisy(scores, 0.4, 2), noisy(scores, 0.8, 2), True)
    add("failures", scores[:40], gaps(noisy(scores[:40], 0.5, 2), 7), gaps(noisy(scores[:40], 0.9, 2), 5), True)
    curved = 3 + 1.3 * np.tanh(1.2 * (scores - 3))
    add("curved", curved, noisy(scores, 0.15, 3), noisy(scores, 0.2, 3))
    add("tied", np.round(scores), np.round(noisy(scores, 0.5, 2)), np.round(noisy(scores, 0.9, 2)))
    add("constant ratings", scores[:9], [3] * 9, [2.5] * 9)
    add("constant scores", [2.25] * 9, noisy(scores[:9], 0.5, 2), noisy(scores[:9], 0.5, 2))
    add("one", [3.2], [3.1], [2.9], True)
    add("two", [3.2, 4.1], [3.1, 3.9], [4, 2], True)
    add("three", [3.2, 4.1, 2], [3.1, 3.9, 3.9], [4, 2, None])
    add("all failed", scores[:6], [None] * 6, [None] * 6)
    add("off scale", scores[:12], [120, -3, 0.99, 5.01, *noisy(scores[4:12], 0.3, 2)], [1, 5] * 6)
    for number in range(3):
        start = len(rows)
        add("repeats", scores[:14], gaps(noisy(scores[:14], 0.6, 2), 9 + number), noisy(scores[:14], 0.9, 2), True)
        for row in rows[start:]:
            row["repeat"] = number
    for row in rows[-28:]:  # the texts of the first repeat are those of its image
        row["human_text"] = next(r["human_text"] for r in rows if (r["set"], r["id"]) == ("repeats", row["id"]))
    start = len(rows)
    add("equal texts", scores[:15], noisy(scores[:15], 0.4, 2), noisy(scores[:15], 0.8, 2), True)
    written = [row for row in rows[start:] if row["human_text"]]
    for row in written[:4]:
        row["human_text"] = written[0]["human_text"]
    written[6]["human_text"] = written[7]["human_text"]
    del written[2]["text"], written[8]["text"]
    # The same set decoded both ways.
    for row in [dict(row) for row in rows if row["set"] == "random"][:20]:
        rows.append({**row, "rating": float(noisy(row["score"] + np.zeros(1), 0.5, 2)[0]), "repeat": 0})
    return rows


def clean(value):
    if isinstance(value, (float, np.floating)):
        return None if math.isnan(value) else float(value)
    if isinstance(value, dict):
        return {k: clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(v) for v in value]
    return int(value) if isinstance(value, np.integer) else value


def main():
    rows = predictions()
    document = {"command": COMMAND, "draws": DRAWS, "seed": SEED, "rows": [], "gaps": [],
                "sign_tests": [[wins, losses, stats.binomtest(wins, wins + losses).pvalue] for wins, losses in
                               ((1, 0), (0, 3), (4, 4), (7, 8), (90, 60), (5200, 4900), (3000, 2500), (20000, 20000))]}
    for name, sampled in dict.fromkeys((r["set"], "repeat" in r) for r in rows):
        members = [r for r in rows if (r["set"], "repeat" in r) == (name, sampled)]
        decoding = "sampled" if sampled else "greedy"
        conditions, gap = intervals(members, name)
        figures = {}
        for condition, column in (("image", "rating"), ("caption", "caption_rating")):
            figures[condition] = agreement(members, column)
            spans = dict(zip(("plcc_ci", "srcc_ci"), conditions[condition]))
            both = [abs(r["rating"] - r["caption_rating"]) for r in members
                    if r["rating"] is not None and r["caption_rating"] is not None]
            more = {"contradiction_mean": np.mean(both) if both else math.nan,
                    "contradiction_share": np.mean([d > 0.5 for d in both]) if both else math.nan}
            document["rows"].append({"set": name, "condition": condition, "decoding": decoding, **figures[condition],
                                     **spans, **more, **repeats(members, column),
                                     "texts": texts(members, name) if condition == "image" else None})
        document["gaps"].append({"set": name, "decoding": decoding,
                                 "plcc_gap": figures["image"]["plcc"] - figures["caption"]["plcc"],
                                 "srcc_gap": figures["image"]["srcc"] - figures["caption"]["srcc"],
                                 "plcc_gap_ci": gap[0], "srcc_gap_ci": gap[1]})
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "predictions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (OUT / "expected.json").write_text(json.dumps(clean(document), indent=1) + "\n")
    print(len(rows), "predictions")


if __name__ == "__main__":
    main()
