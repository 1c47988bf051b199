"""Errors that a user can cause or must read, each with facts enough to act on."""

from __future__ import annotations


class FlotillaError(Exception):
    """Base of all errors of ours.  Its text is one readable line for the user; no traceback is shown for it."""


class UsageError(FlotillaError):
    """The command line, the configuration or the environment asks for what cannot be done.  Exit code 2."""

    exit_code = 2


class StartError(FlotillaError):
    """Something outside stands in the way of starting: a port in use, no Redis, an app that cannot be imported."""

    exit_code = 1
