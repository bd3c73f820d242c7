"""How long a start takes beside a bare `import torch`: python docs/benchmarks/startup.py [ROUNDS]

The commands take turns, so that what else the machine does meets all of them; time on the CPU hardly depends on it.
"""

import resource
import statistics
import subprocess
import sys
import time

COMMANDS = {
    'python -c "import torch"': ["-c", "import torch"],
    "python -m fluxflow_exp --help": ["-m", "fluxflow_exp", "--help"],
    "python -m fluxflow_exp validate=true": ["-m", "fluxflow_exp", "validate=true"],
    "python -m fluxflow_exp validate=true stage=full model=compact": [
        *("-m", "fluxflow_exp", "validate=true", "stage=full", "model=compact"),
    ],
}


def measure(arguments: list[str]) -> tuple[float, float]:
    """Seconds on the clock and on the CPU."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, used


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            taken[name].append(measure(arguments))
    (bare, *_) = taken.values()
    print("| command | s, median (range) | beyond the import | CPU s, median (range) | beyond the import |")
    print("|---|---|---|---|---|")
    for name, found in taken.items():
        cells = []
        for kind in (0, 1):
            values = [each[kind] for each in found]
            more = statistics.median(a[kind] - b[kind] for a, b in zip(found, bare, strict=True))
            cells.append(f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}) | {more:+.2f}")
        print(f"| `{name}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
