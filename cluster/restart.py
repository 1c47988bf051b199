"""When a dead child is started again, and when it is given up.  Pure: time is an argument."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RestartLimits:
    """Delay between a child's death and its next start, and how many deaths within a window are too many."""

    first_delay_s: float = 0.1
    most_delay_s: float = 10.0
    give_up_after: int = 10
    window_s: float = 60.0


@dataclass
class RestartPolicy:
    """One child's history.  `died` answers the seconds to wait before the next start, or None: give it up."""

    limits: RestartLimits = field(default_factory=RestartLimits)
    rng: Callable[[], float] = random.random
    _deaths: deque[float] = field(default_factory=deque)

    def died(self, now: float) -> float | None:
        """Note a death at `now` (monotonic seconds).

        The delay doubles with each death that the window still holds and is jittered over its upper half, so that
        children which died together do not all start together, while none is started at once.
        """
        self._forget(now)
        self._deaths.append(now)
        if len(self._deaths) >= self.limits.give_up_after:
            return None
        bound: float = min(self.limits.most_delay_s, self.limits.first_delay_s * 2 ** (len(self._deaths) - 1))
        return bound * (0.5 + 0.5 * self.rng())

    def deaths(self, now: float) -> int:
        """Return how many deaths the window holds at `now`."""
        self._forget(now)
        return len(self._deaths)

    def _forget(self, now: float) -> None:
        while self._deaths and now - self._deaths[0] >= self.limits.window_s:
            self._deaths.popleft()
