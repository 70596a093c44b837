"""Runs that are trained in no time, what a store holds; shared by the tests of stores."""

import json
from pathlib import Path

from small import make_run, member

from ctrlib.config import Run, digest
from ctrlib.store.code import all_parts
from ctrlib.store.record import Record
from ctrlib.store.runs import RunStore

all_parts()  # the digests of the code are kept, also for the processes that are forked


def quick(seed: int = 1, **settings) -> Run:
    """A run of one epoch."""
    return make_run([member(seed)], **{"epochs": 1, "batch_size": 165, **settings})


def here(store: RunStore, wanted: list[Run]) -> list[Record]:
    """``ensure`` without worker processes."""
    return store.ensure(wanted, device="cpu", workers=1)


def rewrite(path: Path, **changes) -> None:
    """Change a JSON file as a program would, checksum included."""
    content = {**json.loads(path.read_bytes()), **changes}
    del content["checksum"]
    path.write_text(json.dumps({**content, "checksum": digest(content)}))
