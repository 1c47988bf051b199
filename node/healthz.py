"""`GET /healthz`: whether this node serves, for balancers and people."""

from __future__ import annotations

from aiohttp import web

from cluster.member import State
from node.announce import Announcer
from node.bus import Bus, Health
from node.server import Server

PATH = "/healthz"


def add_healthz(sio: Server, announcer: Announcer, bus: Bus | None) -> None:
    """Add the route to `sio.web`, unless the application has one of its own there.

    Without Redis a node serves on, "degraded": taking it out would help nobody.  One that hears no other although Redis
    answers may be alone with that, and does harm then: "deaf", with 503.  Our own balancers know better (lb/health.py).
    """

    async def healthz(_: web.Request) -> web.Response:
        record = announcer.record
        # Anybody may ask through the balancer: nothing here that only an operator should know.
        body = {
            "status": "degraded" if announcer.redis == "away" else "ok",
            "name": record.name,
            "port": record.port,
            "state": announcer.state,
            "connections": sio.eio.clients,
            "users": record.users,
            "redis": announcer.redis,
            "loop_lag_ms": record.loop_lag_ms,
            "uptime_s": record.uptime_s,
            "incarnation": record.incarnation,
            "version": record.version,
        }
        status = 200
        if bus is not None:
            health = bus.health
            body |= {"bus": health.name.lower(), "outbox_bytes": bus.waiting_bytes, "dropped": bus.dropped}
            if health is not Health.OK:
                body["status"] = "degraded"
            if health is Health.DEAF and announcer.hears_redis:
                body["status"], status = "deaf", 503
        if announcer.state is not State.READY:
            body["status"], status = str(announcer.state), 503
        return web.json_response(body, status=status, headers={"Cache-Control": "no-store"})

    if all(resource.canonical != PATH for resource in sio.web.router.resources()):
        sio.web.router.add_get(PATH, healthz)
