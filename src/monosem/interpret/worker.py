"""Several calls on their way at once, their results as they come, and an end that loses none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import NamedTuple, TypeVar

from monosem.progress import remark

T = TypeVar("T")
_TICK = 0.2


class _Ended(NamedTuple):
    """What a call gave, or raised; `last` where a worker ends."""

    result: object = None
    error: BaseException | None = None
    last: bool = False


def as_completed(call: Callable[[int, Event], T | None], count: int, workers: int) -> Iterator[T]:
    """The results of `call(index, stop)` for every index below `count` as they come; None is no result.

    After the first error, or Ctrl-C, no further call begins and `stop` is set; the results of those that are on their
    way still come, then the error is raised. A second Ctrl-C leaves them behind.
    """
    todo: SimpleQueue[int] = SimpleQueue()
    for index in range(count):
        todo.put(index)
    ended: SimpleQueue[_Ended] = SimpleQueue()
    stop, failure = Event(), None
    # Daemons: one that waits for an endpoint does not keep a process that was told twice to end.
    threads = [Thread(target=_work, args=(call, todo, ended, stop), daemon=True) for _ in range(min(workers, count))]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            # Ctrl-C comes here while this waits, and, thrown into this generator, from whoever takes the results.
            try:
                one = ended.get(timeout=_TICK)
                running -= one.last
                failure = failure or one.error
                if one.result is not None:
                    yield one.result  # type: ignore[misc]
            except Empty:
                running = running if any(thread.is_alive() for thread in threads) or not ended.empty() else 0
            except KeyboardInterrupt as interrupt:
                if isinstance(failure, KeyboardInterrupt):
                    raise
                stop.set()
                failure = interrupt
                remark(f"stopping: {running} questions are on their way and waited for; Ctrl-C again leaves them")
    finally:
        stop.set()
    if failure is not None:
        raise failure


def _work(
    call: Callable[[int, Event], object], todo: SimpleQueue[int], ended: SimpleQueue[_Ended], stop: Event
) -> None:
    try:
        while not stop.is_set():
            ended.put(_Ended(call(todo.get_nowait(), stop)))
    except Empty:
        pass
    except BaseException as error:  # noqa: BLE001 - raised again where the results are awaited
        stop.set()
        ended.put(_Ended(error=error))
    finally:
        ended.put(_Ended(last=True))
