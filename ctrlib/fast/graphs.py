"""How a training step is carried out: members one after the other, in threads or on streams; the step at once or as
a CUDA graph. None of it touches the numbers of a member: each computes the same operations in the same order.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ctrlib.models.operations import PLAIN
from ctrlib.training.cohort import Group, Step, Trainee, drop_aliases, model_tensors

T = TypeVar("T")
R = TypeVar("R")
WARM_UP_STEPS = 3


class SideBySide:
    """Applies a function to every member of a group and returns the results in order.

    Args:
        threads: CPU threads that share the members; 1 takes them in turn. Each computes with one thread inside, so
            that the number of threads does not touch the numbers.
        device: on a GPU each member has a stream of its own instead.
    """

    def __init__(self, threads: int, device: torch.device) -> None:
        self._device = device
        self._streams: list[torch.cuda.Stream] = []
        self._pool = None
        if device.type == "cpu" and threads > 1:
            self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def __call__(self, function: Callable[[T], R], members: Iterable[T]) -> list[R]:
        members = list(members)
        if self._pool is not None and len(members) > 1:
            return list(self._pool.map(function, members))
        if self._device.type == "cuda" and len(members) > 1:
            return self._on_streams(function, members)
        return [function(member) for member in members]

    def _on_streams(self, function: Callable[[T], R], members: list[T]) -> list[R]:
        while len(self._streams) < len(members):
            self._streams.append(torch.cuda.Stream(self._device))
        here = torch.cuda.current_stream(self._device)
        results = []
        for member, stream in zip(members, self._streams, strict=False):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                results.append(function(member))
        for stream in self._streams[: len(members)]:
            here.wait_stream(stream)
        return results

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


@contextmanager
def side_by_side(threads: int, device: torch.device) -> Iterator[SideBySide]:
    """:class:`SideBySide` whose threads end with the block."""
    each = SideBySide(threads, device)
    try:
        yield each
    finally:
        each.close()


class Graph(Protocol):
    """What :class:`GraphStep` needs of ``torch.cuda.CUDAGraph``: record a function once, run the recording again."""

    def record(self, function: Callable[[], None]) -> None: ...

    def replay(self) -> None: ...


class CudaGraph:
    """``torch.cuda.CUDAGraph`` behind :class:`Graph`; dropout generators are registered before the recording."""

    def __init__(self, generators: list[torch.Generator]) -> None:
        self._graph = torch.cuda.CUDAGraph()
        for generator in generators:
            self._graph.register_generator_state(generator)

    def record(self, function: Callable[[], None]) -> None:
        with torch.cuda.graph(self._graph):
            function()

    def replay(self) -> None:
        self._graph.replay()


class GraphStep:
    """A :data:`Step` that records a step once and then replays it: thousands of launches become one.

    A graph reads and writes fixed memory, so each batch is copied into buffers of the recorded size. A batch of
    another size, the last one of an epoch, is trained by ``step`` itself.

    Args:
        step: the step to record.
        rows: of the batches to record, whichever batch comes first.
        state: gives every tensor that a step changes (weights, buffers, Adam's state); the warm-up steps that a
            recording needs are undone in them.
        generators: what a step draws from; seeded by the caller before each step.
        new_graph: makes an empty :class:`Graph`; the tests pass one that works on a CPU.
        warm_up: runs a function before the recording, aside from what else happens on the device.
    """

    def __init__(
        self,
        step: Step,
        rows: int,
        state: Callable[[], list[Tensor]],
        generators: list[torch.Generator],
        new_graph: Callable[[], Graph],
        warm_up: Callable[[Callable[[], None]], None],
    ) -> None:
        self._step, self._rows, self._state, self._generators = step, rows, state, generators
        self._new_graph, self._warm_up = new_graph, warm_up
        self._inputs: tuple[Tensor, Tensor, Tensor | None] | None = None
        self._recorded: dict[bool, tuple[Graph, Tensor]] = {}

    def __call__(self, ids: Tensor, labels: Tensor, coupled: bool, shuffle: Tensor | None) -> Tensor:
        if len(ids) != self._rows:
            return self._step(ids, labels, coupled, shuffle)
        if self._inputs is None:
            self._inputs = (ids.clone(), labels.clone(), None if shuffle is None else shuffle.clone())
        for buffer, value in zip(self._inputs, (ids, labels, shuffle), strict=True):
            if buffer is not None:
                buffer.copy_(value)
        if coupled not in self._recorded:
            self._recorded[coupled] = self._record(coupled)
        graph, losses = self._recorded[coupled]
        graph.replay()
        return losses

    def _record(self, coupled: bool) -> tuple[Graph, Tensor]:
        ids, labels, shuffle = self._inputs
        saved = [tensor.clone() for tensor in self._state()]
        losses = torch.zeros_like(self._step(ids, labels, coupled, shuffle))

        def run() -> None:
            losses.copy_(self._step(ids, labels, coupled, shuffle))

        self._warm_up(lambda: [run() for _ in range(WARM_UP_STEPS)])
        graph = self._new_graph()
        graph.record(run)
        for tensor, value in zip(self._state(), saved, strict=True):
            tensor.copy_(value)
        for drawn in self._generators:
            drawn.manual_seed(drawn.initial_seed())  # as it was before the warm-up
        return graph, losses


def choose_step(group: Group) -> Step:
    """As CUDA graphs on a GPU."""
    step: Step = PLAIN["choose_step"](group)
    if group.weights.device.type != "cuda":
        return step
    generators = [trainee.dropout_generator for trainee in group.trainees]
    return GraphStep(
        step,
        rows=group.recipe.batch_size,
        state=lambda: changing_tensors(group.trainees),
        generators=generators,
        new_graph=lambda: CudaGraph(generators),
        warm_up=warm_up_on_stream,
    )


def changing_tensors(trainees: list[Trainee]) -> list[Tensor]:
    """Every tensor that training changes: weights, buffers, Adam's moments and step counts."""
    adam = [t for one in trainees for state in one.optimizer.state.values() for t in state.values()]
    return drop_aliases([*model_tensors(trainees), *adam])


def warm_up_on_stream(function: Callable[[], None]) -> None:
    """Run ``function`` on a stream of its own, as CUDA graphs ask of the steps before a recording."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)
