"""The Redis of a stack, in the eyes of its supervisor."""

from __future__ import annotations

import asyncio
import logging

from cluster import embedded, redis_link
from cluster.child import ChildState
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

    async def start(self, supervisor: Supervisor, run_dir: RunDir) -> None:
        """Raise StartError unless Redis answers (or there shall be none)."""
        if self._config.redis == EMBEDDED:
            await self._start_embedded(supervisor, run_dir)
        elif self._config.redis != NO_REDIS:
            self.name = redis_link.without_password(self.url)
            await redis_link.check(self.url)

    async def _start_embedded(self, supervisor: Supervisor, run_dir: RunDir) -> None:
        path = embedded.binary()
        self.name = f"embedded (valkey {embedded.version(path)}, private socket)"
        self.url = embedded.url(run_dir)
        child = supervisor.start(embedded.spec(path, run_dir))
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                await child.until(ChildState.READY, ChildState.WAITING, ChildState.GIVEN_UP)
        except TimeoutError:
            raise StartError(f"redis: the embedded Valkey does not answer after {READY_WITHIN_S:g} s") from None
        if child.state is not ChildState.READY:
            raise StartError(f"redis: the embedded Valkey does not start: {child.reason}")

    async def secret(self) -> str:
        """Return the cluster's secret.  Raises StartError if Redis went away again."""
        if self.url == NO_REDIS:
            return (await agree_on_secret(self._config, None)).decode()
        try:
            async with redis_link.connection(self.url) as link:
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
