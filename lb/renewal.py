"""A certificate and its key whose files somebody may replace: what is in use, and why not what is there by now."""

from __future__ import annotations

from lb.certificates import CertificateError, Files, Pem, load, loaded


class Followed:
    """The pair in `files`, loaded again whenever they have changed.

    As long as they hold nothing that can be used, the one before goes on: at first the one that was `kept`.  Without
    one, raises CertificateError.
    """

    def __init__(self, files: Files, kept: Pem | None = None) -> None:
        self.files = files
        self.refused = ""
        """Why `pair` is not what the files hold."""
        self._seen = self._taken = files.look()
        try:
            self.pair = load(files)
        except CertificateError as exc:
            if kept is None:
                raise
            self.refused = str(exc)
            self.pair = loaded(kept, files)

    def look(self, *, is_whole: bool = False) -> bool:
        """Load the files if they have changed, and have not since the last look, or the change `is_whole`.

        Return whether there is news: another pair in use, or another reason why the files' is not.
        """
        seen, self._seen = self._seen, self.files.look()
        is_known = self._seen == self._taken and not self.refused
        if is_known or not (is_whole or self._seen == seen):
            return False
        self._taken = self._seen
        before = self.refused
        try:
            self.pair, self.refused = load(self.files), ""
        except CertificateError as exc:
            # The next look tries again.
            self.refused = str(exc)
            return self.refused != before
        return True

    def problem(self, now: float) -> str:
        """Say what an operator should know of the time of what is in use, at `now`; nothing, if all is well."""
        problem = self.pair.problem(now)
        return f"{self.files.section}: {problem}" if problem else ""
