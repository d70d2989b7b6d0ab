#!/usr/bin/env python3
"""Writes texts on which tokenizers tend to differ, as lines of {"text": ...} for tokenizer_compare.py.

usage: make_texts.py OUT [FILE...]: the files (UTF-8) in parts of 8,000 characters, every character of Unicode beside a letter, strings of
characters that normalization moves or joins, fragments of code, spaces, special tokens and many scripts in random order, long runs.
"""

import json
import random
import sys
import unicodedata

CHARACTERS = [chr(c) for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]
COMBINING = [c for c in CHARACTERS if unicodedata.combining(c)]
COMPOSED = [c for c in CHARACTERS if unicodedata.decomposition(c)]
PARTS = sorted({part for c in COMPOSED for part in unicodedata.normalize("NFD", c)})
JAMO = [chr(c) for c in (*range(0x1100, 0x1113), *range(0x1161, 0x1180), *range(0x11A7, 0x11C3), *range(0xAC00, 0xAC40))]
ASCII = [chr(c) for c in range(128)]
BLOCKS = [[chr(c) for c in range(first, first + 256) if not 0xD800 <= c < 0xE000] for first in (*range(0, 0x3400, 256), *range(0xA000, 0xAC00, 256), *range(0xF900, 0x1FC00, 256))]
FRAGMENTS = """'s 'S 'ſ 'RE I'LL don't CamelCase HTTPServer __init__ -> != // ... 1 12 123 1234 ١٢٣ ½ Ⅷ ² _ — ſ K İ ß é e\u0301 q\u0307\u0323 한국어
\u1112\u1161\u11ab 日本語 ひらがな カタカナ 漢字 عربي עברית हिन्दी ไทย 👩‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️ <s> </s> <|endoftext|> <|im_end|> <unk> <0x0A> <think> </think> [INST] ▁ Ġ Ċ Hello wOrld
ﬁ ﷺ Å 𐐀𐐨 𞤀𞤢 。 、 ！ ～ ‘ ’ 「 µ ª ƻ ʰ ⓐ \u200d \u180e \u00a0 \u3000 \ufeff \ufffd \u0345 \u0334 \u0f71\u0f72 \U0001d15e \U00010efd a B""".split()
SPACES = [" ", "  ", "   ", "\n", "\r\n", "\t", "\x00", "\x1c", "\x85", "\u2028"]


def texts(files):
    draw = random.Random(1)
    for path in files:
        with open(path, encoding="utf-8", errors="replace") as file:
            whole = file.read()
        yield from (whole[i : i + 8000] for i in range(0, len(whole), 8000))
    for i in range(0, len(CHARACTERS), 8000):
        yield "".join("a" + c for c in CHARACTERS[i : i + 8000])
    for block in BLOCKS:
        yield "".join(draw.choice(block) if draw.random() < 0.8 else draw.choice(SPACES + ["'s", "1", "a"]) for _ in range(1000))
    pools = [COMBINING, COMPOSED, PARTS, JAMO, ASCII, CHARACTERS, *draw.sample(BLOCKS, 20)]
    for _ in range(20000):
        chosen = draw.sample(pools, draw.randint(1, 4))
        yield "".join(draw.choice(draw.choice(chosen)) for _ in range(draw.randint(2, 12)))
    for _ in range(5000):
        yield "".join(draw.choice(FRAGMENTS if draw.random() < 0.6 else SPACES) for _ in range(draw.randint(1, 30)))
    for part in [*SPACES, *FRAGMENTS[:20], "a", "."]:
        for count in (2, 3, 50, 3000):
            yield part * count + "x"
            yield "1" + part * count
    yield ""


def main():
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        for text in texts(sys.argv[2:]):
            out.write(json.dumps({"text": text}) + "\n")


main()
