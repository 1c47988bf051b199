"""SIGHUP: the user's file is read again and applied to what runs.

All that can be found wrong is looked for first, and then nothing is changed.  What may fail later (a worker or a node
that does not come to serve) is undone as far as it went, and said; the next reload tries again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster import descriptors, logs
from cluster.child import Child
from cluster.config import Config, Endpoint
from cluster.config_file import ConfigError, Loaded, load
from cluster.errors import FlotillaError, StartError
from cluster.listening import check_free, listen
from cluster.output import Output
from cluster.restart import RestartLimits
from cluster.supervisor import Supervisor
from lb import certificates
from lb.changes import Plan, plan
from lb.crew import Crew, NotReady
from lb.kept import Kept
from lb.preflight import app_problem
from lb.roster import Doors, Roster
from lb.takeover import Heir, Taken, Takeover

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Running:
    """What runs now.  A reload changes it step by step, so that it is true at any moment."""

    loaded: Loaded
    """The user's configuration as it is applied."""
    roster: Roster
    doors: Doors
    crew: Crew
    supervisor: Supervisor
    output: Output
    tasks: asyncio.TaskGroup


async def reload(running: Running) -> bool:
    """Apply the user's file as it is now, and log what that meant; return whether all of it is applied."""
    try:
        loaded = load(running.loaded.file)
        steps = plan(running.loaded.config, loaded.config)
        if steps.refused:
            return _refused([f"{key}: cannot be changed while the stack runs; restart needed" for key in steps.refused])
        certificates.check(loaded.config.lb.tls, loaded.base)
        if (kept := running.doors.kept) is not None:
            kept.look(is_whole=True)
        if steps.is_empty:
            log.info("reload: the configuration is unchanged")
            if loaded.config.lb.tls.is_on:
                share_log_settings(running, loaded.config)  # and so workers look at once whether their files are
            return True
        await _Reload(running, loaded, steps).run()
    except ConfigError as exc:
        return _refused(exc.problems)
    except (FlotillaError, OSError) as exc:
        # OSError: the disk of the run directory is full, no process can be made.
        return _refused([str(exc)])
    return True


def _refused(problems: list[str]) -> bool:
    for problem in problems:
        log.error("reload: not applied", extra={"problem": problem})
    return False


class _Reload:
    """One reload that has something to do."""

    def __init__(self, running: Running, loaded: Loaded, steps: Plan) -> None:
        self._running = running
        self._loaded = loaded
        self._steps = steps
        self._opened: list[socket.socket | Kept] = []

    async def run(self) -> None:
        """Raises FlotillaError and OSError; what stands then in `running` is what runs."""
        running, steps = self._running, self._steps
        roster = self._write_roster()
        try:
            await self._check(roster)
            doors = self._open_doors()
            log.info("reload: begins", extra={"plan": steps.in_words()})
            old_workers = await self._bring_in(roster, doors)
        except BaseException:
            for opened in self._opened:
                opened.close()
            roster.file.unlink(missing_ok=True)
            raise
        self._move_in(roster, doors, old_workers)
        try:
            await self._change_nodes(roster)
            running.loaded = self._loaded
            running.crew.adopt(roster, running.doors)
        finally:
            forget_files(running)
        log.info("reload: done", extra={"plan": steps.in_words()})

    def _write_roster(self) -> Roster:
        now = self._running.roster
        # What must not change was resolved at start.
        resolved = self._loaded.config.model_copy(update={"redis": now.config.redis, "secret": now.config.secret})
        return Roster.write_next(resolved, self._loaded.base, now.run_dir)

    async def _check(self, roster: Roster) -> None:
        """Raise FlotillaError if the new configuration cannot be applied."""
        steps, config = self._steps, self._loaded.config
        descriptors.check_connections(config)
        for port in steps.add:
            check_free(Endpoint(config.nodes.host, port), "nodes.first_port")
        if steps.app and (problem := await app_problem(roster.file, roster.base)):
            raise StartError(problem.splitlines()[-1])

    def _open_doors(self) -> Doors:
        doors, lb, steps = self._running.doors, self._loaded.config.lb, self._steps
        public = self._opening(lb.listen, "lb.listen") if steps.listen else doors.public
        admin = self._opening(lb.admin, "lb.admin") if steps.admin else doors.admin
        redirect, plain = doors.redirect, lb.tls.redirect
        if steps.redirect:
            redirect = self._opening(plain, "lb.tls.redirect") if plain else None
        kept = doors.kept
        if self._running.loaded.config.lb.tls != lb.tls:
            kept = Kept.of(lb.tls, self._loaded.base)
            self._opened += [kept] if kept else []
        return Doors(public, admin, redirect, kept)

    def _opening(self, endpoint: Endpoint, key: str) -> socket.socket:
        opened = listen(endpoint, key)
        self._opened.append(opened)
        return opened

    async def _bring_in(self, roster: Roster, doors: Doors) -> Sequence[Child]:
        """Start the new nodes and workers; return the workers that may go.  Raises NotReady: none was started."""
        crew, steps = self._running.crew, self._steps
        # Nodes first: a worker waits until it knows its nodes.
        await crew.add_nodes(steps.add, roster)
        if not steps.workers:
            return ()
        try:
            return await crew.replace_workers(roster, doors)
        except NotReady:
            await crew.remove_nodes(steps.add)
            raise

    def _move_in(self, roster: Roster, doors: Doors, old_workers: Sequence[Child]) -> None:
        """The new workers serve: let the old ones drain, and let go of what only they had."""
        running, config = self._running, self._loaded.config
        before, running.doors, running.roster = running.doors, doors, roster
        for option, then in before.held.items():
            if then is not doors.held.get(option):
                then.close()
        if old_workers:
            running.tasks.create_task(running.supervisor.stop(*old_workers), name="drain old workers")
        if self._steps.restart:
            running.supervisor.apply(RestartLimits(**config.restart.model_dump()))
        if self._steps.log:
            share_log_settings(running, config)
        # From here on all but the nodes is as the new configuration says.
        nodes = running.loaded.config.nodes
        running.loaded = Loaded(config.model_copy(update={"nodes": nodes}), self._loaded.base, self._loaded.file)

    async def _change_nodes(self, roster: Roster) -> None:
        running, steps = self._running, self._steps
        await running.crew.remove_nodes(steps.remove)
        there = {key: getattr(self._loaded.config.nodes, key) for key in ("local", "first_port", "static", "discover")}
        config = running.loaded.config
        nodes = config.nodes.model_copy(update=there)
        running.loaded = Loaded(config.model_copy(update={"nodes": nodes}), running.loaded.base, running.loaded.file)
        try:
            await running.crew.roll_nodes(steps.roll, roster)
        except NotReady as exc:
            raise StartError(f"nodes were rolled only in part: {exc}; its old configuration is back") from None


async def conform(running: Running, takeover: Takeover, taken: Taken) -> None:
    """Bring nodes that were taken over to what the configuration asks for by now.

    What cannot be replaced goes on as it is, which is said; the next reload tries again.
    """
    crew, roster, config = running.crew, running.roster, running.loaded.config
    share_log_settings(running, config)
    try:
        await crew.remove_nodes([port for port in taken.nodes if port not in config.local_ports])
        stay = [heir for heir in takeover.heirs if heir.port in taken.nodes and heir.port in config.local_ports]
        misfits = [heir for heir in stay if not heir.fits(roster)]
        if misfits:
            await _roll_misfits(running, misfits)
        crew.adopt(roster, running.doors)
    except (FlotillaError, OSError) as exc:
        log.error("nodes that were taken over run on as they are", extra={"problem": str(exc)})
    finally:
        forget_files(running)


async def _roll_misfits(running: Running, misfits: Sequence[Heir]) -> None:
    crew, roster, loaded = running.crew, running.roster, running.loaded
    log.info("nodes that were taken over are replaced: they run otherwise than configured by now")
    # As long as that is not done, a reload has it to do.
    there = {key: getattr(loaded.config.nodes, key) for key in ("local", "first_port", "static", "discover")}
    nodes = misfits[0].roster.config.nodes.model_copy(update=there)
    running.loaded = replace(loaded, config=loaded.config.model_copy(update={"nodes": nodes}))
    if problem := await app_problem(roster.file, roster.base):
        raise StartError(problem.splitlines()[-1])
    await crew.roll_nodes([heir.port for heir in misfits], roster)
    running.loaded = loaded


def share_log_settings(running: Running, config: Config) -> None:
    """Let all processes of the stack log as `config` says."""
    running.output.form = config.log.format
    text = logs.share(config.log.level, config.log.format, access=config.log.access)
    logs.follow(running.roster.run_dir.write_private(running.roster.log_file.name, text))
    for child in running.crew.everyone:
        child.hang_up()


def forget_files(running: Running) -> None:
    """Remove the resolved configurations that no child will read again."""
    roster = running.roster
    needed = {word for child in running.supervisor.children for word in child.spec.argv}
    for file in roster.run_dir.path.glob("config.resolved*.yaml"):
        if file != roster.file and str(file) not in needed:
            file.unlink(missing_ok=True)
