"""The image's health check: ask /healthz, answer with the exit status (0 healthy, 1 not).  Standard library only.

FLOTILLA_HEALTH_URL says whom to ask; unset, it is the balancer's admin address.  A container that runs a node sets it
to http://127.0.0.1:3000/healthz.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from http.client import HTTPException

DEFAULT_URL = "http://127.0.0.1:8081/healthz"
TIMEOUT_S = 4.0  # less than the HEALTHCHECK's own, so that the reason is printed and kept by the engine


def verdict(url: str, timeout_s: float = TIMEOUT_S) -> tuple[int, str]:
    """Return the exit status, and the answer or the reason for which there was none."""
    # A proxy that the environment names for the application must not be asked about our own loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_s) as answer:
            return 0, answer.read(4096).decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return 1, f"{error.code} {error.reason}: {error.read(4096).decode(errors='replace')}"
    except (OSError, HTTPException, ValueError) as error:
        return 1, f"no answer from {url}: {error}"


if __name__ == "__main__":
    status, text = verdict(os.environ.get("FLOTILLA_HEALTH_URL") or DEFAULT_URL)
    sys.stdout.write(f"{text}\n")
    sys.exit(status)
