"""Time that moves only when a test says so."""

from datetime import timedelta

START = 1_800_000_000.0


class Clock:
    """A stand-in for time.time: call it for the time, advance it to let time pass."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, step: float | timedelta) -> None:
        """Move *step* seconds on, or back when it is negative."""
        self.now += step.total_seconds() if isinstance(step, timedelta) else step
