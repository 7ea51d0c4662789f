#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/fixtures/numbers/*.json: reference values of the plain-number functions, by other people's code.

    python3 tests/scripts/make_number_fixtures.py

needs numpy, scipy, torch, transformers, rouge_score and nltk; building and running the tests needs none of them.
"""

import json
import math
import pathlib
import random
import re

import numpy as np
import torch
from nltk.stem import porter
from rouge_score import rouge_scorer
from scipy import optimize, stats
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from random_streams import M64, hash_text, random_order, stream_key, word

OUT = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "numbers"


def clean(value):
    if isinstance(value, (float, np.floating)):
        return None if math.isnan(value) else float(value)
    if isinstance(value, np.ndarray):
        return clean(value.tolist())
    if isinstance(value, torch.Tensor):
        return clean(value.detach().tolist())
    if isinstance(value, (list, tuple)):
        return [clean(v) for v in value]
    if isinstance(value, dict):
        return {k: clean(v) for k, v in value.items()}
    return value


def write(name, content):
    OUT.mkdir(parents=True, exist_ok=True)
    lines = []
    for key, rows in content.items():
        body = ",\n".join(json.dumps(clean(r), separators=(",", ":")) for r in rows)
        lines.append(f"{json.dumps(key)}: [\n{body}\n]")
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (OUT / name).write_text(text, encoding="ascii")
    print(f"{name}: {len(text)} bytes")


# ---- random numbers ----

def randoms():
    rows = []
    for name in ([0], [1], [42, 7], [42, 7, 3, 1, 0], [M64, 1 << 40]):
        key = stream_key(name)
        draws = []
        for index in (0, 1, 2, 1000003, (1 << 32) + 5):
            w = word(key, index)
            draws.append({"index": index, "word": str(w), "uniform": ((w >> 12) + 0.5) / 2.0**52})
        order = random_order(11, key)
        rows.append({"name": [str(n) for n in name], "key": key, "draws": draws, "order": order})
    texts = []
    for text in ("", "a", "10004473376.jpg", "naïve"):
        texts.append({"text": text, "hash": str(hash_text(text))})
    write("random.json", {"streams": rows, "texts": texts})


# ---- statistics ----

def logistic(x, low, rise, centre, width, slope=0.0):
    return low + rise / (1 + np.exp(-(x - centre) / width)) + slope * x


def statistics():
    rng = np.random.default_rng(3)
    rows = []

    def add(kind, x, y):
        x, y = np.asarray(x, float), np.asarray(y, float)
        undefined = len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0
        rows.append({
            "kind": kind, "x": x, "y": y,
            "pearson": math.nan if undefined else stats.pearsonr(x, y)[0],
            "spearman": math.nan if undefined else stats.spearmanr(x, y)[0],
            "kendall": math.nan if undefined else stats.kendalltau(x, y)[0],
            "rmse": np.sqrt(np.mean((x - y) ** 2)), "ranks": stats.rankdata(x),
            "mean": np.mean(x), "deviation": np.std(x, ddof=1) if len(x) > 1 else math.nan})

    for n in (1, 2, 3, 9, 40):
        mos = rng.uniform(1, 5, n)
        add("continuous", mos, mos + rng.normal(size=n))
        add("two decimals", np.round(mos + 0.4 * rng.normal(size=n), 2), mos)
        add("few levels", np.round(mos), np.round(mos + rng.normal(size=n)))
        add("far from zero", 1e6 + mos, 1e6 + mos + 0.1 * rng.normal(size=n))
        add("tiny", 1e-200 * mos, 1e-200 * (mos + rng.normal(size=n)))
    add("identical", np.arange(7), np.arange(7))
    add("reversed", np.arange(7), -np.arange(7))
    add("constant x", [0.1] * 5, np.arange(5))
    add("constant y", np.arange(5), [0.1] * 5)
    add("both constant", np.ones(4), np.ones(4))

    fits = []
    for n, truth, kind in ((60, (4, 84, 3.1, 0.6), "four"), (90, (4.5, -3.2, 2.6, 0.4), "four"),
                           (80, (1, 3, 3, 0.3, 0.4), "five"), (120, (60, -40, 2.5, 0.5, -4), "five")):
        x = np.round(rng.uniform(1, 5, n), 3)
        y = logistic(x, *truth) + 0.03 * abs(truth[1]) * rng.normal(size=n)
        best, _ = optimize.curve_fit(logistic, x, y, p0=truth, maxfev=100000, xtol=1e-15, ftol=1e-15, gtol=1e-15)
        mapped = logistic(x, *best)
        fits.append({"kind": kind, "x": x, "y": y, "curve": mapped, "pearson": stats.pearsonr(mapped, y)[0]})

    boots = []
    for n, resamples in ((12, 40), (30, 60)):
        x = rng.uniform(1, 5, n)
        y = x + rng.normal(size=n)
        key, values = stream_key([5, n]), []
        for r in range(resamples):
            pick = [word(key, r * n + i) * n >> 64 for i in range(n)]
            values.append(stats.pearsonr(x[pick], y[pick])[0])
        boots.append({"name": [5, n], "resamples": resamples, "x": x, "y": y,
                      "low": np.quantile(values, 0.025), "high": np.quantile(values, 0.975)})
    write("statistics.json", {"pairs": rows, "fits": fits, "bootstraps": boots})


# ---- ROUGE ----

CORNERS = [("", ""), ("", "a"), ("a", ""), ("...", "!!!"), ("a b c", "c b a"), ("a a a", "a"), ("a", "a a a"),
           ("don't", "don t"), ("x_y", "x y"), ("3.14", "3 14"), ("1,000", "1000"), ("caf\u00e9", "caf"),
           ("\u0130stanbul", "istanbul i"), ("\u212aelvin", "kelvin"), ("\u753b\u50cf a", "a"), ("\ufb01ne", "fine"),
           ("a\u00a0b", "a b"), ("<rating>2.85</rating>", "rating 2 85"), ("dying skies", "die sky"),
           ("x " * 30, "x " * 13), ("one two three four", "three four one two")]
WORDS = ("the image is very blurry sharp noisy noise colours natural background lighting overexposed details "
         "compression artifacts running focused trees flies studies happily generalization a of 2 3.5 RGB JPEG").split()


def rouge():
    rng = random.Random(11)
    pairs = list(CORNERS)
    for _ in range(60):
        target = [rng.choice(WORDS) for _ in range(rng.randrange(1, 25))]
        prediction = [w for w in target if rng.random() < 0.6] + [rng.choice(WORDS) for _ in range(rng.randrange(9))]
        if rng.random() < 0.4:
            rng.shuffle(prediction)
        pairs.append((rng.choice((" ", ", ", "\n")).join(target), " ".join(prediction).capitalize()))
    rows = []
    scorers = [rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=stem) for stem in (False, True)]
    for target, prediction in pairs:
        scores = [s.score(target, prediction) for s in scorers]
        rows.append({"reference": target, "hypothesis": prediction, "rouge1": scores[0]["rouge1"],
                     "rougel": scores[0]["rougeL"], "rouge1_stem": scores[1]["rouge1"],
                     "rougel_stem": scores[1]["rougeL"]})
    suffixes = ("s sses ies ied eed ed ing at bl iz y ational tional enci anci izer bli alli entli eli ousli ization "
                "ation ator alism iveness fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful "
                "ness al ance ence er ic able ible ant ement ment ent sion tion ion ou ism ate iti ous ive ize e ll lle "
                "ating bling izing tted lling ssing zzed").split()
    stems = "a b tr re gl yo syz hop oat troubl adopt sensi geo radic contr".split()
    words = {s + e for s in stems for e in suffixes} | set(
        "sky skies dying lying tying news innings inning outings outing cannings canning howe proceed exceed succeed "
        "dies flies died spied enjoy happy yyyy ayyy by agreed feed plastered bled motoring sing conflated troubled "
        "sized hopping tanned falling hissing fizzed failing filing relational rational controll roll cease rate "
        "probate 1234 12ed a1ing generously organization electricity dependently as is it ed ing ied".split())
    stemmer = porter.PorterStemmer()
    write("rouge.json", {"pairs": rows, "stems": [[w, stemmer.stem(w)] for w in sorted(words)]})


# ---- answers and rewards ----

def python_reward(text, stage2, score, human, config):
    """Columns by regular expressions and the rouge_score package."""
    def part(tag, source):
        if source.count(f"<{tag}>") != 1 or source.count(f"</{tag}>") != 1:
            return None
        found = re.search(f"<{tag}>(.*?)</{tag}>", source, re.S)
        return found and found.group(1).strip(" \t\n\v\f\r")

    def rating(source):
        value = part("rating", source)
        if value is None or not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", value) or not math.isfinite(float(value)):
            return None
        return float(value)

    def close(value):
        if value is None:
            return 0.0
        d = abs(value - score)
        if config["shape"] == "binary":
            return 1.0 if d < config["tolerance"] else 0.0
        return (1 + math.cos(math.pi * d / config["tolerance"])) / 2 if d < config["tolerance"] else 0.0

    first, second = rating(text), rating(stage2)
    compared = {"whole": text, "caption": part("caption", text),
                "before_rating": text.split("<rating>")[0] if text.count("<rating>") == 1 else None}[config["span"]]
    reasoning = 0.1
    if human and first is not None and compared is not None:
        p, r, f = rouge_scorer.RougeScorer(["rouge1"]).score(human, compared)["rouge1"]
        reasoning = max(0.1, {"precision": p, "recall": r, "f1": f}[config["rouge"]])
    exact = re.fullmatch(r"\s*<caption>(.*?)</caption>\s*<reasoning>(.*?)</reasoning>\s*<rating>(.*?)</rating>\s*", text,
                         re.S | re.A)
    good = bool(exact and first is not None and part("caption", text) and part("reasoning", text))
    columns = [close(first), close(second) if first is not None else 0.0, reasoning, 0.5 if good else 0.0]
    return {"columns": columns, "total": sum(w * c for w, c in zip(config["weights"], columns)), "rating": first,
            "stage2_rating": second, "format_ok": good}


def rewards():
    human = "A sharp picture of a red car. The colours are natural. Slight noise in the sky."
    full = "<caption>a red car, {c}</caption><reasoning>the colours are natural</reasoning><rating>{r}</rating>"
    texts = [full.format(c="sharp", r=r) for r in ("3.40", "3.5", "3.05", "3.75", "3.051", "9", "-1", "3.4.0", "inf",
                                                   "nan", "0x3", "3e0", "+3", ".5", "3.", "", " 3.4 ", "3.4/5", "3,4", "9" * 400)]
    texts += ["", "3.4", "<rating>3.4</rating>", full.format(c="sharp", r="3.4") + " done", "Sure: " + full.format(c="x", r="3.4"),
              " \n" + full.format(c="noise", r="3.4").replace("><", ">\n \t<") + "\n", full.format(c="", r="3.4") * 2,
              "<caption> </caption><reasoning>x</reasoning><rating>3.4</rating>",
              "<reasoning>the sky</reasoning><caption>noise</caption><rating>3.4</rating>",
              "<caption>a sharp car<reasoning>x</reasoning><rating>3.4</rating>",
              "<caption>a sharp car</caption><reasoning>slight noise<rating>3.4</rating>",
              "</caption>a<caption><reasoning>x</reasoning><rating>3.4</rating>",
              "<caption>a <b>sharp</b> car</caption><reasoning>x</reasoning><rating>3.4</rating>",
              "<caption>c</caption><reasoning>x</reasoning><rating>3.4</rating><rating>3.4</rating>",
              "<Caption>c</Caption><reasoning>x</reasoning><rating>3.4</rating>",
              "<caption>c</caption><reasoning>x <rating>3.4</rating></reasoning>"]
    seconds = ["<rating>3.4</rating>", "<rating>3.2</rating>", "3.4", "", "It is <rating>3.6</rating>.", "<rating>3.4",
               "<rating>3.4</rating><rating>3.4</rating>"]
    rows = []
    for number, config in enumerate((
            {"weights": [1, 1, 1, 1], "tolerance": 0.35, "rouge": "precision", "span": "whole", "shape": "cosine"},
            {"weights": [1, 1, 1, 1], "tolerance": 0.35, "rouge": "recall", "span": "caption", "shape": "binary"},
            {"weights": [2, 0.5, 0.25, 3], "tolerance": 0.5, "rouge": "f1", "span": "before_rating", "shape": "cosine"})):
        for text_of_person in (human, ""):
            members = [{"text": t, "stage2": seconds[(i + number) % len(seconds)]} for i, t in enumerate(texts)]
            rows.append({"config": config, "score": 3.4, "human": text_of_person, "members": [
                {**m, **python_reward(m["text"], m["stage2"], 3.4, text_of_person, config)} for m in members]})
    write("rewards.json", {"groups": rows})


# ---- advantages ----

def advantages():
    rng = np.random.default_rng(7)
    rows = []
    for members, groups, columns in ((4, 3, 4), (8, 2, 3), (2, 4, 1), (1, 3, 2)):
        for kind, scale in (("sum", "group"), ("sum", "batch"), ("sum", "none"), ("gdpo", "group")):
            values = np.round(rng.uniform(0, 1, (members * groups, columns)), 3)
            values[:members] = values[0]
            if columns > 2:
                values[:, 1] = 0.1
                values[members, 2] = np.nan
                values[members + 1] = np.nan
            weights = np.round(rng.uniform(0.5, 1.5, columns), 2)
            table = torch.tensor(values)
            silent = torch.isnan(table).all(1)

            def normalised(v):  # of the entries that are there
                there = v[~torch.isnan(v)]
                spread = there.std() if len(there) > 1 else torch.tensor(0.0)
                return (v - there.mean()) / (spread + 1e-4), spread

            def weighted(t):
                total = torch.nansum(t * torch.tensor(weights), 1)
                return torch.where(silent, torch.nan, total)

            if kind == "sum":
                total = weighted(table)
                parts = [normalised(g)[0] for g in total.split(members)]
                spreads = [float(normalised(g)[1]) for g in total.split(members)]
                if scale == "none":
                    parts = [g - g.nanmean() for g in total.split(members)]
                if scale == "batch":
                    parts = [(g - g.nanmean()) / (normalised(total)[1] + 1e-4) for g in total.split(members)]
                result = torch.cat(parts)
            else:
                pieces = [torch.stack([normalised(g[:, f])[0] for f in range(columns)], 1) for g in table.split(members)]
                spreads = [max(float(normalised(g[:, f])[1]) for f in range(columns)) for g in table.split(members)]
                result = normalised(weighted(torch.cat(pieces)))[0]
            rows.append({"kind": kind, "scale": scale, "group_size": members, "weights": weights, "rewards": values,
                         "totals": weighted(table), "values": torch.nan_to_num(result, nan=0.0),
                         "zero_variance": [s <= 1e-8 for s in spreads]})
    write("advantage.json", {"cases": rows})


# ---- objective ----

def objective():
    gen = torch.Generator().manual_seed(5)
    lengths, width = [6, 2, 8, 1], 8
    cases = [{"loss": "grpo"}, {"loss": "grpo", "beta": 0.04}, {"loss": "grpo", "cap": 1.3},
             {"loss": "grpo", "off_policy": 0.02}, {"loss": "dr_grpo", "beta": 0.1, "kl": "k1"},
             {"loss": "dapo", "high": 0.28}, {"loss": "bnpo", "beta": 0.1, "kl": "k2"},
             {"loss": "gspo", "low": 0.02, "high": 0.03, "beta": 0.01},
             {"loss": "gspo", "low": 0.3, "high": 0.3, "beta": 0.2, "kl": "k3_times_ratio"},
             {"loss": "cispo", "high": 1.2, "beta": 0.04}, {"loss": "sapo"}, {"loss": "sft"},
             {"loss": "grpo", "beta": 0.04, "kl": "k3_times_ratio"}, {"loss": "grpo", "beta": 0.04, "on_policy": True}]
    rows = []
    for number, given in enumerate(cases):
        case = {"low": 0.2, "high": 0.2, "beta": 0.0, "kl": "k3", "cap": None, "off_policy": None, "on_policy": False, **given}
        logp = -3 * torch.rand(4, width, generator=gen, dtype=torch.float64) - 0.05
        old = logp.clone() if case["on_policy"] else logp - 0.3 * torch.randn(4, width, generator=gen, dtype=torch.float64)
        ref = logp + 0.3 * torch.randn(4, width, generator=gen, dtype=torch.float64)
        mask = torch.tensor([[float(j < n) for j in range(width)] for n in lengths], dtype=torch.float64)
        if number % 2:
            mask[2, 3] = 0  # a hole, and a sequence without any token
            mask[3] = 0
        a = torch.tensor([1.3, -0.7, -0.4, 0.9], dtype=torch.float64)[:, None]
        x = logp.clone().requires_grad_()
        n = mask.sum(1, keepdim=True).clamp(min=1)
        gap = x - old
        c = ((gap * mask).sum(1, keepdim=True) / n if case["loss"] == "gspo" else gap).exp()
        if case["loss"] == "sft":
            token = -x
        elif case["loss"] == "cispo":
            token = -c.detach().clamp(max=case["high"]) * a * x
        elif case["loss"] == "sapo":
            heat = torch.tensor([1.0 if v > 0 else 1.05 for v in a[:, 0]], dtype=torch.float64)[:, None]
            token = -a * torch.sigmoid(heat * (c - 1)) * 4 / heat
        else:
            first = c if case["cap"] is None else c.clamp(max=case["cap"])
            token = -torch.minimum(first * a, c.clamp(1 - case["low"], 1 + case["high"]) * a)
        if case["off_policy"] is not None:
            drift = ((old - logp) * mask).sum(1, keepdim=True) / n
            token = token * ((a >= 0) | (drift <= case["off_policy"])).double()
        token = token.expand(4, width)
        kl_sum = torch.zeros(4)
        if case["beta"]:
            p = ref - x
            kl = {"k1": -p, "k2": p**2 / 2, "k3": p.exp() - p - 1, "k3_times_ratio": (p.exp() - p - 1) * c}[case["kl"]]
            token = token + case["beta"] * kl
            kl_sum = (kl * mask).sum(1)
        if case["loss"] in ("grpo", "gspo", "sapo"):
            loss = ((token * mask).sum(1, keepdim=True) / n).mean()
        elif case["loss"] == "dr_grpo":
            loss = (token * mask).sum() / (4 * 16)
        else:
            loss = (token * mask).sum() / mask.sum()
        loss.backward()
        rows.append({**case, "logp": logp, "old": old, "ref": ref, "mask": mask, "advantages": a[:, 0],
                     "longest_allowed": 16, "token_loss": token * mask, "total": float(loss.detach()), "gradient": x.grad,
                     "kl_sum": kl_sum, "deviation": ((logp - old).exp() - 1).abs().mul(mask).amax(1)})
    write("objective.json", {"cases": rows})


# ---- AdamW ----

def adamw():
    gen = torch.Generator().manual_seed(9)
    runs = []
    for lr, betas, eps, decay, clip in ((1e-3, (0.9, 0.999), 1e-8, 0.0, 1.0), (5e-2, (0.8, 0.95), 1e-6, 0.1, 0.5)):
        for dtype in (torch.float64, torch.float32):
            start = torch.randn(7, generator=gen, dtype=torch.float64).to(dtype)
            parameter = torch.nn.Parameter(start.clone())
            optimiser = torch.optim.AdamW([parameter], lr=lr, betas=betas, eps=eps, weight_decay=decay, foreach=False)
            steps = []
            for step in range(4):
                optimiser.param_groups[0]["lr"] = lr * (1 - step / 4)
                gradient = (torch.randn(7, generator=gen, dtype=torch.float64) * 0.3**step).to(dtype)
                if step == 2:
                    gradient[:3] = 0
                parameter.grad = gradient.clone()
                norm = torch.nn.utils.clip_grad_norm_([parameter], clip)
                optimiser.step()
                state = optimiser.state[parameter]
                steps.append({"lr": lr * (1 - step / 4), "gradient": gradient, "norm": float(norm), "values": parameter.detach().clone(),
                              "m": state["exp_avg"].clone(), "v": state["exp_avg_sq"].clone()})
            runs.append({"dtype": str(dtype)[6:], "betas": betas, "eps": eps, "decay": decay, "clip": clip, "start": start,
                         "steps": steps})
    schedules = []
    for kind, make in (("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)):
        for warmup, total in ((0, 5), (3, 10), (0, 1)):
            optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.25)
            schedule = make(optimiser, warmup, total)
            rates = []
            for _ in range(total + 1):
                rates.append(schedule.get_last_lr()[0])
                optimiser.step()
                schedule.step()
            schedules.append({"kind": kind, "warmup": warmup, "total": total, "base": 0.25, "rates": rates})
    write("adamw.json", {"runs": runs, "schedules": schedules})


if __name__ == "__main__":
    randoms()
    statistics()
    rouge()
    rewards()
    advantages()
    objective()
    adamw()
