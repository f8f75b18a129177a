"""Files of keys: what they may hold, and what is refused with a sentence that repeats no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fakes.tokens import Issuer, write_set
from orderflow_server.security.keys import public_keys, shared_secret
from orderflow_server.security.reloading import UnusableFile


def pem(
    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
) -> bytes:
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("private", "algorithm"),
    [
        (rsa.generate_private_key(65537, 2048), "RS256"),
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_algorithm_follows_from_the_key(
    tmp_path: Path, private: ec.EllipticCurvePrivateKey, algorithm: str
) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(pem(private))
    key = public_keys(path).current().key_for("any")
    assert key is not None
    assert key.algorithm_name == algorithm


def test_keys_for_encryption_are_left_out(tmp_path: Path) -> None:
    path = write_set(tmp_path / "keys.json", Issuer("a").jwk, Issuer("b").jwk | {"use": "enc"})
    keys = public_keys(path).current()
    assert keys.key_for("a") is not None
    assert keys.key_for("b") is None


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(UnusableFile) as caught:
        public_keys(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_private_key_is_refused(tmp_path: Path) -> None:
    issuer = Issuer("a")
    assert "private key" in refusal(
        tmp_path / "keys.json", json.dumps({"keys": [issuer.private_jwk]}).encode()
    )
    private = issuer._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    refusal(tmp_path / "keys.pem", private)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"{",
        b'{"keys": []}',
        b'{"keys": 1}',
        b'{"keys": [1]}',
        b'{"keys": [{}]}',
        b'{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}',
        b'{"keys": [{"kty": "EC", "crv": "P-257"}]}',
        b'{"keys": [{"kty": "oct", "k": "c2hvcnQ"}]}',
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        b"\xff\xfe",
        pem(rsa.generate_private_key(65537, 1024)),
        dsa.generate_private_key(2048)
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_name_of_the_file(
    tmp_path: Path, content: bytes
) -> None:
    refusal(tmp_path / "keys", content)


def test_a_set_that_cannot_be_used_is_not_repeated(tmp_path: Path) -> None:
    content = b'{"keys": [{"kty": "oct", "alg": "nonsense", "k": "canary4242"}]}'
    assert "canary4242" not in refusal(tmp_path / "keys", content)


def test_a_short_secret_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("hunter2" + " " * 32)
    with pytest.raises(UnusableFile, match="at least 32 bytes") as caught:
        shared_secret(path)
    assert "hunter2" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match="missing"):
        public_keys(tmp_path / "missing")
