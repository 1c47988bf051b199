"""How a node treats the clients that are sent to it, and when it is given none for a while.  Pure.

Probes find a node that is ill for everybody.  One that answers probes and fails clients is found only by those: too
many failures in a row, and it is left alone, for longer each time.  So is one that falls and rises again and again:
each of its falls costs those something who are on their way there.
"""

from __future__ import annotations

from dataclasses import dataclass

FORGIVEN_S = 60.0
"""For each minute without another ejection, one that was before no longer counts."""

FREE_FALLS = 2
"""So many falls, each forgiven in a minute too, cost a node nothing: it was restarted, perhaps twice."""

MOST_DOUBLINGS = 20


@dataclass(frozen=True)
class Rules:
    """`after` failures in a row eject a node for `first_s`, twice as long each time, up to `most_s`.

    0: nothing does, nor is one kept out that falls too often.
    """

    after: int = 0
    first_s: float = 5.0
    most_s: float = 300.0

    def seconds(self, before: int) -> float:
        """Return how long a node is out that was out `before` times lately."""
        return min(self.most_s, self.first_s * 2.0 ** min(before, MOST_DOUBLINGS))


@dataclass(slots=True)
class Conduct:
    """What a node did with those who were sent to it lately.  Times are monotonic seconds."""

    failures: int = 0
    """In a row."""
    on_trial: bool = False
    """It was ejected, and has served nobody since."""
    ejections: int = 0
    """Those that still count."""
    until: float = 0.0
    """When its time out is over."""
    why: str = "failed clients"
    """What that is for."""
    falls: int = 0
    """Those that still count."""
    fell_at: float = 0.0

    def failed(self, now: float, rules: Rules) -> float | None:
        """Count a failure; return for how many seconds that ejects the node, if it does.

        Half-open, in the words of circuit breakers: after an ejection one failure ejects again, until one succeeds.
        """
        if now < self.until:
            return None  # somebody who was sent there before
        self.failures += 1
        if not rules.after or (self.failures < rules.after and not self.on_trial):
            return None
        self.failures, self.on_trial = 0, True
        forgiven = int((now - self.until) / FORGIVEN_S) if self.ejections else 0
        self.ejections = max(0, self.ejections - forgiven)
        seconds = rules.seconds(self.ejections)
        self.ejections += 1
        self.until, self.why = now + seconds, "failed clients"
        return seconds

    def served(self) -> None:
        """Count a success."""
        self.failures, self.on_trial = 0, False

    @property
    def is_doubtful(self) -> bool:
        """Whether the last one who was sent there failed."""
        return self.failures > 0 or self.on_trial

    def fell(self, now: float, rules: Rules) -> float | None:
        """Count that it was found dead; return how long it must stay out, however well it is, if that is too often."""
        since = max(self.fell_at, self.until)
        if self.falls and now > since:
            self.falls = max(0, self.falls - int((now - since) / FORGIVEN_S))
        self.falls, self.fell_at = self.falls + 1, now
        if not rules.after or self.falls <= FREE_FALLS:
            return None
        seconds = rules.seconds(self.falls - FREE_FALLS - 1)
        if now + seconds > self.until:
            self.until, self.why = now + seconds, f"fell {self.falls} times lately"
        return seconds
