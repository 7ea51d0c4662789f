#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads the TensorBoard files of a run folder with TensorBoard's own reader and compares them with metrics.jsonl.

    check_tensorboard.py RUN          every finite figure of metrics.jsonl must stand under its tag, as f32
    check_tensorboard.py --record TEXT    prints the bytes of a TFRecord as TensorBoard's own writer makes them

Needs the Python packages tensorboard and numpy.
"""
import io
import json
import math
import pathlib
import sys

import numpy


def print_record(text):
    from tensorboard.summary.writer.record_writer import RecordWriter

    out = io.BytesIO()
    RecordWriter(out).write(text.encode())
    print(" ".join(f"{byte:02x}" for byte in out.getvalue()))


def check_run(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    found = {
        (tag, event.step): numpy.float32(event.value)
        for tag in accumulator.Tags()["scalars"]
        for event in accumulator.Scalars(tag)
    }
    expected = 0
    for line in (run / "metrics.jsonl").read_text().splitlines():
        metrics = json.loads(line)
        prefix = "/".join(["eval", metrics["eval"], metrics["condition"], metrics["decoding"]]) if "eval" in metrics else ""
        for name, value in metrics.items():
            if name in ("step", "time") or not isinstance(value, (int, float)) or not math.isfinite(value):
                continue
            # A step's tag ends with the metric's name, or with what follows its group ("reward/prediction_mean").
            tags = [f"{prefix}/{name}"] if prefix else [f"{group}/{name}" for group in ("train", "time", "texts")] + [name.replace("_", "/", 1)]
            hits = [found[tag, metrics["step"]] for tag in tags if (tag, metrics["step"]) in found]
            if hits != [numpy.float32(value)]:
                sys.exit(f"step {metrics['step']}, {name}: metrics.jsonl has {value}, TensorBoard {hits}")
            expected += 1
    if expected != len(found):
        sys.exit(f"TensorBoard holds {len(found)} points, metrics.jsonl {expected}")
    print(f"{expected} points agree")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--record":
        print_record(sys.argv[2])
    elif len(sys.argv) == 2 and not sys.argv[1].startswith("-"):
        check_run(pathlib.Path(sys.argv[1]))
    else:
        sys.exit(__doc__)
