"""The Redis of a stack, in the eyes of its supervisor."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from cluster import embedded, leftovers, redis_link
from cluster.child import Child, ChildState, Spec
from cluster.config import EMBEDDED, NO_REDIS, Config
from cluster.errors import StartError
from cluster.host import host_id
from cluster.keys import Keys
from cluster.registry import Registry
from cluster.rundir import RunDir
from cluster.secret import agree_on_secret
from cluster.supervisor import Supervisor

log = logging.getLogger(__name__)

READY_WITHIN_S = 15.0
WITHDRAW_WITHIN_S = 2.0
KEEP_SECRET_S = 1.0


class Redis:
    """Embedded, somebody else's, or none."""

    def __init__(self, config: Config) -> None:
        self.url = config.redis
        self.name = config.redis
        """What the start-up picture calls it."""
        self._config = config
        self._server: Path | None = None
        """The embedded one's program."""

    async def check(self) -> None:
        """Raise StartError unless Redis answers, or the embedded one can run here (or there shall be none)."""
        if self._config.redis == EMBEDDED:
            self._server = embedded.binary()
            self.name = f"embedded (valkey {embedded.version(self._server)}, private socket)"
        elif self._config.redis != NO_REDIS:
            self.name = redis_link.without_password(self.url)
            await redis_link.check(self.url)

    def spec(self, run_dir: RunDir, outlive_s: float) -> Spec | None:
        """Return how to run the embedded one, after `check`; it goes on without a supervisor for `outlive_s`."""
        return None if self._server is None else embedded.spec(self._server, run_dir, outlive_s)

    async def start(self, supervisor: Supervisor, spec: Spec | None, child: Child | None = None) -> None:
        """Run the embedded one as `spec` says, unless `child` is it already.  Raises StartError unless it answers."""
        if spec is None:
            return
        self.url = embedded.url(supervisor.run_dir)
        if child is None:
            leftovers.end_orphaned_redis(supervisor.run_dir)
            child = supervisor.start(spec)
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                await child.until(ChildState.READY, ChildState.WAITING, ChildState.GIVEN_UP)
        except TimeoutError:
            raise StartError(f"redis: the embedded Valkey does not answer after {READY_WITHIN_S:g} s") from None
        if child.state is not ChildState.READY:
            raise StartError(f"redis: the embedded Valkey does not start: {child.reason}")

    async def secret(self, known: str = "") -> str:
        """Return the cluster's secret.  Raises StartError if Redis went away again.

        One that is `known` from nodes that run already is kept where nobody has agreed on another.
        """
        if self._config.secret or (self._config.has_private_redis and known):
            return self._config.secret or known
        if self.url == NO_REDIS:
            return (await agree_on_secret(self._config, None)).decode()
        try:
            async with redis_link.connection(self.url) as link:
                if known:
                    await link.set(Keys(self._config.cluster).secret, known, nx=True)
                return (await agree_on_secret(self._config, link)).decode()
        except redis_link.REDIS_AWAY as exc:
            raise StartError(f"no Redis at {redis_link.without_password(self.url)}: {exc}") from None

    async def keep_secret(self, secret: str) -> None:
        """Put an agreed secret back into a Redis of others that came back without it, until cancelled."""
        if self._config.secret or self.url == NO_REDIS or self._config.redis == EMBEDDED:
            return
        async with redis_link.connection(self.url) as link:
            while True:
                await asyncio.sleep(KEEP_SECRET_S)
                try:
                    await link.set(Keys(self._config.cluster).secret, secret, nx=True)
                except redis_link.REDIS_AWAY as exc:
                    log.debug("secret not kept", extra={"reason": redis_link.reason_of(exc)})

    async def sign_off(self, node: str, pid: int) -> None:
        """Take the record of the dead node process `pid` out of the registry: nobody needs to wait for its lease."""
        if self.url == NO_REDIS:
            return
        try:
            async with asyncio.timeout(WITHDRAW_WITHIN_S), redis_link.connection(self.url) as link:
                registry = Registry(link, Keys(self._config.cluster))
                for record in await registry.members():
                    if (record.name, record.pid, record.host_id) == (node, pid, host_id()):
                        await registry.withdraw(record.name, record.incarnation)
                        log.info("dead node signed off", extra={"node": node, "pid": pid})
        except redis_link.REDIS_AWAY as exc:
            # Its lease ends anyway.
            log.debug("dead node not signed off", extra={"node": node, "reason": str(exc)})
