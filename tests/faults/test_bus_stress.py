"""Random deeds and faults, and a model that knows what must follow (tests/support/stress.py).

FLOTILLA_STRESS_S=3600 FLOTILLA_STRESS_SEED=7 pytest tests/faults/test_bus_stress.py --timeout 0
"""

from __future__ import annotations

import asyncio
import os
import random
import sys

from tests.support.stress import Stress
from tests.support.valkey import Valkey

SECONDS = float(os.environ.get("FLOTILLA_STRESS_S", "15"))


def test_whatever_happens_the_model_knows_what_follows(valkey: Valkey) -> None:
    """Counts, order and rooms, over outages, partitions and deaths.  The seed of a failure is in its notes."""
    seed = int(os.environ.get("FLOTILLA_STRESS_SEED", random.randrange(1 << 30)))
    stress = Stress(valkey, seed)
    asyncio.run(stress.run(SECONDS))
    sys.stdout.write(f"seed {seed}: {stress.summary}\n")
    assert stress.rounds > 0
    assert stress.deliveries > 0
