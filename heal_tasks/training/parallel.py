"""Run a function in several processes of this machine as one torch.distributed group, as torchrun does."""

from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from threading import Thread
from uuid import uuid4

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from heal_tasks.core.errors import InputError, StepError
from heal_tasks.core.types import Progress

_Reports = SimpleQueue[tuple[int, int, str] | None]


def run_processes(function: Callable[[Progress], None], processes: int, progress: Progress) -> None:
    """Call a function in new processes; a failure in one ends them all.

    Args:
        function: can be pickled; runs with torchrun's environment and joins the group itself.
        processes: number of processes.
        progress: receives the reports of all of them.

    Raises:
        InputError: there are GPUs, but fewer than processes.
        StepError: a process failed; with its error.
    """
    gpus = torch.cuda.device_count()
    # Also for CPU training: Accelerate's barrier uses the GPU with the process's number if there are GPUs.
    if 0 < gpus < processes:
        raise InputError(
            f"processes is {processes}, and torch sees {gpus} GPUs; set HEAL_TRAIN_PROCESSES to {gpus} at most, or "
            "hide the GPUs (CUDA_VISIBLE_DEVICES=) to train on processors"
        )
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="spawn",
    )
    reports: _Reports = get_context("spawn").SimpleQueue()
    listener = Thread(target=_pass_on, args=(reports, progress), daemon=True)
    listener.start()
    try:
        elastic_launch(config, _run)(function, reports)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        # An exception is a record with the trace, a signal is plain text.
        message = failure.message["message"] if isinstance(failure.message, dict) else failure.message
        raise StepError(f"training process {rank} failed: {message}") from error
    finally:
        reports.put(None)
        listener.join()


def _run(function: Callable[[Progress], None], reports: _Reports) -> None:
    def tell(done: int, total: int, message: str = "") -> None:
        reports.put((done, total, message))

    function(tell)


def _pass_on(reports: _Reports, progress: Progress) -> None:
    while (report := reports.get()) is not None:
        progress(*report)
