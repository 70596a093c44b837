"""The child process of one measurement: pins itself, runs one job, writes its answer. Started by process.py."""

import contextlib
import json
import os
import sys
import traceback
from pathlib import Path


def main() -> None:
    """Run the order given as JSON in the first argument."""
    order = json.loads(sys.argv[1])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, order["cores"])
    try:
        with open(os.devnull, "w") as silence, contextlib.redirect_stdout(silence):
            answer = work(order)
    except BaseException as error:
        traceback.print_exc()
        text = " ".join(str(error).split())[:300]
        answer = {"error": f"{type(error).__name__}: {text}"}
    Path(order["answer"]).write_text(json.dumps(answer))


def work(order: dict) -> dict:
    """The job's own answer and the peak memory."""
    from benchmarks import jobs

    answer = getattr(jobs, order["job"])(cores=len(order["cores"]), **order["arguments"])
    from benchmarks.clock import peak_mb

    return {"peak_mb": round(peak_mb(), 1), **answer}


if __name__ == "__main__":
    main()
