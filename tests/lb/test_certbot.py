"""The section of docs/tls.md on certbot, done as it says, with files that change as certbot changes them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import yaml

from cluster.config import Config
from cluster.config import Tls as Settings
from lb.certificates import Files
from lb.metrics import Metrics
from lb.tls import RELOADED, Tls
from tests.support.certificates import Certificates, replace

PAGE = Path(__file__).parents[2] / "docs" / "tls.md"
HOST = "chat.example.org"
MEMBERS = ("cert", "privkey", "chain", "fullchain")
"""In the order in which certbot replaces their links."""


@dataclass
class Lineage:
    """What certbot keeps of one certificate: files in `archive` that stay, links to the latest of them in `live`."""

    root: Path
    renewals: int = 0
    made: Certificates = field(init=False)

    def __post_init__(self) -> None:
        for place in (self.live, self.archive, self.root / "issued"):
            place.mkdir(parents=True)
        self.made = Certificates(self.root / "issued", names=(HOST,))
        self.renew()

    @property
    def live(self) -> Path:
        return self.root / "live" / HOST

    @property
    def archive(self) -> Path:
        return self.root / "archive" / HOST

    def renew(self, between: Callable[[int], None] = lambda step: None) -> None:
        """Do as certbot's storage does, and `between` after each of its steps, which it is told the number of."""
        steps = count()
        self.renewals += 1
        self.made.issue()
        content = dict.fromkeys(MEMBERS, self.made.certificate) | {"privkey": self.made.key}
        for member in MEMBERS:
            (self.archive / f"{member}{self.renewals}.pem").write_bytes(content[member].read_bytes())
            between(next(steps))
        for member in MEMBERS:
            link = self.live / f"{member}.pem"
            link.unlink(missing_ok=True)
            between(next(steps))
            link.symlink_to(f"../../archive/{HOST}/{member}{self.renewals}.pem")
            between(next(steps))


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    return Lineage(tmp_path / "letsencrypt")


@pytest.fixture
def section() -> dict[str, list[str]]:
    """The blocks of the section on certbot, by their language."""
    text = PAGE.read_text(encoding="utf-8")
    text = text[text.index("\n## Let's Encrypt, with certbot") :]
    blocks: dict[str, list[str]] = {}
    for language, block in re.findall(r"```(\w+)\n(.*?)```", text[: text.index("\n## Kubernetes")], re.DOTALL):
        blocks.setdefault(language, []).append(block)
    return blocks


def served(settings: Settings, told: list[str]) -> Tls:
    def tell(kind: str, reason: str, *, level: int) -> None:
        told.append(kind)

    return Tls(Files.of(settings, Path()), tell, Metrics())


def test_the_hook_and_the_configuration_of_the_page_go_together(
    section: dict[str, list[str]], lineage: Lineage, tmp_path: Path
) -> None:
    """Its commands make a pair to begin with; the hook replaces that with what certbot has, for a group to read."""
    group = str(os.getgid())

    def here(text: str) -> str:
        text = re.sub(r"(?<!\w)/(etc/flotilla|var/lib/flotilla|usr/local/sbin)/", rf"{tmp_path}/\1/", text)
        return (
            text.replace("groupadd", ": groupadd")
            .replace("-g flotilla-tls", f"-g {group}")
            .replace("chgrp flotilla-tls", f"chgrp {group}")
        )

    hook, once, certonly = map(here, section["sh"])
    script = tmp_path / "usr/local/sbin/flotilla-certificate"
    script.parent.mkdir(parents=True)
    script.write_text(hook)
    subprocess.run(["sh", "-ec", once], check=True, capture_output=True)
    [text] = section["yaml"]
    settings = Config.model_validate(yaml.safe_load(here(text))).lb.tls
    assert f"-w {settings.challenges} --cert-name {HOST} " in certonly
    assert Path(settings.challenges).is_dir()
    assert f"--deploy-hook {script}" in certonly

    told: list[str] = []
    tls = served(settings, told)
    assert tls.pair.names == (HOST,)
    for _ in range(2):
        lineage.renew()
        subprocess.run([str(script)], env=os.environ | {"RENEWED_LINEAGE": str(lineage.live)}, check=True)
        for _ in range(2):
            tls.look()
        assert tls.pair.pem.certificate == lineage.made.certificate.read_bytes()
    assert told == [RELOADED] * 2
    for file in (settings.certificate, settings.key):
        found = os.stat(file)
        assert (found.st_mode & 0o777, str(found.st_gid)) == (0o640, group)


def test_links_that_are_replaced_one_after_the_other_are_one_change(lineage: Lineage) -> None:
    """For who runs as root, and names certbot's own links: in whichever step of it we look, none is told as broken."""
    told: list[str] = []
    pair = {"certificate": str(lineage.live / "fullchain.pem"), "key": str(lineage.live / "privkey.pem")}
    tls = served(Settings.model_validate(pair), told)
    steps = 3 * len(MEMBERS)

    def look(wanted: int, step: int) -> None:
        if step == wanted:
            tls.look()

    for number in range(steps):
        before = tls.pair
        lineage.renew(between=partial(look, number))
        assert tls.pair is before
        for _ in range(2):
            tls.look()
        assert tls.pair.pem.certificate == lineage.made.certificate.read_bytes()
    assert told == [RELOADED] * steps


def test_a_key_that_comes_late_is_waited_for(lineage: Lineage) -> None:
    """Told as refused once it rests like that; then it is there, and used."""
    told: list[str] = []
    tls = served(Settings.model_validate(lineage.made.section), told)
    key = lineage.made.key.read_bytes()
    lineage.made.issue()
    late = lineage.made.key.read_bytes()
    replace(lineage.made.key, key)
    for _ in range(3):
        tls.look()
    replace(lineage.made.key, late)
    for _ in range(2):
        tls.look()
    assert len(told) == 2
    assert told[1] == RELOADED
    assert tls.pair.pem.key == late
