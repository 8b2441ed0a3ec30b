"""The first signal asks a run to stop, the second has its usual effect, and the former handlers return."""

import signal

import pytest

from tljax.training.stop import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request_and_the_second_has_its_usual_effect(number):
    seen = []
    before = signal.signal(number, lambda *_: seen.append("usual"))
    try:
        with StopRequest() as stop:
            assert stop.signal is None
            signal.raise_signal(number)
            assert stop.signal is number and seen == []
            signal.raise_signal(number)
            assert seen == ["usual"]
        signal.raise_signal(number)
        assert seen == ["usual", "usual"]
    finally:
        signal.signal(number, before)


def test_the_former_handlers_return_without_a_signal_too():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
