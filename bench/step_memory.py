"""What a training step on a processor costs where freed memory stays in the process, and where it goes back.

Run from the project's root: ``python -m bench.step_memory``. all-MiniLM-L6-v2, random tokens, the own-document term,
one thread. Either way runs in a process of its own, the first step uncounted; both must come to the same loss.
"""

import argparse
import time
from contextlib import nullcontext
from statistics import median

from bench.common import MIN_RUNS, measure, parent_parser, table, versions, write_json
from bench.heal_step import objective, step
from heal_tasks.core.errors import HealError
from heal_tasks.core.models import resolve_model
from heal_tasks.core.setting_groups import PACKAGED_MODEL
from heal_tasks.training.encoder import load_encoder
from heal_tasks.training.memory import freed_memory_kept


def steps(kept: bool, pairs: int, runs: int) -> tuple[float, list[float]]:
    """Loss of a step, and the CPU seconds of each."""
    model = load_encoder(resolve_model(PACKAGED_MODEL), device="cpu")
    form = objective(model, pairs, 0.0)
    costs = []
    with freed_memory_kept("cpu") if kept else nullcontext():
        for _ in range(runs + 1):
            start = time.process_time()
            loss = step(model, form, pairs)
            costs.append(time.process_time() - start)
    return loss, costs[1:]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--pairs", type=int, nargs="+", default=[16, 64, 256], help="batch sizes (default 16 64 256)")
    parser.add_argument("--runs", type=int, default=MIN_RUNS, help="steps (default 5)")
    options = parser.parse_args()
    rows = []
    for pairs in options.pairs:
        done = {kept: measure(steps, kept, pairs, options.runs) for kept in (False, True)}
        if abs(done[True].result[0] - done[False].result[0]) > 1e-5:
            raise HealError(f"the losses differ: {done[True].result[0]} and {done[False].result[0]}")
        for kept, form in done.items():
            rows.append(
                {"freed memory": "kept" if kept else "given back", "pairs": pairs,
                 "CPU s per step": median(form.result[1]), "peak MiB": form.peak_mib}
            )  # fmt: skip
            print(table(rows[-1:]), flush=True)
    print(table(rows))
    print(versions())
    write_json(options.json, {"step_memory": rows})


if __name__ == "__main__":
    main()
