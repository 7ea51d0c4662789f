#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/fixtures/labels: a workbook and MATLAB files by other people's writers, and what their readers see.

    python3 tests/scripts/make_label_fixtures.py

needs numpy, scipy, h5py and openpyxl; building and running the tests needs none of them.
"""

import datetime
import json
import pathlib

import h5py
import numpy as np
import openpyxl
from openpyxl.cell.rich_text import CellRichText, TextBlock
from openpyxl.cell.text import InlineFont
from scipy.io import savemat

OUT = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "labels"
NAMES = ["t1.bmp", "3.bmp", "写真 4.JPG", "Straße.bmp", "a"]
SCORES = [12.5, 63.9634, 1e-300, 92.4319526627219, 3.0]


def workbook():
    book = openpyxl.Workbook()
    book.properties.created = book.properties.modified = datetime.datetime(2026, 1, 1)
    notes = book.active
    notes.title = "notes"
    notes["B3"] = "nothing here"
    sheet = book.create_sheet("labels")
    sheet["D4"], sheet["E4"], sheet["G4"] = "Image name", "MOS", "rest"
    sheet["D5"], sheet["E5"], sheet["G5"] = 1600, 12.5, True
    sheet["D6"], sheet["E6"] = "  padded & <escaped>  ", 0.1 + 0.2
    sheet["D8"], sheet["E8"] = "写真.jpg", -1e-7
    sheet["D9"] = CellRichText("two ", TextBlock(InlineFont(b=True), "runs"))
    sheet["E9"] = 1e21
    book.save(OUT / "labels.xlsx")
    again = openpyxl.load_workbook(OUT / "labels.xlsx")
    return {name: [[c if not isinstance(c, CellRichText) else str(c) for c in row]
                   for row in again[name].iter_rows(values_only=True)] for name in again.sheetnames}


def matlab5():
    cells = np.empty((len(NAMES), 1), object)
    cells[:, 0] = NAMES
    values = {"names": cells, "scores": np.array([SCORES]), "single": np.array([[1.5, -2]], np.float32),
              "small": np.array([[1], [255]], np.uint8), "complex": np.array([1 + 2j])}
    savemat(OUT / "plain.mat", values)
    savemat(OUT / "packed.mat", values, do_compression=True)
    names = np.empty((3, 1), object)
    names[:, 0] = ["t1.bmp", "3.bmp", "4.JPG"]
    savemat(OUT / "AllImages_release.mat", {"AllImages_release": names})
    savemat(OUT / "AllMOS_release.mat", {"AllMOS_release": np.array([[12.5, 63.9634, 3.42]])})
    savemat(OUT / "short_AllMOS_release.mat", {"AllMOS_release": np.array([[12.5, 63.9634]])})
    savemat(OUT / "AllStdDev_release.mat", {"AllStdDev_release": np.array([[20, 18.5, 19.25]])})
    for file in OUT.glob("*.mat"):  # the header holds the time
        if file.name == "new.mat":
            continue
        content = bytearray(file.read_bytes())
        content[:116] = b"MATLAB 5.0 MAT-file, Platform: posix".ljust(116)
        file.write_bytes(content)


def matlab73():
    with h5py.File(OUT / "new.mat", "w", userblock_size=512, libver="earliest") as file:
        references = file.create_group("#refs#")
        names = file.create_dataset("names", (1, len(NAMES) + 1), dtype=h5py.ref_dtype, track_times=False)
        for i, text in enumerate(NAMES):
            codes = np.frombuffer(text.encode("utf-16-le"), "<u2").reshape(-1, 1)
            cell = references.create_dataset(f"c{i}", data=codes, track_times=False)
            cell.attrs["MATLAB_class"] = np.bytes_("char")
            names[0, i] = cell.ref
        empty = references.create_dataset("c9", data=np.array([0, 0], np.uint64), track_times=False)
        empty.attrs["MATLAB_class"] = np.bytes_("char")
        empty.attrs["MATLAB_empty"] = np.uint8(1)
        names[0, len(NAMES)] = empty.ref
        scores = file.create_dataset("scores", data=np.array(SCORES).reshape(-1, 1), track_times=False)
        scores.attrs["MATLAB_class"] = np.bytes_("double")
        file.create_dataset("square", data=np.arange(6.0).reshape(2, 3), track_times=False)
    content = bytearray((OUT / "new.mat").read_bytes())
    content[:128] = b"MATLAB 7.3 MAT-file, Platform: posix".ljust(116) + bytes(8) + b"\x00\x02IM"
    (OUT / "new.mat").write_bytes(content)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    expected = {"workbook": workbook(), "names": NAMES, "scores": SCORES}
    matlab5()
    matlab73()
    (OUT / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
