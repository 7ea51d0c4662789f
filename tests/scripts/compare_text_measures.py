#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How well ROUGE-1, similarity and polarity tell a fitting text from another one, on the texts of assets/tiny.

    python3 tests/scripts/compare_text_measures.py build/cpu/bin/biqa_eval MODEL

MODEL is a folder of a sentence encoder (all-MiniLM-L6-v2). docs/measurements.md has the results. Four kinds of answers are
compared with the human text of their image:

    same fault   the human text of another photo with the same distortion
    paraphrase   the description of the image; the human text is only its bad points, in other words
    house style  one text for all images
    negated      the human text itself, with the description turned into its opposite

A line has the mean, the chance level (mean over ten seeds), the excess, and z: the excess divided by the standard deviation of
the chance level over the seeds.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

SEEDS = 10
FIGURES = ["rouge1_f", "similarity", "polarity"]
STYLE = "The picture is sharp and the colours are natural, but there is some noise and it is slightly blurred."


def human(text):
    return " ".join(text[key] for key in ("description", "good", "bad"))


def answers(rows, kind):
    """(answer, human text) of each row."""
    if kind == "house style":
        return [(STYLE, human(row["text"])) for row in rows]
    if kind == "paraphrase":
        return [(row["text"]["description"], row["text"]["bad"]) for row in rows]
    if kind == "negated":
        return [(human(row["text"]).replace("picture looks", "picture does not look"), human(row["text"])) for row in rows]
    pairs = []
    for i, row in enumerate(rows):
        others = [other for other in rows[i + 1:] + rows[:i] if other["distortion"] == row["distortion"] and other["photo"] != row["photo"]]
        if others:
            pairs.append((human(others[0]["text"]), human(row["text"])))
    return pairs


def figures(program, model, pairs, seed):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        for i, (text, reference) in enumerate(pairs):
            file.write(json.dumps({"id": str(i), "set": "tiny", "score": 1 + i % 5, "rating": 1 + i % 4, "text": text, "human_text": reference}) + "\n")
        file.flush()
        command = [program, "--from-predictions", file.name, "--draws", "1", "--bootstrap-seed", str(seed), "--similarity-model", model, "--format", "json"]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["rows"][0]["texts"]


def main():
    program, model = sys.argv[1:]
    data = pathlib.Path(__file__).resolve().parents[2] / "assets/tiny/test.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows = [row for row in rows if row.get("distortion") and row.get("text")]
    for kind in ("same fault", "paraphrase", "house style", "negated"):
        pairs = answers(rows, kind)
        results = [figures(program, model, pairs, seed) for seed in range(SEEDS)]
        for name in FIGURES:
            chances = [result[name + "_chance"] for result in results]
            excess = results[0][name] - statistics.mean(chances)
            print(f"| {kind} | {len(pairs)} | {name} | {results[0][name]:.3f} | {statistics.mean(chances):.3f} | {excess:+.3f} | {excess / statistics.stdev(chances):.1f} |", flush=True)


if __name__ == "__main__":
    main()
