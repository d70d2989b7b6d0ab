"""Makes the fixture mixtral-variants: every variant of routing that a config can name (runtime/families/routing_variants.hpp), in one small model.

transformers knows none of them: here its Mixtral is taken apart and put together so that it computes them, and writes the reference.
usage: make_variants.py FOLDER
"""

import json
import pathlib
import sys
import types

import hf_reference
import torch
from safetensors.torch import load_file, save_file

EXPERTS, TOP_K, EXPERT_LAYERS, TOP_P, NULLS = [8, 8, 6, 5], [3, 3, 2, 1], [0, 0, 2, 3], 0.55, 1


def route(router, hidden, top_k):
    probabilities = torch.softmax(hidden.reshape(-1, hidden.shape[-1]) @ router.weight.T, -1)
    weights, experts = probabilities.topk(top_k, -1)
    before = weights.cumsum(-1) - weights
    none = (before >= TOP_P) | (experts >= router.num_experts)
    weights = weights.masked_fill(none, 0)
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)
    return probabilities, weights, experts.masked_fill(none, router.num_experts)  # which Mixtral's experts pass over


def prune(stored):
    for layer, experts in enumerate(EXPERTS):
        block = f"model.layers.{layer}.block_sparse_moe."
        stored[block + "gate.weight"] = stored[block + "gate.weight"][: experts + NULLS].clone()
        for name in [name for name in stored if name.startswith(block + "experts.")]:
            if int(name.split(".")[5]) >= experts or EXPERT_LAYERS[layer] != layer:
                del stored[name]
    return {name: tensor.to(torch.bfloat16) for name, tensor in stored.items()}


def rebuild(model, stored):
    for name, parameter in model.named_parameters():
        if name in stored:
            parameter.data = stored[name].float()
    for layer, block in enumerate(model.model.layers):
        moe, count = block.mlp, EXPERTS[layer]

        def stack(*names, prefix=f"model.layers.{EXPERT_LAYERS[layer]}.block_sparse_moe.experts."):
            return torch.stack(
                [torch.cat([stored[f"{prefix}{e}.{n}.weight"].float() for n in names]) for e in range(count)]
            )

        moe.experts.num_experts = moe.gate.num_experts = count
        moe.experts.gate_up_proj.data, moe.experts.down_proj.data = stack("w1", "w3"), stack("w2")
        moe.gate.weight.data = stored[f"model.layers.{layer}.block_sparse_moe.gate.weight"].float()
        moe.gate.forward = types.MethodType(lambda router, x, k=TOP_K[layer]: route(router, x, k), moe.gate)


def main():
    folder = pathlib.Path(sys.argv[1])
    hf_reference.make("mixtral", folder, {"num_local_experts": max(EXPERTS) + NULLS, "num_experts_per_tok": max(TOP_K)})
    stored = prune(load_file(folder / "model.safetensors"))
    model = hf_reference.load(folder)
    rebuild(model, stored)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "num_local_experts": EXPERTS, "num_experts_per_tok": TOP_K, "expert_layers": EXPERT_LAYERS, "router_top_p": TOP_P,
        "num_null_experts": NULLS, "dtype": "bfloat16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    hf_reference.write(folder, model=model, nowhere=EXPERTS)


if __name__ == "__main__":
    main()
