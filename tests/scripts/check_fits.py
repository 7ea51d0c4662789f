#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares biqa_eval's logistic fits with scipy's, on random data (docs/decisions/0023-fits-by-minpack.md).

    python3 tests/scripts/check_fits.py build/cpu/bin/biqa_eval [SETS] [SEED]

needs numpy and scipy. Each of the SETS sets (default 120) is fitted with four and with five parameters. Both programs
take the same start. A fit agrees if the PLCC differs by at most 1e-7. Where it does not, there is often no finite
minimum, or scipy gives up; biqa_eval then must not be worse than scipy by more than 0.001 in RMSE. Prints a count of
each case and exits with 1 if a fit is worse.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import numpy as np
from scipy import optimize, stats

SAME_PLCC, WORSE_RMSE = 1e-7, 1e-3


def fit4(x, b1, b2, b3, b4):
    return b2 + (b1 - b2) / (1 + np.exp(-(x - b3) / abs(b4)))


def fit5(x, b1, b2, b3, b4, b5):
    return b1 * (0.5 - 1 / (1 + np.exp(b2 * (x - b3)))) + b4 * x + b5


def random_set(rng):
    """Ratings and scores: few or many, coarse or fine, near or far from a curve."""
    count = int(rng.integers(6, 120))
    scores = np.round(rng.uniform(1, 5, count), 3)
    ratings = scores + rng.choice([0.1, 0.4, 1.0, 2.0]) * rng.normal(size=count)
    if rng.random() < 0.5:
        ratings = 3 + 1.5 * np.tanh(rng.uniform(0.3, 2) * (ratings - 3))
    return np.round(ratings, int(rng.integers(0, 4))), scores


def scipy_figures(curve, x, y):
    """PLCC and RMSE after the fit; nothing if scipy gives up."""
    spread = np.std(x, ddof=1)
    start = ((max(y), min(y), np.mean(x), spread / 4) if curve is fit4 else
             (max(y) - min(y), 1 / spread, np.mean(x), 0, np.mean(y)))
    try:
        best, _ = optimize.curve_fit(curve, x, y, p0=start, maxfev=20000, xtol=1e-15, ftol=1e-15, gtol=1e-15)
    except RuntimeError:
        return None
    mapped = curve(x, *best)
    rmse = np.sqrt(np.mean((mapped - y) ** 2))
    return (stats.pearsonr(mapped, y)[0], rmse) if np.ptp(mapped) > 0 else None


def main():
    warnings.filterwarnings("ignore")
    sets, seed = (int(a) for a in (sys.argv[2:] + ["120", "12"][len(sys.argv) - 2:])[:2])
    rng = np.random.default_rng(seed)
    data = []
    while len(data) < sets:
        x, y = random_set(rng)
        if np.ptp(x) > 0 and np.ptp(y) > 0:
            data.append((x, y))
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "predictions.jsonl"
        file.write_text("".join(json.dumps({"id": str(i), "set": str(number), "score": float(score),
                                            "rating": float(rating)}) + "\n"
                                for number, (x, y) in enumerate(data)
                                for i, (rating, score) in enumerate(zip(x, y))))
        command = [sys.argv[1], "--from-predictions", file, "--draws", "1", "--format", "json"]
        rows = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["rows"]
    counts = {"equal": 0, "scipy gives up": 0, "biqa_eval has a lower minimum": 0, "no finite minimum": 0, "worse": 0}
    for (x, y), row in zip(data, rows):
        for name, curve in (("fit4", fit4), ("fit5", fit5)):
            expected, plcc, rmse = scipy_figures(curve, x, y), row[f"plcc_{name}"], row[f"rmse_{name}"]
            if expected is None:
                case = "scipy gives up"
            elif plcc is None or rmse - expected[1] > WORSE_RMSE:
                case = "worse"
                print(f"set {row['set']}, {name}: biqa_eval {plcc} {rmse}, scipy {expected}")
            elif abs(plcc - expected[0]) <= SAME_PLCC:
                case = "equal"
            else:
                case = "biqa_eval has a lower minimum" if expected[1] - rmse > WORSE_RMSE else "no finite minimum"
            counts[case] += 1
    print(f"{sum(counts.values())} fits: " + ", ".join(f"{count} {case}" for case, count in counts.items()))
    sys.exit(counts["worse"] > 0)


if __name__ == "__main__":
    main()
