import io
import signal
import sys
import threading

import pytest

from palimpsest.training.console import progress_bar, stop_on_signals
from palimpsest.training.state import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch, stream, *, wanted):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bar("tiny", 10, Progress(step=4, tokens=400, seconds=4.0), wanted=wanted) as report:
        report(Progress(step=6, tokens=1400, seconds=6.0), 2.5)
    return stream.getvalue()


def test_the_bar_tells_name_steps_loss_and_speed_of_this_process(monkeypatch):
    text = shown(monkeypatch, Terminal(), wanted=True)
    for part in ("tiny", "6/10", "loss 2.500", "500 tokens/s"):
        assert part in text


@pytest.mark.parametrize(("stream", "wanted"), [(io.StringIO(), True), (Terminal(), False)])
def test_nothing_is_shown_off_a_terminal_or_unasked(monkeypatch, stream, wanted):
    assert shown(monkeypatch, stream, wanted=wanted) == ""


def test_a_second_signal_acts_as_usual():
    with stop_on_signals() as request:
        assert request.signum is None
        signal.raise_signal(signal.SIGINT)
        assert request.signum == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_outside_the_main_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGINT)
    handlers = []

    def look():
        with stop_on_signals():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert handlers == [before]
