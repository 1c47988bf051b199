"""How a node treats the clients that are sent to it, and when it is given none for a while.  Pure.

Probes find a node that is ill for everybody.  One that answers probes and fails clients is found only by those: too
many failures in a row, and it is left alone, for longer each time.
"""

from __future__ import annotations

from dataclasses import dataclass

FORGIVEN_S = 60.0
"""For each minute without another ejection, one that was before no longer counts."""

MOST_DOUBLINGS = 20


@dataclass(frozen=True)
class Rules:
    """`after` failures in a row eject a node (0: never) for `first_s`, twice as long each time, up to `most_s`."""

    after: int = 0
    first_s: float = 5.0
    most_s: float = 300.0


@dataclass(slots=True)
class Conduct:
    """What a node did with those who were sent to it lately.  Times are monotonic seconds."""

    failures: int = 0
    """In a row."""
    ejections: int = 0
    """Those that still count."""
    until: float = 0.0
    """When the last ejection is over."""

    def failed(self, now: float, rules: Rules) -> float | None:
        """Count a failure; return for how many seconds that ejects the node, if it does."""
        if now < self.until:
            return None  # somebody who was sent there before
        self.failures += 1
        if not rules.after or self.failures < rules.after:
            return None
        self.failures = 0
        forgiven = int((now - self.until) / FORGIVEN_S) if self.ejections else 0
        self.ejections = max(0, self.ejections - forgiven)
        seconds = min(rules.most_s, rules.first_s * 2.0 ** min(self.ejections, MOST_DOUBLINGS))
        self.ejections += 1
        self.until = now + seconds
        return seconds
