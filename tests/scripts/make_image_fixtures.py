#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/fixtures/images: one small picture per kind of file, and what the reference reads from it.

    python tests/scripts/make_image_fixtures.py

Needs numpy, Pillow 13 and transformers 5.23 (the PIL processor of Qwen2-VL). Everything is seeded.
expected.json: digests (SHA-256) of the uint8 RGB picture as a training run sees it (EXIF applied, alpha over
white), of resized pictures and of pixel values, and sizes from smart_resize.
"""

import hashlib
import io
import json
import os
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps
from transformers.image_transforms import convert_to_rgb
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "images")
HEIGHT, WIDTH = 15, 21


def path(name):
    return os.path.join(FOLDER, name)


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def picture(height=HEIGHT, width=WIDTH, channels=3, bits=8, seed=1):
    """Gradients with a few edges and a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = [np.sin((c + 1) * x / width * 3 + y / height * (4 - c)) / 2 + 0.5 for c in range(channels)]
    values = np.stack(planes, -1) * 0.8 + 0.1 * ((x // 9 + y // 7) % 2)[..., None] + rng.uniform(0, 0.1, planes[0].shape)[..., None]
    return (values.clip(0, 1) * (2**bits - 1)).round().astype(np.uint16 if bits > 8 else np.uint8)


def png(name, samples, colour_type, bits, interlaced=False, chunks=()):
    """A PNG of kinds Pillow cannot write: 16-bit colour, Adam7."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    adam7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    data = b""
    for y, x, dy, dx in adam7 if interlaced else [(0, 0, 1, 1)]:
        for row in samples[y::dy, x::dx]:
            data += b"\0" + row.astype(">u2" if bits == 16 else "u1").tobytes()
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, colour_type, 0, 0, interlaced)
    with open(path(name), "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header))
        for kind, content in chunks:
            f.write(chunk(kind, content))
        f.write(chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b""))


def bmp(name, packed, bits, masks=None, header_size=40):
    """A bottom-up BMP of packed pixels."""
    height, width = packed.shape
    rows = b""
    for row in packed[::-1]:
        data = row.astype({16: "<u2", 32: "<u4"}[bits]).tobytes()
        rows += data + b"\0" * (-len(data) % 4)
    info = struct.pack("<IiiHHIIiiII", header_size, width, height, 1, bits, 3 if masks else 0, len(rows), 0, 0, 0, 0)
    info += struct.pack("<4I", *masks)[:16 if header_size > 40 else 12] if masks else b""
    info += b"\0" * (header_size - len(info))
    offset = 14 + len(info)
    with open(path(name), "wb") as f:
        f.write(b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + info + rows)


def tiff_block(value, kind=3, count=1, order="<", entries=1):
    """An EXIF block with one entry, the orientation."""
    packed = struct.pack(order + {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f"}[kind], value) if kind != 5 else struct.pack(order + "II", value, 1)
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8) + struct.pack(order + "H", entries)
    if len(packed) > 4:
        data, packed = packed, struct.pack(order + "I", len(head) + 12 * entries + 4)
    else:
        data, packed = b"", packed.ljust(4, b"\0")
    return head + (struct.pack(order + "HHI", 0x0112, kind, count) + packed) * entries + struct.pack(order + "I", 0) + data


def xmp(told):
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description {told}></rdf:RDF></x:xmpmeta>'.encode()


ATTRIBUTE, ELEMENT = 'tiff:Orientation="%d"/', "/><tiff:Orientation>%d</tiff:Orientation"


def with_markers(jpeg, *contents):
    """A JPEG with further APP1 markers at its beginning."""
    return jpeg[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", 2 + len(c)) + c for c in contents) + jpeg[2:]


def with_chunks(png, *chunks, late=False):
    """A PNG with further chunks behind its header, or behind its pixels."""
    return with_chunks_at(png, len(png) - 12 if late else 33, *chunks)


def with_chunks_at(png, at, *chunks):
    made = b"".join(struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks)
    return png[:at] + made + png[at:]


def jpeg_without_density(jpeg):
    """Pillow looks at EXIF while opening such a file, and then forgives what is none."""
    assert jpeg[6:10] == b"JFIF"
    return jpeg[:13] + bytes(1) + jpeg[14:]


def raw_profile(block):
    """As ImageMagick writes it."""
    digits = block.hex()
    return ("\nexif\n%8d\n" % len(block) + "".join(digits[i:i + 72] + "\n" for i in range(0, len(digits), 72))).encode()


def write(name, content):
    with open(path(name), "wb") as f:
        f.write(content)


def contents(name):
    with open(path(name), "rb") as f:
        return f.read()


def make_turned(image):
    """Orientation in all its forms, on a picture of few bytes."""
    image.save(path("upright.jpg"), quality=30, optimize=True)
    image.save(path("upright.png"), optimize=True)
    jpeg, png_bytes = contents("upright.jpg"), contents("upright.png")
    prefix, namespace = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
    exifs = {"long": tiff_block(6, 4), "long_big_endian": tiff_block(8, 4, order=">"), "short_big_endian": tiff_block(3, order=">"), "signed": tiff_block(5, 8), "signed_long": tiff_block(7, 9, order=">"),
             "rational": tiff_block(6, 5), "float": tiff_block(8, 11), "byte": tiff_block(6, 1), "signed_byte": tiff_block(2, 6), "none": tiff_block(0), "nine": tiff_block(9), "two_entries": tiff_block(4, entries=2)}
    for name, block in exifs.items():
        write(f"exif_{name}.jpg", with_markers(jpeg, prefix + block))
    write("exif_prefix_twice.jpg", with_markers(jpeg, prefix + prefix + tiff_block(6)))
    write("exif_in_two_markers.jpg", with_markers(jpeg, prefix + tiff_block(6)[:12], prefix + tiff_block(6)[12:]))
    for code in (3, 9):
        write(f"xmp_attribute_{code}.jpg", with_markers(jpeg, namespace + xmp(ATTRIBUTE % code)))
    write("xmp_element.jpg", with_markers(jpeg, namespace + xmp(ELEMENT % 8)))
    write("xmp_last_counts.jpg", with_markers(jpeg, namespace + xmp(ELEMENT % 8), namespace + xmp(ATTRIBUTE % 2)))
    empty = tiff_block(1, entries=0)
    write("exif_empty_xmp.jpg", with_markers(jpeg, prefix + empty, namespace + xmp(ATTRIBUTE % 6)))
    write("exif_before_xmp.jpg", with_markers(jpeg, namespace + xmp(ATTRIBUTE % 6), prefix + tiff_block(1)))
    write("exif_invalid_before_xmp.jpg", with_markers(jpeg, namespace + xmp(ATTRIBUTE % 6), prefix + tiff_block(0)))

    write("exif_garbage_xmp.jpg", with_markers(jpeg_without_density(jpeg), prefix + b"no such block", namespace + xmp(ATTRIBUTE % 6)))
    write("exif_cut_xmp.jpg", with_markers(jpeg, prefix + tiff_block(6)[:15], namespace + xmp(ATTRIBUTE % 8)))

    key, packet = b"XML:com.adobe.xmp\0", xmp(ATTRIBUTE % 6)
    write("xmp_behind_zeros.png", with_chunks(png_bytes, (b"iTXt", key + b"\0\0\0\0" + bytes(3) + packet)))
    write("xmp_text_behind_zeros.png", with_chunks(png_bytes, (b"tEXt", key + bytes(3) + packet)))
    write("exif_text.png", with_chunks(png_bytes, (b"tEXt", b"exif\0" + tiff_block(8))))
    write("xmp.png", with_chunks(png_bytes, (b"iTXt", key + b"\0\0\0\0" + packet)))
    write("xmp_late.png", with_chunks(png_bytes, (b"iTXt", key + b"\1\0en\0\0" + zlib.compress(packet)), late=True))
    write("xmp_text.png", with_chunks(png_bytes, (b"tEXt", key + xmp(ELEMENT % 5))))
    write("exif_late.png", with_chunks(png_bytes, (b"eXIf", tiff_block(6, 4)), late=True))
    write("exif_prefix.png", with_chunks(png_bytes, (b"eXIf", prefix + tiff_block(8))))
    write("exif_before_profile.png", with_chunks(png_bytes, (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile(tiff_block(6)))), (b"eXIf", tiff_block(3))))
    write("profile.png", with_chunks(png_bytes, (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile(prefix + tiff_block(6))))))
    write("profile_late.png", with_chunks(png_bytes, (b"tEXt", b"Raw profile type exif\0" + raw_profile(prefix + tiff_block(7))), late=True))
    write("profile_app1.png", with_chunks(png_bytes, (b"zTXt", b"Raw profile type APP1\0\0" + zlib.compress(raw_profile(prefix + tiff_block(6))))))

    image.save(path("xmp.webp"), quality=10, xmp=xmp(ATTRIBUTE % 8))
    image.save(path("exif_long.webp"), quality=10, exif=prefix + tiff_block(6, 4))
    image.save(path("exif_empty_xmp.webp"), quality=10, exif=empty, xmp=xmp(ELEMENT % 6))
    image.save(path("xmp_late.tif"), compression="tiff_lzw", tiffinfo={700: xmp(ATTRIBUTE % 6)})
    for code in (1, 9):
        image.save(path(f"orientation_{code}_xmp_late.tif"), tiffinfo={274: code, 700: xmp(ATTRIBUTE % 6)})


def orientation_block(order, kind, count, data, big=False):
    """One entry, the orientation; `data` stands behind the directory where it has no place in it."""
    word, number = ("Q", 8) if big else ("I", 4)
    head = {"<": b"II", ">": b"MM"}[order] + (struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8))
    entry = head + struct.pack(order + ("Q" if big else "H"), 1) + struct.pack(order + "HH" + word, 0x0112, kind, count)
    inside = data if len(data) <= number else struct.pack(order + word, len(entry) + 2 * number)
    return entry + inside.ljust(number, b"\0") + bytes(number) + (data if len(data) > number else b"")


def orientation_of(content):
    """As exif_transpose finds it: the turn of a picture of which no two turns are equal. 0 where Pillow fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            turned = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("L").tobytes()
    except Exception:
        return 0
    marks = {}
    for code in range(1, 9):
        image = Image.open(io.BytesIO(with_chunks(TINY, (b"eXIf", tiff_block(code)))))
        marks[ImageOps.exif_transpose(image).tobytes()] = code
    return marks[turned] if turned in marks else None


def tiny_tiff(block_of, order):
    """A TIFF file of TINY's picture with one more entry, the orientation, which `block_of` gives for a place in the file."""
    entries = [(256, 3, 1, 3), (257, 3, 1, 2), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, 2), (279, 4, 1, 6)]
    packed = [struct.pack(order + "HHI", *e[:3]) + struct.pack(order + {3: "Hxx", 4: "I"}[e[1]], e[3]) for e in entries]
    directory = 14
    end = directory + 2 + 12 * 10 + 4
    packed.insert(5, block_of(end))
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, directory)
    return head + bytes(range(10, 16)) + struct.pack(order + "H", 10) + b"".join(packed) + bytes(4)


TINY_PIXELS = bytes(range(10, 16))
TINY = (b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in [
    (b"IHDR", struct.pack(">IIBBBBB", 3, 2, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" + TINY_PIXELS[:3] + b"\0" + TINY_PIXELS[3:])), (b"IEND", b"")]))


def make_orientations():
    """orientations.json: what Pillow makes of an orientation by its type, count and bytes, in EXIF and as a TIFF's own tag."""
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
    formats = {3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q"}
    rows = []
    for order in "<>":
        for kind in [*range(0, 20), 129]:
            for count in (0, 1, 2, 5):
                for value in (1, 6, 9):
                    if kind in (5, 10):
                        one = struct.pack(order + {5: "II", 10: "ii"}[kind], value * 2, 2)
                    else:
                        one = struct.pack(order + formats[kind], value) if kind in formats else bytes([value + 48 * (kind == 2)]) * sizes.get(kind, 2)
                    data = one * max(count, 1)

                    def entry(end, order=order, kind=kind, count=count, data=data):
                        inside = data[:4] if count * sizes.get(kind, 2) <= 4 else struct.pack(order + "I", end)
                        return struct.pack(order + "HHI", 274, kind, count) + inside.ljust(4, b"\0")
                    block = orientation_block(order, kind, count, data[:4] if count * sizes.get(kind, 2) <= 4 else data)
                    found = orientation_of(with_chunks(TINY, (b"eXIf", block)))
                    in_tiff = orientation_of(tiny_tiff(entry, order) + data)
                    assert found == in_tiff, (order, kind, count, value, found, in_tiff)
                    if value == 6 or found > 1:
                        rows.append([order, kind, count, data.hex(), found])
    with open(path("orientations.json"), "w") as f:
        f.write("[\n" + ",\n".join("  " + json.dumps(row) for row in rows) + "]\n")


def make_odd_chunks():
    """PNGs with chunks that nobody knows, and with pixels that lack their checksum."""
    whole = contents("upright.png")
    pixels = whole.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", whole[pixels - 8:pixels - 4])
    write("unknown_critical.png", with_chunks(whole, (b"ABCD", b"hello"), (b"CgBI", b"\0\1")))
    write("unknown_critical_late.png", with_chunks(whole, (b"ABCD", b"hello"), late=True))
    for missing in (1, 4):
        write(f"cut_in_sum_by_{missing}.png", whole[:pixels + length - missing])
        content = whole[pixels:pixels + length - missing]
        write(f"short_of_sum_by_{missing}.png", whole[:pixels - 8] + struct.pack(">I", len(content)) + b"IDAT" + content + struct.pack(">I", zlib.crc32(b"IDAT" + content)) + whole[-12:])
    interlaced = contents("interlaced.png")
    write("interlaced_cut_in_sum.png", interlaced[:-18])
    colours = contents("palette.png")
    write("long_transparency.png", with_chunks_at(colours, colours.index(b"IDAT") - 4, (b"tRNS", bytes(range(200, 256)) * 4)))


def make_without_end(rgb):
    """PNGs whose pixels are all there and whose end is not."""
    whole, interlaced = contents("upright.png"), contents("interlaced.png")
    for name, missing in {"mark": 12, "half_mark": 5, "checksum": 14, "mark_and_checksum": 16}.items():
        write(f"without_{name}.png", whole[:-missing])
    write("zeros_for_checksum.png", whole[:-14] + bytes(40))
    write("interlaced_without_mark.png", interlaced[:-12])
    write("zeros_for_mark.png", whole[:-12] + bytes(40))
    write("damaged_mark.png", whole[:-1] + b"x")
    write("more_behind_mark.png", whole + b"and more")


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def make_pictures():
    rgb = picture()
    grey = rgb[..., 0]
    alpha = (np.mgrid[0:HEIGHT, 0:WIDTH].sum(0) * 255 // (HEIGHT + WIDTH - 2)).astype(np.uint8)
    image, luma = Image.fromarray(rgb), Image.fromarray(grey)
    rgba = Image.fromarray(np.dstack([rgb, alpha]))
    palette = image.quantize(16)
    bilevel = luma.convert("1")
    cmyk = Image.fromarray(picture(channels=4), "CMYK")

    image.save(path("rgb.png"))
    luma.save(path("grey.png"))
    bilevel.save(path("bilevel.png"))
    palette.save(path("palette.png"))
    palette.save(path("palette_alpha.png"), transparency=bytes(range(0, 256, 16)))
    rgba.save(path("rgba.png"))
    luma_alpha = Image.merge("LA", [luma, Image.fromarray(alpha)])
    luma_alpha.save(path("grey_alpha.png"))
    keyed = rgb.copy()
    keyed[5:12, 8:16] = (10, 20, 30)
    Image.fromarray(keyed).save(path("colour_key.png"), transparency=(10, 20, 30))
    image.save(path("turned.png"), exif=exif(5))
    png("interlaced.png", rgb, 2, 8, interlaced=True)
    blob = zlib.compress(bytes(1_000_000), 9)
    png("inflating_texts.png", rgb, 2, 8, chunks=[(b"iCCP", b"profile\0\0" + blob), (b"zTXt", b"Comment\0\0" + blob)])
    png("rgb16.png", picture(bits=16), 2, 16)
    png("grey16.png", picture(bits=16)[..., :1], 0, 16)

    image.save(path("chroma_420.jpg"), quality=85)
    image.save(path("chroma_444.jpg"), quality=95, subsampling=0)
    image.save(path("progressive.jpg"), quality=75, progressive=True, optimize=True)
    luma.save(path("grey.jpg"))
    cmyk.save(path("cmyk.jpg"))
    for code in range(1, 9):
        image.save(path(f"turned_{code}.jpg"), quality=60, optimize=True, exif=exif(code))

    image.save(path("rgb.bmp"))
    palette.save(path("palette.bmp"))
    bilevel.save(path("bilevel.bmp"))
    rgba.save(path("rgba.bmp"))
    wide = rgb.astype(np.uint32)
    five = wide >> 3
    bmp("packed_555.bmp", five[..., 0] << 10 | five[..., 1] << 5 | five[..., 2], 16)
    bmp("packed_565.bmp", five[..., 0] << 11 | wide[..., 1] >> 2 << 5 | five[..., 2], 16, (0xF800, 0x7E0, 0x1F, 0))
    bmp("packed_32.bmp", wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2] | 7 << 24, 32)
    bmp("alpha_first.bmp", wide[..., 0] << 24 | wide[..., 1] << 16 | wide[..., 2] << 8 | alpha, 32,
        (0xFF000000, 0xFF0000, 0xFF00, 0xFF), 108)

    image.save(path("lossy.webp"), quality=80)
    image.save(path("lossless.webp"), lossless=True)
    rgba.save(path("rgba.webp"), quality=80)
    image.save(path("animated.webp"), save_all=True, append_images=[image.transpose(Image.Transpose.ROTATE_180)], quality=50)
    image.save(path("turned.webp"), quality=60, exif=exif(6))

    image.save(path("rgb.tif"), compression="tiff_lzw")
    image.save(path("jpeg.tif"), compression="jpeg", quality=90)
    luma.save(path("grey.tif"), compression="tiff_adobe_deflate")
    bilevel.save(path("bilevel.tif"), compression="group4")
    palette.save(path("palette.tif"))
    rgba.save(path("rgba.tif"), compression="packbits")
    luma_alpha.save(path("grey_alpha.tif"))
    cmyk.save(path("cmyk.tif"), compression="tiff_lzw")
    cmyk.convert("RGB").save(path("cmyk_tif_as_rgb.png"))
    image.save(path("turned.tif"), compression="tiff_lzw", tiffinfo={274: 7})
    Image.fromarray(picture(bits=16)[..., 0]).save(path("grey16.tif"))

    make_turned(Image.fromarray(picture(height=6, width=10)))
    make_without_end(rgb)
    make_odd_chunks()

    image.save(path("rgb.ppm"))
    luma.save(path("grey.pgm"))
    bilevel.save(path("bilevel.pbm"))
    with open(path("plain.ppm"), "w") as f:
        f.write(f"P3 # plain\n{WIDTH} # width\n{HEIGHT}\n255\n")
        f.writelines(" ".join(map(str, row.ravel())) + "\n" for row in rgb)
    with open(path("plain.pbm"), "w") as f:
        f.write(f"P1\n{WIDTH} {HEIGHT}\n")
        f.writelines("".join(map(str, row)) + "\n" for row in grey // 128)
    with open(path("maximum_100.pgm"), "wb") as f:
        f.write(b"P5\n%d %d 100\n" % (WIDTH, HEIGHT) + (grey.astype(int) * 100 // 255).astype(np.uint8).tobytes())
    with open(path("rgb16.ppm"), "wb") as f:
        f.write(b"P6\n%d %d\n65535\n" % (WIDTH, HEIGHT) + picture(bits=16).astype(">u2").tobytes())
    with open(path("grey16.pgm"), "wb") as f:
        f.write(b"P5\n%d %d\n65535\n" % (WIDTH, HEIGHT) + picture(bits=16)[..., 0].astype(">u2").tobytes())


# libtiff's own conversions round otherwise than Pillow's: within one level of another fixture.
NEARLY = {"cmyk.tif": "cmyk_tif_as_rgb.png", "grey16.tif": "grey16.png"}


def read(name):
    if name.startswith("grey16"):  # Pillow clips 16-bit grey to white: our own decision, value/257
        samples = picture(bits=16)[..., 0].astype(int)
        return np.repeat(((2 * samples + 257) // 514)[..., None], 3, -1).astype(np.uint8)
    if name == "inflating_texts.png":  # Pillow refuses it; biqa does not inflate texts at all
        name = "rgb.png"
    return convert_to_rgb(ImageOps.exif_transpose(Image.open(path(name))), return_numpy=True)


def resized(image, height, width, resample=Image.Resampling.BICUBIC):
    return np.array(image.resize((width, height), resample))


def make_expected():
    pictures = {}
    for name in sorted(os.listdir(FOLDER)):
        if not name.endswith(".json"):
            rgb = read(name)
            pictures[name] = {"height_width": rgb.shape[:2]}
            pictures[name] |= {"within_1_of": NEARLY[name]} if name in NEARLY else {"sha256": digest(rgb)}
    image = Image.fromarray(read("rgb.png"))
    resizes = []
    for height, width in [(28, 28), (56, 84), (15, 18), (12, 21), (6, 21), (3, 20), (8, 40), (1, 1), (14, 20), (90, 5)]:
        resizes.append({"height_width": [height, width], "sha256": digest(resized(image, height, width)),
                        "sha256_rows_first": digest(resized(Image.fromarray(resized(image, HEIGHT, width)), height, width))})
    for number in (1, 2, 4, 5):
        for height, width in [(28, 28), (56, 84), (12, 21), (3, 20), (1, 1), (14, 20), (90, 5)]:
            rows_first = resized(Image.fromarray(resized(image, HEIGHT, width, number)), height, width, number)
            resizes.append({"height_width": [height, width], "filter": number, "sha256": digest(resized(image, height, width, number)), "sha256_rows_first": digest(rows_first)})
    values = []
    for name, low, high in [("rgb.png", 3136, 12845056), ("rgb.png", 784, 784), ("turned.png", 6000, 9000)]:
        processor = Qwen2VLImageProcessorPil(size={"shortest_edge": low, "longest_edge": high})
        made = processor(images=[Image.fromarray(read(name))], return_tensors="np")
        values.append({"file": name, "min_pixels": low, "max_pixels": high,
                       "grid": made["image_grid_thw"][0].tolist(),
                       "sha256": digest(made["pixel_values"].astype(np.float32))})
    made = Qwen2VLImageProcessorPil(size={"shortest_edge": 6000, "longest_edge": 9000}, resample=2, image_std=[0.5, -0.25, 1])(images=[image], return_tensors="np")
    values.append({"file": "rgb.png", "min_pixels": 6000, "max_pixels": 9000, "resample": 2, "image_std": [0.5, -0.25, 1], "grid": made["image_grid_thw"][0].tolist(), "sha256": digest(made["pixel_values"].astype(np.float32))})
    rng = np.random.default_rng(3)
    sizes = []
    for number in range(40):
        height, width = (int(v) for v in 2 ** rng.uniform(0, 12, 2))
        if number % 4 == 0:
            height = 14 * (2 * int(rng.integers(0, 60)) + 1)  # half way between two multiples
        low, high = [(3136, 12845056), (3136, 401408), (200704, 1003520)][number % 3]
        try:
            made = smart_resize(height, width, 28, low, high)
        except ValueError:
            made = None
        sizes.append([height, width, low, high, made])
    with open(path("expected.json"), "w") as f:
        entry = lambda items: ",\n".join("  " + item for item in items)  # noqa: E731
        f.write('{"pictures": {\n' + entry(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in pictures.items()))
        f.write('},\n"resizes_of_rgb_png": [\n' + entry(map(json.dumps, resizes)))
        f.write('],\n"pixel_values": [\n' + entry(map(json.dumps, values)))
        f.write('],\n"smart_resize": [\n' + entry(map(json.dumps, sizes)) + "]}\n")


if __name__ == "__main__":
    os.makedirs(FOLDER, exist_ok=True)
    for old in os.listdir(FOLDER):
        os.remove(path(old))
    make_pictures()
    make_orientations()
    make_expected()
