"""Random edits of bytes, each a function from bytes to bytes that can be left out without changing the others."""

import struct

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
WORDS = (b"\x1b]0;owned\x07", b"\x1b[2J", b"\0", b"\n", b"%s%n", b"../../../etc/passwd", b"\xff\xfe", b"NaN", b"1e999")


def byte_edit(rng, length):
    """One edit of data of about `length` bytes."""
    kinds = (_flip, _set, _number, _cut, _repeat, _truncate, _zero, _word, _swap, _append)
    weights = (6, 4, 5, 2, 2, 2, 2, 1, 1, 1)
    kind = kinds[int(rng.choice(len(kinds), p=[w / sum(weights) for w in weights]))]
    # Headers decide most, so half of all edits are near the beginning.
    reach = max(1, min(length, 256) if rng.random() < 0.5 else length)
    return kind(rng, int(rng.integers(reach)), max(1, length))


def _flip(rng, at, _length):
    bit = 1 << int(rng.integers(8))
    return lambda data: data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :] if at < len(data) else data


def _set(rng, at, _length):
    value = rng.bytes(int(rng.integers(1, 9)))
    return lambda data: data[:at] + value + data[at + len(value) :]


def _number(rng, at, _length):
    value = NUMBERS[int(rng.integers(len(NUMBERS)))]
    width, order = ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))[int(rng.integers(4))]
    packed = struct.pack(("<" if rng.random() < 0.5 else ">") + order, value & ((1 << 8 * width) - 1))
    return lambda data: data[:at] + packed + data[at + width :]


def _cut(rng, at, length):
    size = int(rng.integers(1, 1 + length // 2)) if length > 1 else 1
    return lambda data: data[:at] + data[at + size :]


def _repeat(rng, at, _length):
    size, times = int(rng.integers(1, 65)), int(rng.integers(2, 300))
    return lambda data: data[:at] + data[at : at + size] * times + data[at + size :]


def _truncate(rng, _at, length):
    end = int(rng.integers(length))
    return lambda data: data[:end]


def _zero(rng, at, length):
    size = int(rng.integers(1, 1 + length // 3)) if length > 2 else 1
    return lambda data: data[:at] + bytes(min(size, max(0, len(data) - at))) + data[at + size :]


def _word(rng, at, _length):
    word = WORDS[int(rng.integers(len(WORDS)))]
    return lambda data: data[:at] + word + data[at + len(word) :]


def _swap(rng, at, length):
    other, size = int(rng.integers(length)), int(rng.integers(1, 65))

    def swap(data):
        first, second = sorted((at, other))
        if second < first + size:
            return data
        a, b = data[first : first + size], data[second : second + size]
        return data[:first] + b + data[first + size : second] + a + data[second + size :]

    return swap


def _append(rng, _at, _length):
    extra = rng.bytes(int(rng.integers(1, 200)))
    return lambda data: data + extra
