"""`python -m lb drain NODE` and `undrain NODE`: asks the admin address of a running stack."""

from __future__ import annotations

import http.client
import json
import sys
from typing import Any
from urllib.parse import quote

from cluster.config import Config, Endpoint
from cluster.errors import StartError
from cluster.host import reached_at

TIMEOUT_S = 5.0
MOST_BYTES = 2**20


def drain(config: Config, node: str, drain_s: float | None) -> int:
    """Order `node` to drain, say what that means, and return 0.  Raises StartError, one readable line."""
    asked = {} if drain_s is None else {"drain_s": drain_s}
    told = _ask(config, node, "drain", json.dumps(asked))
    sys.stdout.write(
        f"{told['node']} drains: it gets no new clients; those that it has may stay for {told['drain_s']:g} s, then"
        f" {told['close_per_s']:g} a second are sent elsewhere.  `undrain {told['node']}` takes that back.\n"
    )
    return 0


def undrain(config: Config, node: str) -> int:
    """Take the order back, say so, and return 0.  Raises StartError, one readable line."""
    told = _ask(config, node, "undrain", "")
    sys.stdout.write(f"{told['node']} does not drain: it gets new clients as soon as it answers its probes.\n")
    return 0


def _ask(config: Config, node: str, what: str, body: str) -> dict[str, Any]:
    address = Endpoint(reached_at(config.lb.admin.host), config.lb.admin.port)
    headers = {"Content-Type": "application/json", "X-Flotilla": "1"}
    if config.lb.admin_token:
        headers["Authorization"] = f"Bearer {config.lb.admin_token}"
    connection = http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", f"/api/nodes/{quote(node, safe='')}/{what}", body, headers)
        answer = connection.getresponse()
        told = json.loads(answer.read(MOST_BYTES))
        if answer.status == 200:
            return {name: told[name] for name in (("node", "drain_s", "close_per_s") if what == "drain" else ("node",))}
        problem = str(told["error"])
    except TimeoutError:
        raise StartError(f"no answer at {address} (lb.admin) within {TIMEOUT_S:g} s") from None
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise StartError(f"nobody answers at {address} (lb.admin): {reason}; is the stack running?") from None
    except (http.client.HTTPException, ValueError, LookupError, TypeError):
        raise StartError(
            f"what answers at {address} (lb.admin) is not Flotilla's admin API; allowed: the address of a running stack"
        ) from None
    finally:
        connection.close()
    # What another process says must not drive the terminal.
    raise StartError("".join(character if character.isprintable() else "?" for character in problem))
