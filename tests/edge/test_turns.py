"""Turns: single calls and parts of batches alternate."""

import signal
import threading

import pytest

from viewfinder.edge.turns import Turns


def test_a_single_call_waits_for_one_part_of_a_batch() -> None:
    """Regression: a batch of 64 searches kept the embedded store for all of them."""
    turns, order = Turns(), list[str]()
    waiting = threading.Semaphore(0)

    def take(name: str, parts: int) -> None:
        for _ in range(parts):
            waiting.release()
            with turns.turn(of_batch=parts > 1):
                order.append(name)

    threads = [threading.Thread(target=take, args=(name, parts)) for name, parts in (("b", 5), ("c", 5), ("s", 1))]
    with turns.turn():
        for thread in threads:
            thread.start()
            waiting.acquire()
            while turns.waiting < threads.index(thread) + 1:
                pass
    for thread in threads:
        thread.join()
    assert order.index("s") <= 1
    assert sorted(order) == sorted("b" * 5 + "c" * 5 + "s")


def test_calls_of_one_kind_come_in_their_order() -> None:
    turns, order = Turns(), list[int]()

    def take(number: int) -> None:
        with turns.turn():
            order.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(5)]
    with turns.turn():
        for number, thread in enumerate(threads):
            thread.start()
            while turns.waiting <= number:
                pass
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_a_call_that_fails_ends_its_turn() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="fails"), turns.turn():
        raise ValueError("fails")
    with turns.turn():
        assert turns.waiting == 0


def test_a_caller_that_is_interrupted_while_it_waits_takes_no_turn() -> None:
    turns = Turns()
    with turns.turn():
        interrupted = turns.turn()
        before = signal.signal(signal.SIGALRM, _interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            with pytest.raises(KeyboardInterrupt):
                interrupted.__enter__()
        finally:
            signal.signal(signal.SIGALRM, before)
        assert turns.waiting == 0
    with turns.turn():
        assert turns.waiting == 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
