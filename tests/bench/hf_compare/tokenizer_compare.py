#!/usr/bin/env python3
"""Compares the ids, the decoded texts and the speed of this project's tokenizer with those of Hugging Face's `tokenizers`.

usage: tokenizer_compare.py BENCH FOLDER TEXTS: BENCH is the program tokenizer_bench, FOLDER has a tokenizer.json, TEXTS are lines of
{"text": ...}. Prints what differs, and both speeds, each the best of five rounds with one thread in turns; exits 1 on a difference.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
from tokenizers import Tokenizer, processors  # noqa: E402


def hf_tokenizer(folder):
    """With add_bos_token and add_eos_token of tokenizer_config.json as transformers applies them."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    if config.get("add_bos_token") is None and config.get("add_eos_token") is None:
        return tokenizer
    names = [config.get("bos_token") if config.get("add_bos_token") else None, config.get("eos_token") if config.get("add_eos_token") else None]
    names = [name["content"] if isinstance(name, dict) else name for name in names]
    template = [*([names[0]] if names[0] else []), "$A", *([names[1]] if names[1] else [])]
    tokens = [(name, tokenizer.token_to_id(name)) for name in names if name]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=tokens)
    return tokenizer


def speed(tokenizer, texts):
    tokenizer.encode_special_tokens = True
    start = time.perf_counter()
    for text in texts:
        tokenizer.encode(text)
    return sum(len(t.encode()) for t in texts) / 1e6 / (time.perf_counter() - start)


def main():
    bench, folder, texts_path = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
    with open(texts_path, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    tokenizer = hf_tokenizer(folder)
    different = 0
    with tempfile.TemporaryDirectory() as scratch:
        ours_path = pathlib.Path(scratch) / "ids.jsonl"
        ours_speed = subprocess.run([bench, folder, texts_path, ours_path], check=True, capture_output=True, text=True).stdout.strip()
        with open(ours_path, encoding="utf-8") as file:
            for number, (line, text) in enumerate(zip(file, texts, strict=True)):
                ours = json.loads(line)
                tokenizer.encode_special_tokens = True
                literal = tokenizer.encode(text).ids
                tokenizer.encode_special_tokens = False
                parsed = tokenizer.encode(text, add_special_tokens=False).ids
                scattered = [literal[i * 7919 % len(literal)] for i in range(len(literal))]
                hf = {"literal": literal, "parsed": parsed, "decoded": tokenizer.decode(parsed), "scattered": tokenizer.decode(scattered)}
                for what, value in hf.items():
                    if ours[what] == value:
                        continue
                    different += 1
                    at = next((i for i, (a, b) in enumerate(zip(ours[what], value)) if a != b), min(len(ours[what]), len(value)))
                    if different <= 10:
                        near = ours[what][max(0, at - 3) : at + 5], value[max(0, at - 3) : at + 5]
                        print(f"text {number}, {what}: at {at} found {near[0]}, expected {near[1]}; {tokenizer.decode(near[1]) if what in ('literal', 'parsed') else ''!r}")
    hf_speed = max(speed(tokenizer, texts) for _ in range(5))
    print(f"{folder.name}: {different} of {4 * len(texts)} differ; HF {hf_speed:.2f} MB/s; ours: {ours_speed}")
    sys.exit(different > 0)


main()
