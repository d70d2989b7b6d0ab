"""Small models of any family as Hugging Face transformers makes and computes them, and `coterie generate` beside it.

  make FAMILY FOLDER [KEY=JSON ...]   a model with random weights and these fields in its config
  write FOLDER                        FOLDER/reference.safetensors: what transformers computes (tests/fixtures/models/README.md)
  compare FOLDER [--ranks N ...]      runs coterie on the model and compares logits, experts, gates and greedy text
  sweep                               makes, writes and compares models of all families in many shapes
"""

import argparse
import itertools
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file

PROMPTS = (1, 7, 45)
NEW_TOKENS = 24
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256, "num_experts_per_tok": 2, "num_experts": 8,
    "num_local_experts": 8, "n_routed_experts": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None,
}  # fmt: skip
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12, "head_dim": 8, "num_key_value_heads": 4}
FAMILIES = {
    "mixtral": {},
    "olmoe": {},
    "qwen2_moe": {"shared_expert_intermediate_size": 40},
    "qwen3_moe": {"head_dim": 16},
    "granitemoe": {"embedding_multiplier": 6.0, "residual_multiplier": 0.4, "logits_scaling": 3.0, "attention_multiplier": 0.07},
    "granitemoeshared": {"shared_intermediate_size": 20, "embedding_multiplier": 3.0, "attention_multiplier": 0.2},
    "phimoe": {},
    "glm4_moe": {"head_dim": 16},
    "glm4_moe_lite": LATENT | {"n_shared_experts": 1},
    "dots1": {"n_shared_experts": 1, "first_k_dense_replace": 1, "sliding_window": None},
    "solar_open": {"head_dim": 16},
    "ernie4_5_moe": {"moe_num_experts": 8, "moe_k": 3},
    "minimax_m2": {"head_dim": 16},
    "deepseek_v2": LATENT | {"n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
    "deepseek_v3": LATENT | {"n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1},
    "gpt_oss": {"head_dim": 8, "sliding_window": 8},
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
VARIANTS = {
    "mixtral": [{"sliding_window": 5}, {"tie_word_embeddings": True, "num_key_value_heads": 1}],
    "olmoe": [{"clip_qkv": 0.7, "norm_topk_prob": True}, {"attention_bias": True, "num_experts_per_tok": 1}],
    "qwen2_moe": [
        {"decoder_sparse_step": 2, "norm_topk_prob": True, "tie_word_embeddings": True},
        {"mlp_only_layers": [0, 3], "qkv_bias": False, "num_key_value_heads": 4},
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 3},
    ],
    "qwen3_moe": [
        {"mlp_only_layers": [3], "attention_bias": True, "tie_word_embeddings": True},
        {"decoder_sparse_step": 3, "num_hidden_layers": 7, "norm_topk_prob": True, "head_dim": 6, "num_attention_heads": 6},
        {"use_sliding_window": True, "sliding_window": 9, "rope_parameters": YARN},
    ],
    "granitemoe": [{"tie_word_embeddings": True, "num_experts_per_tok": 5}, {"attention_bias": True}],
    "granitemoeshared": [{"shared_intermediate_size": 0}, {"tie_word_embeddings": True, "attention_bias": True}],
    "phimoe": [
        {"attention_bias": True, "lm_head_bias": True, "router_jitter_noise": 0.3},
        {"sliding_window": 7, "num_local_experts": 5},
        {"router_jitter_noise": 0.05, "tie_word_embeddings": True},
        {"rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.1, 1.2, 1.5, 2.0],
            "long_factor": [2.0, 3.0, 4.0, 5.0], "short_mscale": 1.1, "long_mscale": 1.3, "original_max_position_embeddings": 128}},
    ],
    "glm4_moe": [
        {"use_qk_norm": True, "attention_bias": True, "n_group": 2, "topk_group": 1, "routed_scaling_factor": 2.5},
        {"first_k_dense_replace": 3, "norm_topk_prob": False, "n_shared_experts": 2, "n_group": 4, "topk_group": 2},
        {"first_k_dense_replace": 0, "tie_word_embeddings": True, "num_attention_heads": 3, "num_key_value_heads": 1},
    ],
    "glm4_moe_lite": [{"mlp_layer_types": ["sparse", "dense", "sparse", "dense"], "q_lora_rank": None, "n_group": 2}],
    "dots1": [{"first_k_dense_replace": 2, "n_group": 4, "topk_group": 2, "norm_topk_prob": True, "attention_bias": True},
              {"sliding_window": 6, "max_window_layers": 2}],
    "solar_open": [{"attention_bias": True, "n_group": 2, "topk_group": 1}],
    "ernie4_5_moe": [
        {"use_bias": True, "moe_layer_start_index": 2, "tie_word_embeddings": False},
        {"moe_layer_end_index": 2, "moe_num_shared_experts": 0, "moe_k": 1},
        {"moe_layer_interval": 2, "moe_layer_start_index": 0, "num_key_value_heads": 1},
    ],
    "minimax_m2": [{"rotary_dim": 8}, {"tie_word_embeddings": True, "num_experts_per_tok": 5}],
    "deepseek_v2": [{"q_lora_rank": None, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}],
    "deepseek_v3": [{"q_lora_rank": None, "routed_scaling_factor": 2.5, "norm_topk_prob": False}],
    "gpt_oss": [{"sliding_window": 3, "num_experts_per_tok": 4}],
}  # fmt: skip


def make(family, folder, fields, dtype=torch.float32, shard="1GB", seed=0):
    torch.manual_seed(seed)
    defaults = transformers.AutoConfig.for_model(family)
    fields = FAMILIES[family] | fields
    sizes = {k: v for k, v in SIZES.items() if k in vars(defaults) and k not in defaults.attribute_map}
    config = transformers.AutoConfig.for_model(family, **(sizes | fields))
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
            if "inv_freq" in name:
                continue
            if "norm" in name and name.endswith("weight"):
                tensor.normal_(1, 0.1)
            elif tensor.dim() < 2 or "bias" in name:
                tensor.normal_(0, 0.1)
            else:
                tensor.normal_(0, 1 if "embed" in name else tensor.shape[-1] ** -0.5)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)


def load(folder):
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


class Routing:
    """Watches the routers of a model: what they return as weights and indices, layer by layer."""

    def __init__(self, model, nowhere=None):
        self.calls = []
        self.nowhere = nowhere  # (layers): the number that stands for no expert
        for module in model.modules():
            if type(module).__name__.lower().endswith(("router", "gate")):
                module.register_forward_hook(lambda m, i, out: self.calls.append((out[1].float(), out[2])))

    def take(self):
        weights, experts = (torch.stack(parts, 1) for parts in zip(*self.padded()))
        self.calls.clear()
        for by, falls in ((1, False), (0, True)):  # by falling weight, equals by their number
            order = torch.sort((weights, experts)[by], dim=-1, descending=falls, stable=True).indices
            experts, weights = experts.gather(-1, order), weights.gather(-1, order)
        return experts.int(), weights

    def padded(self):
        most = max(experts.shape[-1] for _, experts in self.calls)
        for layer, (weights, experts) in enumerate(self.calls):
            if self.nowhere:
                experts = experts.masked_fill(experts == self.nowhere[layer], -1)
            pad = (0, most - experts.shape[-1])
            yield torch.nn.functional.pad(weights, pad), torch.nn.functional.pad(experts, pad, value=-1)


@torch.inference_mode()
def write(folder, seed=0, model=None, nowhere=None):
    torch.set_num_threads(1)
    rng = random.Random(seed)
    model = model or load(folder)
    routing = Routing(model, nowhere)
    vocabulary = model.config.vocab_size
    out = {}
    for i, length in enumerate(PROMPTS):
        prompt = torch.tensor([[rng.randrange(vocabulary) for _ in range(length)]])
        logits = model(prompt, use_cache=False).logits[0]
        experts, gates = routing.take()
        out |= {f"prompt_{i}": prompt[0], f"logits_{i}": logits, f"experts_{i}": experts, f"gates_{i}": gates}
        tokens, margins, step, cache = [], [], prompt, None
        for _ in range(NEW_TOKENS):
            done = model(step, past_key_values=cache, use_cache=True)
            cache = done.past_key_values
            best = done.logits[0, -1].topk(2)
            tokens.append(best.indices[0])
            margins.append(best.values[0] - best.values[1])
            step = best.indices[:1][None]
        routing.calls.clear()
        out |= {f"greedy_{i}": torch.stack(tokens), f"margin_{i}": torch.stack(margins)}
    save_file({name: tensor.contiguous() for name, tensor in out.items()}, folder / "reference.safetensors")


def run(program, folder, expected, ranks, options, scratch):
    for name in ("results.jsonl", "trace.safetensors", "logits.safetensors"):
        (scratch / name).unlink(missing_ok=True)
    with open(scratch / "requests.jsonl", "w") as file:
        for i in range(len(PROMPTS)):
            body = {
                "model": "any", "prompt": expected[f"prompt_{i}"].tolist(), "max_tokens": NEW_TOKENS, "temperature": 0,
                "ignore_eos": True, "return_token_ids": True,
            }  # fmt: skip
            print(json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body}), file=file)
    command = [
        "mpirun", "-n", str(ranks), program, "generate", "--model", folder, "--input", scratch / "requests.jsonl", "--output",
        scratch / "results.jsonl", "--trace-out", scratch / "trace.safetensors", "--logits-out", scratch / "logits.safetensors",
        "--ranks-per-node", str(min(2, ranks)), *options,
    ]  # fmt: skip
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    lines = [json.loads(line) for line in open(scratch / "results.jsonl")]
    tokens = {line["custom_id"]: line["response"]["body"]["choices"][0]["token_ids"] for line in lines}
    return tokens, load_file(scratch / "logits.safetensors"), load_file(scratch / "trace.safetensors")


def compare(folder, program, ranks, options=()):
    """A line about what is not equal, or nothing; and the largest difference of a logit."""
    expected = load_file(folder / "reference.safetensors")
    wrong, worst = [], 0.0
    with tempfile.TemporaryDirectory() as scratch:
        tokens, logits, trace = run(program, folder, expected, ranks, options, pathlib.Path(scratch))
    for i, length in enumerate(PROMPTS):
        off = (logits[str(i)] - expected[f"logits_{i}"]).abs().max().item()
        worst = max(worst, off)
        if not off < 2e-4:
            wrong.append(f"logits of prompt {i} off by {off:.2e}")
        if tokens[str(i)] != expected[f"greedy_{i}"].tolist():
            wrong.append(f"greedy text of prompt {i}")
        rows = (trace["sequence"] == i + 1).nonzero()[:length, 0]
        experts = trace["experts"][rows].int()
        experts[experts == (255 if trace["experts"].dtype == torch.uint8 else 65535)] = -1
        if not torch.equal(experts, expected[f"experts_{i}"]):
            wrong.append(f"experts of prompt {i}")
        gates = expected[f"gates_{i}"]
        gates = ((trace["weights"][rows].float() - gates).abs() / gates.abs().clamp(min=1)).max().item()
        if not gates < 2e-3:
            wrong.append(f"gates of prompt {i} off by {gates:.2e}")
    return "; ".join(wrong), worst


FORMS = ([], ["--coherence", "world"], ["--coherence", "world", "--dense", "replicate"], ["--coherence", "node", "--micro-batches", "2"])


def sweep(program, families, ranks, keep):
    failed = 0
    for family in families:
        for number, fields in enumerate([{}, *VARIANTS.get(family, [])]):
            folder = pathlib.Path(keep) / f"{family}-{number}"
            dtype = (torch.float32, torch.bfloat16, torch.float16)[number % 3]
            make(family, folder, fields, dtype, "100KB" if number == 1 else "1GB", number)
            write(folder)
            for r, form in itertools.product(ranks, FORMS):
                if r == 1 and form:
                    continue
                try:
                    wrong, worst = compare(folder, program, r, form)
                except RuntimeError as e:
                    wrong, worst = str(e), float("nan")
                failed += bool(wrong)
                if wrong or not form:
                    print(f"{family} {json.dumps(fields)} on {r} {' '.join(form)}: {wrong or 'equal'} ({worst:.1e})", flush=True)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["make", "write", "compare", "sweep"])
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--program", default="build/release/coterie")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", help="folder for the models of a sweep; without: a temporary one")
    o = parser.parse_args()
    if o.command == "make":
        fields = {key: json.loads(value) for key, value in (field.split("=", 1) for field in o.arguments[2:])}
        make(o.arguments[0], pathlib.Path(o.arguments[1]), fields, seed=o.seed)
    elif o.command == "write":
        write(pathlib.Path(o.arguments[0]), o.seed)
    elif o.command == "compare":
        for ranks in o.ranks:
            wrong, worst = compare(pathlib.Path(o.arguments[0]), o.program, ranks)
            print(f"{ranks} ranks: {wrong or 'equal'}, logits off by {worst:.1e} at most")
            if wrong:
                sys.exit(1)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            sys.exit(sweep(o.program, o.arguments or FAMILIES, o.ranks, o.keep or scratch) > 0)


if __name__ == "__main__":
    main()
