"""Certificates and keys in files: each way in which they may be wrong, in one line that says where and how."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cluster.config import Tls, TlsPair
from lb.certificates import CertificateError, Files, check, day, load, problems, summary
from tests.support.certificates import Certificates, replace

DAY_S = 86400.0


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def files(made: Certificates, minimum: str = "1.2") -> Files:
    return Files(made.certificate, made.key, minimum)


def refusal(made: Certificates) -> str:
    with pytest.raises(CertificateError) as caught:
        load(files(made))
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_pair_is_loaded_with_its_names_and_its_end(made: Certificates) -> None:
    """For handshakes that are modern."""
    pair = load(files(made))
    assert pair.names == ("localhost", "127.0.0.1", "::1")
    assert pair.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert load(files(made, "1.3")).context.minimum_version is ssl.TLSVersion.TLSv1_3
    suites = {each["name"] for each in pair.context.get_ciphers()}
    assert all(name.startswith(("TLS_", "ECDHE-")) and ("GCM" in name or "CHACHA20" in name) for name in suites)
    assert pair.context.options & ssl.OP_NO_RENEGOTIATION
    assert pair.context.options & ssl.OP_NO_COMPRESSION


def test_certificate_and_key_may_be_in_one_file(made: Certificates) -> None:
    """In either order."""
    certificate, key = made.certificate.read_bytes(), made.key.read_bytes()
    for content in (certificate + key, key + certificate):
        replace(made.certificate, content)
        assert load(Files(made.certificate, made.certificate)).names[0] == "localhost"


def test_the_first_to_end_of_a_chain_is_the_end(made: Certificates) -> None:
    """Clients verify all of it."""
    leaf_ends = load(files(made)).expires
    other = trustme.CA().issue_cert("other")
    replace(made.certificate, made.certificate.read_bytes() + other.cert_chain_pems[0].bytes())
    assert load(files(made)).expires == leaf_ends  # trustme's last for decades
    made.issue(days=1)
    with_leaf_last = made.certificate.read_bytes()
    made.issue(days=50)
    replace(made.certificate, made.certificate.read_bytes() + with_leaf_last)
    assert load(files(made)).expires < leaf_ends - 60 * DAY_S


def encrypted(made: Certificates) -> bytes:
    key = load_pem_private_key(made.key.read_bytes(), None)
    form, how = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"password")
    return key.private_bytes(serialization.Encoding.PEM, form, how)


def der(made: Certificates) -> bytes:
    return ssl.PEM_cert_to_DER_cert(made.certificate.read_text())


def another_key(_: Certificates) -> bytes:
    return bytes(trustme.CA().issue_cert("localhost").private_key_pem.bytes())


def rsa_key(_: Certificates) -> bytes:
    return bytes(trustme.CA().issue_cert("localhost", key_type=trustme.KeyType.RSA).private_key_pem.bytes())


@pytest.mark.parametrize(
    ("which", "content", "told"),
    [
        ("key", another_key, "lb.tls.key: {key} is not the key of the first certificate in {certificate}"),
        ("key", rsa_key, "lb.tls.key: {key} is not the key of the first certificate in {certificate}"),
        ("key", encrypted, "lb.tls.key: {key} is encrypted; allowed: a key without a password"),
        ("key", lambda _: b"", "lb.tls.key: {key} is empty"),
        ("certificate", lambda _: b"", "lb.tls.certificate: {certificate} is empty"),
        (
            "certificate",
            der,
            "lb.tls.certificate: {certificate} holds no certificate in PEM (-----BEGIN CERTIFICATE-----);"
            " it looks like DER: convert it with openssl",
        ),
        (
            "certificate",
            lambda made: made.key.read_bytes(),
            "lb.tls.certificate: {certificate} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)",
        ),
        (
            "key",
            lambda made: made.certificate.read_bytes(),
            "lb.tls.key: {key} holds no private key in PEM (-----BEGIN PRIVATE KEY-----)",
        ),
        (
            "certificate",
            lambda _: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "lb.tls.certificate: {certificate} holds no valid certificate: ",
        ),
        ("key", lambda _: b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "cannot be used: "),
    ],
)
def test_each_mistake_has_its_sentence(
    made: Certificates, which: str, content: Callable[[Certificates], bytes], told: str
) -> None:
    """It names the key of the configuration and the file, and says what is allowed where that is not plain."""
    replace(getattr(made, which), content(made))
    assert told.format(key=made.key, certificate=made.certificate) in refusal(made)


def test_a_file_that_cannot_be_read_is_named(made: Certificates, tmp_path: Path) -> None:
    """Missing, or a directory."""
    made.key.unlink()
    assert refusal(made) == f"lb.tls.key: {made.key} cannot be read: No such file or directory"
    made.key.mkdir()
    assert refusal(made) == f"lb.tls.key: {made.key} cannot be read: Is a directory"
    made.certificate.unlink()
    assert refusal(made) == f"lb.tls.certificate: {made.certificate} cannot be read: No such file or directory"


def test_an_operator_is_told_of_a_certificate_that_ends_or_has_not_begun(made: Certificates) -> None:
    """Two weeks before its end, after it, and before its begin."""
    pair = load(files(made))
    assert pair.problem(pair.expires - 15 * DAY_S) == ""
    assert pair.problem(pair.expires - 13 * DAY_S) == f"the certificate expires on {day(pair.expires)}"
    assert pair.problem(pair.expires) == f"the certificate expired on {day(pair.expires)}: clients refuse it"
    assert "holds from" in pair.problem(pair.begins - 1)


def test_paths_are_relative_to_the_configuration(made: Certificates, tmp_path: Path) -> None:
    """As all paths in it are."""
    settings = Tls(certificate="tls.crt", key="tls.key")
    check(settings, tmp_path)
    shown, remarks = summary(settings, tmp_path)
    assert shown["lb.tls"].startswith("localhost 127.0.0.1 ::1, until ")
    assert (list(shown), remarks) == (["lb.tls"], [])
    with pytest.raises(CertificateError, match="cannot be read"):
        check(settings, tmp_path / "elsewhere")
    check(Tls(), tmp_path)
    assert summary(Tls(), tmp_path) == ({}, [])


def test_each_pair_is_told_by_its_place_in_the_configuration(made: Certificates, tmp_path: Path) -> None:
    """All that are wrong, and which names are in vain."""
    others = made.beside("more", "shop.example", "localhost")
    settings = Tls(
        certificate="tls.crt", key="tls.key", more=(TlsPair(certificate="more/tls.crt", key="more/tls.key"),)
    )
    shown, remarks = summary(settings, tmp_path)
    assert list(shown) == ["lb.tls", "lb.tls.more.0"]
    assert shown["lb.tls.more.0"].startswith("shop.example localhost, until ")
    assert remarks == ["lb.tls.more.0: who asks for localhost gets lb.tls, which comes first"]
    made.key.unlink()
    others.certificate.write_bytes(b"")
    assert [str(problem) for problem in problems(settings, tmp_path)] == [
        f"lb.tls.key: {made.key} cannot be read: No such file or directory",
        f"lb.tls.more.0.certificate: {others.certificate} is empty",
    ]


def test_a_change_is_seen_however_it_is_made(made: Certificates, tmp_path: Path) -> None:
    """Written again, replaced, touched, removed, and behind a symbolic link, as Kubernetes and certbot do it."""
    link = tmp_path / "live"
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        replace(tmp_path / name / "tls.crt", made.certificate.read_bytes())
    link.symlink_to("1")
    watched = Files(link / "tls.crt", made.key)
    seen = [watched.look()]

    def changed() -> bool:
        seen.append(watched.look())
        return seen[-1] != seen[-2]

    assert not changed()
    fresh = tmp_path / "fresh"
    fresh.symlink_to("2")
    fresh.replace(link)
    assert changed()
    os.utime(made.key, (1, 1))
    assert changed()
    replace(made.key, made.key.read_bytes())
    assert changed()
    made.key.unlink()
    assert changed()
    assert not changed()
