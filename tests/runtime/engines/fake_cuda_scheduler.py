"""When work of the fake GPU is done: as late, and in as odd an order, as CUDA's rules allow."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from fake_cuda_memory import CudaBug, overlaps


@dataclass(eq=False)
class Operation:
    """One piece of work; `before` are the pieces that must be done when it starts."""

    label: str
    run: object
    reads: tuple = ()
    """Ranges (address, bytes), or any other hashable thing that must not be changed meanwhile."""
    writes: tuple = ()
    before: list[Operation] = field(default_factory=list)
    number: int = 0
    done: bool = False
    at: float = 0.0
    """Milliseconds on the fake's clock, when it was done."""

    def ancestors(self):
        """Itself and all that must be done before it, as far as that is still to be done or unknown to the host."""
        found, todo = {self}, [self]
        while todo:
            for earlier in todo.pop().before:
                if earlier not in found:
                    found.add(earlier)
                    todo.append(earlier)
        return found

    def conflicts(self, other):
        """What both touch and at least one changes, or None."""
        pairs = [(mine, theirs) for mine in self.writes for theirs in (*other.reads, *other.writes)]
        pairs += [(mine, theirs) for mine in self.reads for theirs in other.writes]
        return next((mine for mine, theirs in pairs if overlaps(mine, theirs)), None)


@dataclass(eq=False)
class Event:
    timing: bool
    record: Operation | None = None
    capture: Capture | None = None
    alive: bool = True


@dataclass(eq=False)
class Capture:
    """Work of one or several streams that is recorded instead of executed."""

    origin: Stream
    thread: int
    operations: list[Operation] = field(default_factory=list)
    last: dict = field(default_factory=dict)
    """The newest operation of each stream that takes part."""
    failure: str = ""


@dataclass(eq=False)
class Stream:
    handle: int
    last: Operation | None = None
    capture: Capture | None = None


@dataclass(eq=False)
class Graph:
    operations: list[Operation]
    launched: Operation | None = None
    """CUDA lets a graph run after its launch before, on whatever stream that was."""
    alive: bool = True


class Scheduler:
    """Holds what was submitted and executes it when somebody waits for it, or earlier, by chance."""

    def __init__(self, seed, eagerness, detect_races):
        self.random = random.Random(seed)
        self.pending: list[Operation] = []
        self._eagerness = eagerness
        self._detect_races = detect_races
        self._unsettled: list[Operation] = []
        """Operations of which the host does not know that they are done."""
        self._submitted = 0
        self._clock = 0.0

    def submit(self, operation):
        """Take work whose predecessors are in `operation.before`."""
        self._find_race(operation)
        self._submitted += 1
        operation.number = self._submitted
        self.pending.append(operation)
        self._unsettled.append(operation)
        while self.random.random() < self._eagerness and self.pending:
            self._execute(self.random.choice(self._ready(self.pending)))

    def finish(self, operation):
        """Execute what `operation` needs and itself, and meanwhile perhaps more."""
        if operation is None:
            return
        needed = operation.ancestors()
        while not operation.done:
            others = self.random.random() < self._eagerness
            self._execute(self.random.choice(self._ready(self.pending if others else needed)))
        for step in needed:
            step.before.clear()  # settled: of no interest any more to whoever looks for ancestors
        self._unsettled = [step for step in self._unsettled if step not in needed]

    def require_idle(self, thing, what):
        """Raise if work that is not done uses `thing`."""
        for step in self.pending:
            if any(overlaps(thing, other) for other in (*step.reads, *step.writes)):
                raise CudaBug(f"{what} while '{step.label}' in flight uses it")

    def _find_race(self, operation):
        ordered = operation.ancestors()
        for other in self._unsettled if self._detect_races else ():
            thing = other not in ordered and operation.conflicts(other)
            if thing:
                raise CudaBug(f"race: nothing orders '{operation.label}' after '{other.label}', both use {thing}")

    @staticmethod
    def _ready(operations):
        """Those whose predecessors are done; sorted, since the order of a set would make a seed useless."""
        ready = [step for step in operations if not step.done and all(earlier.done for earlier in step.before)]
        return sorted(ready, key=lambda step: step.number)

    def _execute(self, operation):
        self._clock += self.random.uniform(0.01, 1)
        operation.run()
        operation.done = True
        operation.at = self._clock
        self.pending.remove(operation)
