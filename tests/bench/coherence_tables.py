"""The tables of scripts/bench-coherence, from the results in a folder, as Markdown on stdout."""
import json
import os
import pathlib
import sys

folder = pathlib.Path(sys.argv[1])
with open("/proc/cpuinfo", encoding="utf-8") as info:
    processor = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), "unknown")
print("# Context coherence beside plain expert parallelism\n")
print(f"Made by `scripts/bench-coherence` on {os.cpu_count()} cores ({processor}, Linux {os.uname().release}) that all hosts share.")
print("Medians over rounds in which all rows of a table take turns; in brackets the least and the most. tokens/s: in decode steps alone;")
print("start-up, loading and prefill are not in it; whole job: prefill is. ratio: of tokens/s to the first row of the same round. in exchanges:")
print("share of a job's time. exchanges: for each MoE layer in decode; of all: those in which hosts wait for one another. K and V: KiB of them that")
print("each step sends, and MiB that each rank holds at most.")
for path in sorted(folder.glob("coherence-*.json")):
    result = json.loads(path.read_text(encoding="utf-8"))
    print(f"\n## {result['title']}\n\n{result['date']}, rounds: {result['rounds']}, tokens a sequence: {result['tokens']}\n")
    print("| options | tokens/s | ratio | whole job | in exchanges | exchanges | of all | KiB/step | rows | K and V | MiB held | same text |")
    print("|" + " --- |" * 12)
    for s in result["summary"]:
        options = " ".join(pathlib.Path(o).name if o.endswith(".json") else o for o in s["options"].split())
        print(f"| `{options}` | {s['decode_tokens_per_second']:.0f} ({s['from']:.0f}..{s['to']:.0f}) "
              f"| {s['ratio']:.2f} ({s['ratio_from']:.2f}..{s['ratio_to']:.2f}) | {s['job_tokens_per_second']:.0f} "
              f"| {s['exchange_share']:.0%} | {s['exchanges_per_layer']:.2f} | {s['exchanges_of_all_per_layer']:.2f} | {s['bytes_per_step'] / 1024:.0f} | {s['row_bytes_per_step'] / 1024:.0f} "
              f"| {s['freight_bytes_per_step'] / 1024:.0f} | {s['kv_bytes_per_rank'] / 2**20:.1f} | {s['same_texts']} of {result['batch']} |")
