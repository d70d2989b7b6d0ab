#!/usr/bin/env python3
"""Times torch._grouped_mm beside this project's experts on one GPU, in bf16, the two taking turns.

Both products of each expert, without what is between them for torch and with it for us; each call by itself and with
cold caches, from the call to its end as the host sees it. Ours run in expert_timer, a process of its own. The ratio is
torch's median over the best of ours. Exit code 77: there is no torch with _grouped_mm, or no GPU.
"""

import argparse
import statistics
import subprocess
import sys
import time

MODELS = {"mixtral": (4096, 14336), "gpt-oss": (2880, 2880), "deepseek-v3": (7168, 2048), "qwen3-30b": (2048, 768)}
MOST_ROWS = 1 << 17  # of a call


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("timer", help="the program expert_timer")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    parser.add_argument("--experts", nargs="+", type=int, default=[8, 32, 128, 256], metavar="N")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 16, 128, 512, 4096], metavar="N",
                        help="of each expert on average")
    parser.add_argument("--largest", type=float, default=12, metavar="GIB",
                        help="of experts' weights; up to three times as much is needed")
    parser.add_argument("--turns", type=int, default=11, metavar="N")
    parser.add_argument("--cpu", action="store_true", help="torch's on the CPU: to try this program, not to compare")
    return parser.parse_args()


def find_torch(cpu):
    try:
        import torch
    except ImportError as e:
        return None, f"no torch ({e})"
    if not hasattr(torch, "_grouped_mm"):
        return None, f"torch {torch.__version__} has no _grouped_mm"
    if not cpu and not torch.cuda.is_available():
        return None, f"torch {torch.__version__} finds no GPU"
    return torch, ""


def rows_of_experts(count, mean, skewed):
    """Skewed: half of all rows go to the first expert."""
    if not skewed:
        return [mean] * count
    rest = count * mean - count * mean // 2
    return [count * mean // 2] + [rest * e // (count - 1) - rest * (e - 1) // (count - 1) for e in range(1, count)]


class Torch:
    def __init__(self, torch, device):
        self.torch, self.device = torch, device
        self.other = self.empty(1 if device == "cpu" else 256 << 20)

    def empty(self, *shape):
        return self.torch.empty(shape, dtype=self.torch.bfloat16, device=self.device)

    def wait(self):
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def prepare(self, hidden, intermediate, rows):
        total = sum(rows)
        self.up = self.empty(len(rows), 2 * intermediate, hidden).uniform_(-1 / 64, 1 / 64).transpose(-2, -1)
        self.down = self.empty(len(rows), hidden, intermediate).uniform_(-1 / 64, 1 / 64).transpose(-2, -1)
        self.x = self.empty(total, hidden).uniform_(-1, 1)
        self.middle = self.empty(total, intermediate).uniform_(-1, 1)
        ends = self.torch.tensor(rows, dtype=self.torch.int32).cumsum(0, dtype=self.torch.int32)
        self.ends = ends.to(self.device)

    def seconds(self):
        self.other.zero_()
        self.wait()
        start = time.perf_counter()
        self.torch._grouped_mm(self.x, self.up, offs=self.ends)
        self.torch._grouped_mm(self.middle, self.down, offs=self.ends)
        self.wait()
        return time.perf_counter() - start


class Ours:
    def __init__(self, timer):
        self.process = subprocess.Popen([timer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"grouped_mm.py: expert_timer ended with code {self.process.wait()}")
        return answer

    def prepare(self, hidden, intermediate, rows):
        return self.ask(f"shape {hidden} {intermediate} {' '.join(map(str, rows))}").split()

    def seconds(self, kernel):
        return float(self.ask(f"time {kernel}"))


def compare(theirs, ours, shape, turns):
    """Median seconds by name."""
    theirs.prepare(*shape)
    kernels = ours.prepare(*shape)
    times = {name: [] for name in ["torch", *kernels]}
    for turn in range(-2, turns):  # the first two aren't counted
        for name in times:
            seconds = theirs.seconds() if name == "torch" else ours.seconds(name)
            if turn >= 0:
                times[name].append(seconds)
    return {name: statistics.median(of) for name, of in times.items()}


def main():
    given = arguments()
    torch, why = find_torch(given.cpu)
    if torch is None:
        print(f"grouped_mm.py: {why}")
        return 77
    theirs, ours = Torch(torch, "cpu" if given.cpu else "cuda"), Ours(given.timer)
    print(f"torch {torch.__version__}; us of each, and how many times as fast as torch the best of ours is")
    print(f"{'shapes of':12} {'E':>4} {'rows':>6} {'load':8} {'torch':>9} {'mma':>9} {'wgmma':>9} {'times':>6}")
    for name in given.models:
        hidden, intermediate = MODELS[name]
        for count in given.experts:
            if 6 * hidden * intermediate * count > given.largest * 2**30:
                continue
            for mean in given.rows:
                if mean * count > MOST_ROWS:
                    continue
                for load in ["uniform", "skewed"] if count > 1 else ["uniform"]:
                    rows = rows_of_experts(count, mean, load == "skewed")
                    times = compare(theirs, ours, (hidden, intermediate, rows), given.turns)
                    best = min(seconds for kernel, seconds in times.items() if kernel != "torch")
                    shown = [f"{1e6 * times.get(kernel, float('nan')):9.1f}" for kernel in ("torch", "mma", "wgmma")]
                    print(f"{name:12} {count:4} {mean:6} {load:8} {' '.join(shown)} {times['torch'] / best:6.2f}",
                          flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
