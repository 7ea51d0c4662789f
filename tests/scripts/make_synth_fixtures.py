#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/fixtures/synth: two small photographs, and the set that biqa_data synth makes of them.

    python3 tests/scripts/make_synth_fixtures.py build/cpu/bin/biqa_data

needs only Python. Run it again only if the distortions are meant to change.
"""

import pathlib
import shutil
import struct
import subprocess
import sys
import zlib

OUT = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "synth"


def write_png(file, width, height, pixel):
    """An RGB image without filters."""
    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    lines = b"".join(b"\0" + bytes(v for x in range(width) for v in pixel(x, y)) for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines, 9)) +
                     chunk(b"IEND", b""))


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    photos = OUT / "photos"
    photos.mkdir(parents=True)
    # Edges, ramps and colours, so that every distortion changes them.
    write_png(photos / "checks.png", 40, 32, lambda x, y: (40 + 150 * ((x // 5 + y // 7) % 2), 6 * y, 220 - 5 * x))
    write_png(photos / "rings.png", 28, 44,
              lambda x, y: (((x - 14) ** 2 + (y - 20) ** 2) // 3 % 256, 9 * x, 60 + 100 * (y // 11 % 2)))
    command = [sys.argv[1], "synth", "--photos", photos, "--out", OUT / "golden", "--n", "24", "--seed", "6", "--side", "20"]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
