"""A device that works late: copies of tensors wait in streams, and are done in any order that CUDA would allow.

It stands for torch's streams, events and executor, so that a buffer which is written too early gives wrong numbers on
a processor as it would on a GPU; a generator decides after each call how far each stream gets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class LateDevice(TorchFunctionMode):
    """A context, in which `copy_` waits in the current stream; `run` brings all to an end."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.chance, self.streams, self.current = np.random.default_rng(seed), list[LateStream](), LateStream()
        self.streams.append(self.current)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.copy_:
            return func(*args, **(kwargs or {}))
        into, source = args[0].numpy(), args[1].numpy()
        self.current.do(lambda: np.copyto(into, source))
        self.go_on(int(self.chance.integers(4)))
        return args[0]

    def go_on(self, tasks: int) -> None:
        for _ in range(tasks):
            self.streams[self.chance.integers(len(self.streams))].go_on()

    def run(self) -> None:
        while any(stream.tasks for stream in self.streams):
            self.go_on(1)

    # What torch.cuda has:

    def Stream(self, device: torch.device) -> LateStream:
        self.streams.append(LateStream())
        return self.streams[-1]

    def Event(self) -> LateEvent:
        return LateEvent(self)

    def current_stream(self, device: torch.device) -> LateStream:
        return self.current

    @contextmanager
    def stream(self, stream: LateStream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    # What concurrent.futures has:

    def ThreadPoolExecutor(self, *_: Any) -> LateDevice:
        return self

    def submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        """Called at once or when somebody asks for the result."""
        if self.chance.integers(2):
            return _Awaited(lambda: call(*args))
        found = call(*args)
        return _Awaited(lambda: found)


class LateStream:
    def __init__(self) -> None:
        self.tasks: deque[tuple[list[bool], Callable[[], None]]] = deque()
        """Each with what must be reached before."""

    def do(self, call: Callable[[], None]) -> None:
        self.tasks.append(([True], call))

    def wait_event(self, event: LateEvent) -> None:
        self.tasks.append((event.reached, lambda: None))

    def go_on(self) -> None:
        if self.tasks and self.tasks[0][0][0]:
            self.tasks.popleft()[1]()


class LateEvent:
    def __init__(self, device: LateDevice) -> None:
        self.device, self.reached = device, [True]

    def record(self, stream: LateStream) -> None:
        reached = self.reached = [False]
        stream.do(lambda: reached.__setitem__(0, True))

    def synchronize(self) -> None:
        while not self.reached[0]:
            self.device.go_on(1)


class _Awaited(Future[Any]):
    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__()
        self.call = call

    def result(self, timeout: float | None = None) -> Any:
        return self.call()
