# SPDX-License-Identifier: Apache-2.0
"""The random numbers of src/core/random.h, written again in Python for the scripts that make fixtures."""

M64 = (1 << 64) - 1


def mix64(x):
    x = (x + 0x9E3779B97F4A7C15) & M64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & M64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & M64
    return x ^ (x >> 31)


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def stream_key(name):
    state = 0x6269716100000000 + len(name)
    for part in name:
        state = mix64(state ^ mix64(part))
    return [state & 0xFFFFFFFF, state >> 32]


def word(key, index):
    b = philox([index & 0xFFFFFFFF, index >> 32, 0, 0], key)
    return b[1] << 32 | b[0]


def hash_text(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001B3 & M64
    return mix64(h)


def random_order(count, key):
    order = list(range(count))
    for i in range(count, 1, -1):
        j = word(key, i) * i >> 64
        order[i - 1], order[j] = order[j], order[i - 1]
    return order
