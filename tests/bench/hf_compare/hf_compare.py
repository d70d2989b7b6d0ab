"""Tokens per second of `coterie generate` beside Hugging Face transformers' `generate`, on the same model and prompts.

One process, one thread each, f32, greedy, every request the same number of prompt and new tokens. The two take turns, round by round, so
that both see the same machine; only generation is timed (prompt and new tokens; no loading), after one round to warm up.
Prints one JSON object. Started by scripts/bench-hf.
"""

import argparse
import json
import os
import pathlib
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import transformers


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", type=pathlib.Path, required=True, help="checkpoint folder")
    parser.add_argument("--program", type=pathlib.Path, default="build/release/coterie")
    parser.add_argument("--batch", type=int, default=32, help="requests, all at once")
    parser.add_argument("--prompt-tokens", type=int, default=32, help="tokens of each prompt, chosen at random")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens generated for each prompt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Transformers:
    """The model in this process; transformers picks its own fastest attention and expert kernels (reported)."""

    def __init__(self, options):
        torch.set_num_threads(1)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
        self.model.generation_config.eos_token_id = None  # every request gets all its tokens
        self.new_tokens = options.new_tokens

    def run(self, prompts):
        ids = torch.tensor(prompts)
        start = time.perf_counter()
        with torch.inference_mode():
            out = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self.new_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        return time.perf_counter() - start, out[:, ids.shape[1] :].tolist()


class Coterie:
    """The program, started anew for each round; its own metrics say how long generation took."""

    def __init__(self, options, folder):
        self.folder = folder
        self.new_tokens = options.new_tokens
        self.command = [
            str(options.program), "generate", "--model", str(options.model), "--dtype", "f32", "--threads", "1",
            "--input", str(folder / "requests.jsonl"), "--output", str(folder / "results.jsonl"),
            "--metrics", str(folder / "metrics.json"),
        ]  # fmt: skip

    def run(self, prompts):
        body = {
            "model": "any", "max_tokens": self.new_tokens, "temperature": 0, "ignore_eos": True, "return_token_ids": True
        }  # fmt: skip
        with open(self.folder / "requests.jsonl", "w") as file:
            for i, prompt in enumerate(prompts):
                request = {"custom_id": str(i), "method": "POST", "url": "/v1/completions"}
                print(json.dumps(request | {"body": body | {"prompt": prompt}}), file=file)
        (self.folder / "results.jsonl").unlink(missing_ok=True)
        done = subprocess.run(
            self.command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        if done.returncode != 0:
            sys.exit(f"{' '.join(self.command)} ended with {done.returncode}:\n{done.stderr}")
        results = [json.loads(line) for line in open(self.folder / "results.jsonl")]
        tokens = {r["custom_id"]: r["response"]["body"]["choices"][0]["token_ids"] for r in results}
        self.metrics = json.load(open(self.folder / "metrics.json"))
        return self.metrics["run_seconds"], [tokens[str(i)] for i in range(len(prompts))]


def cpu():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    options = arguments()
    vocabulary = json.load(open(options.model / "config.json"))["vocab_size"]
    rng = random.Random(options.seed)
    prompts = [[rng.randrange(3, vocabulary) for _ in range(options.prompt_tokens)] for _ in range(options.batch)]
    tokens = options.batch * options.new_tokens
    with tempfile.TemporaryDirectory() as folder:
        sides = {"transformers": Transformers(options), "coterie": Coterie(options, pathlib.Path(folder))}
        rates = {name: [] for name in sides}
        for round_ in range(options.rounds + 1):
            texts = {}
            for name, side in sides.items():
                seconds, texts[name] = side.run(prompts)
                if round_ > 0:
                    rates[name].append(tokens / seconds)
                print(f"round {round_}: {name} {tokens / seconds:.0f} tokens/s", file=sys.stderr)
        same = sum(a == b for a, b in zip(texts["transformers"], texts["coterie"]))
    ours, theirs = (statistics.median(rates[name]) for name in ("coterie", "transformers"))
    config = sides["transformers"].model.config
    report = {
        "model": str(options.model),
        "batch": options.batch,
        "prompt_tokens": options.prompt_tokens,
        "new_tokens": options.new_tokens,
        "ratio": round(ours / theirs, 2),
        "coterie_tokens_per_second": {"median": round(ours), "all": [round(x) for x in rates["coterie"]]},
        "transformers_tokens_per_second": {"median": round(theirs), "all": [round(x) for x in rates["transformers"]]},
        "requests_with_the_same_tokens": same,
        "versions": {
            "coterie": subprocess.run([options.program, "--version"], capture_output=True, text=True).stdout.strip(),
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "transformers_kernels": {
            "experts": getattr(config, "_experts_implementation", None), "attention": config._attn_implementation
        },
        "cpu": cpu(),
        "command": " ".join(sides["coterie"].command),
        "coterie_seconds_by_phase": sides["coterie"].metrics["seconds_by_phase"],
    }  # fmt: skip
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
