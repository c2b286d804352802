"""An engine in a thread: outputs reach who asked, and nobody waits for ever."""

from __future__ import annotations

import queue
import threading

import pytest

pytest.importorskip("torch", reason="the extra llmbench[reference] is not installed")

from llmbench.reference_engine import engine_thread
from llmbench.reference_engine.engine_thread import EngineThread
from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.outputs import StepOutput
from llmbench.reference_engine.request_times import RequestTimes
from llmbench.reference_engine.sampling import SamplingParams

PARAMS = SamplingParams(max_tokens=3)


class CountingEngine:
    """Gives each request the tokens 0, 1, 2 … one per step; breaks when asked for request `bomb`."""

    def __init__(self) -> None:
        self.running: dict[str, tuple[int, SamplingParams]] = {}
        self.aborted: list[str] = []
        self.users: list[str | None] = []
        self.is_closed = False

    def add_request(
        self, request_id: str, prompt_token_ids: list[int], params: SamplingParams, *, user: str | None
    ) -> None:
        if not prompt_token_ids:
            raise RequestError("The prompt is empty.")
        self.running[request_id] = (0, params)
        self.users.append(user)

    def has_work(self) -> bool:
        return bool(self.running)

    def step(self) -> list[StepOutput]:
        if "bomb" in self.running:
            raise MemoryError("boom")
        outputs = []
        for request_id, (count, params) in list(self.running.items()):
            is_last = count + 1 == params.max_tokens
            outputs.append(
                StepOutput(request_id, [count], "length" if is_last else None, 0, None, RequestTimes(1, 2, 3))
            )
            self.running[request_id] = (count + 1, params)
            if is_last:
                del self.running[request_id]
        return outputs

    def stats(self) -> tuple[int, ...]:
        """As EngineStats: unlike the one before when something has happened."""
        return tuple(count for count, _ in self.running.values())

    def abort(self, request_id: str) -> bool:
        self.aborted.append(request_id)
        return self.running.pop(request_id, None) is not None

    def close(self) -> None:
        self.is_closed = True


class Listener:
    def __init__(self, enough_after: int | None = None) -> None:
        self.heard: queue.Queue[StepOutput | Exception] = queue.Queue()
        self._enough_after = enough_after
        self._num_heard = 0

    def __call__(self, output: StepOutput | Exception) -> bool:
        self._num_heard += 1
        self.heard.put(output)
        return self._num_heard == self._enough_after

    def next(self) -> StepOutput | Exception:
        return self.heard.get(timeout=5)


@pytest.fixture
def engine() -> CountingEngine:
    return CountingEngine()


def test_outputs_come_in_order_and_to_whom_they_belong(engine: CountingEngine) -> None:
    thread, listeners = EngineThread(engine), [Listener(), Listener()]
    for index, (listener, user) in enumerate(zip(listeners, ("ann", None), strict=True)):
        thread.submit(str(index), [1], PARAMS, listener, user)
    for index, listener in enumerate(listeners):
        outputs = [listener.next() for _ in range(3)]
        assert [output.new_token_ids for output in outputs] == [[0], [1], [2]]
        assert {output.request_id for output in outputs} == {str(index)}
    thread.stop()
    assert engine.users == ["ann", None]


def test_a_refused_request_is_told_and_others_go_on(engine: CountingEngine) -> None:
    thread, refused, served = EngineThread(engine), Listener(), Listener()
    thread.submit("a", [], PARAMS, refused)
    thread.submit("b", [1], PARAMS, served)
    assert isinstance(refused.next(), RequestError)
    assert served.next().new_token_ids == [0]
    thread.stop()


def test_who_has_enough_is_aborted(engine: CountingEngine) -> None:
    thread, listener = EngineThread(engine), Listener(enough_after=1)
    thread.submit("a", [1], SamplingParams(max_tokens=1000), listener)
    listener.next()
    thread.stop()
    assert engine.aborted == ["a"]
    assert listener.heard.empty()


def test_who_cannot_take_an_output_is_aborted_and_others_go_on(
    engine: CountingEngine, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(output: StepOutput | Exception) -> bool:
        raise BrokenPipeError

    thread, served = EngineThread(engine), Listener()
    thread.submit("a", [1], PARAMS, broken)
    thread.submit("b", [1], PARAMS, served)
    assert [served.next().new_token_ids for _ in range(3)] == [[0], [1], [2]]
    thread.stop()
    assert engine.aborted == ["a"]
    assert "Request a is given up" in caplog.text


def test_an_engine_that_dies_fails_everyone_now_and_later(
    engine: CountingEngine, caplog: pytest.LogCaptureFixture
) -> None:
    thread, running, later = EngineThread(engine), Listener(), Listener()
    thread.submit("bomb", [1], PARAMS, running)
    assert "boom" in str(running.next())
    thread.submit("c", [1], PARAMS, later)
    assert "boom" in str(later.next())
    thread.stop()
    assert "The engine died." in caplog.text


def test_stopping_fails_what_is_not_done(engine: CountingEngine) -> None:
    thread, listener = EngineThread(engine), Listener()
    thread.submit("a", [1], SamplingParams(max_tokens=10**9), listener)
    listener.next()
    thread.stop()
    while isinstance(last := listener.next(), StepOutput):
        pass
    assert "stopped" in str(last)


def test_its_state_is_told_before_any_request_and_once_there_is_nothing_to_do(
    engine: CountingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_thread, "TELL_EVERY_S", 0.01)
    told: queue.Queue[object] = queue.Queue()
    has_enough = threading.Event()
    thread = EngineThread(engine, told.put)
    try:
        assert told.get(timeout=5) == ()
        thread.submit("a", [1], SamplingParams(max_tokens=10**9), lambda output: has_enough.is_set())
        assert told.get(timeout=5) != ()  # while it steps
        has_enough.set()
        while told.get(timeout=5) != ():
            pass
        assert told.empty()  # nothing new, nothing told
    finally:
        has_enough.set()
        thread.stop()


def test_a_state_that_cannot_be_told_does_not_end_the_engine(
    engine: CountingEngine, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(stats: object) -> None:
        raise BrokenPipeError

    thread, listener = EngineThread(engine, broken), Listener()
    thread.submit("a", [1], PARAMS, listener)
    assert [listener.next().new_token_ids for _ in range(3)] == [[0], [1], [2]]
    thread.stop()
    assert "The engine's state is not told any more." in caplog.text


def test_the_error_of_an_answer_is_told_as_one_and_others_go_on(engine: CountingEngine) -> None:
    def step() -> list[StepOutput]:
        return [
            StepOutput.of_error(output.request_id, "Too large.") if output.request_id == "large" else output
            for output in CountingEngine.step(engine)
        ]

    engine.step = step  # type: ignore[method-assign]
    thread, refused, served = EngineThread(engine), Listener(), Listener()
    thread.submit("large", [1], SamplingParams(max_tokens=1), refused)
    thread.submit("b", [1], PARAMS, served)
    told = refused.next()
    assert isinstance(told, RequestError)
    assert str(told) == "Too large."
    assert [served.next().new_token_ids for _ in range(3)] == [[0], [1], [2]]
    thread.stop()
    assert refused.heard.empty()


@pytest.mark.parametrize("request_id", ["a", "bomb"])
def test_the_engine_is_closed_when_its_thread_ends(engine: CountingEngine, request_id: str) -> None:
    thread, listener = EngineThread(engine), Listener()
    thread.submit(request_id, [1], PARAMS, listener)
    listener.next()
    assert not engine.is_closed
    thread.stop()
    assert engine.is_closed
