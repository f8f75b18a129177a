"""Bearer tokens: which are good, for how long, and what is said of the others."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from fakes.tokens import Issuer, write_set
from orderflow_server.security.errors import TokenExpired, TokenInvalid
from orderflow_server.security.keys import TokenKeys, public_keys, shared_secret
from orderflow_server.security.principal import Role
from orderflow_server.security.tokens import TokenOptions, TokenVerifier

ISSUER = Issuer()
NOW = time.time()
OPTIONS = TokenOptions(audience="orderflow", leeway_s=10.0)
FOR_US = {"aud": "orderflow", "exp": NOW + 60}


class World:
    """A verifier, its clock, and a file of keys."""

    def __init__(self, directory: Path, options: TokenOptions = OPTIONS, **changes: Any) -> None:
        self.path = directory / "keys.pem"
        self.path.write_bytes(ISSUER.pem)
        self.keys = public_keys(self.path)
        self.now = NOW
        self.asked = 0
        self.verifier = TokenVerifier(
            self._current, options=options, now=lambda: self.now, **changes
        )

    def _current(self) -> TokenKeys:
        self.asked += 1
        return self.keys.current()

    def refusal(self, token: str) -> str:
        with pytest.raises(TokenInvalid) as caught:
            self.verifier.identify(token)
        return str(caught.value)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_good_token_says_who_bears_it(world: World) -> None:
    identity = world.verifier.identify(ISSUER.token("alice", ["customer", "auditor", "gardener"]))
    assert identity.subject == "alice"
    assert identity.roles == {Role.CUSTOMER, Role.AUDITOR}


@pytest.mark.parametrize(
    ("claim", "roles"),
    [
        ("operator customer", {Role.OPERATOR, Role.CUSTOMER}),
        (["operator"], {Role.OPERATOR}),
        ([["operator"]], set()),
        ({"operator": True}, set()),
        (None, set()),
        ("OPERATOR", set()),
        ("operators", set()),
    ],
)
def test_roles_are_a_list_or_a_text(world: World, claim: Any, roles: set[Role]) -> None:
    assert world.verifier.identify(ISSUER.token(roles=claim)).roles == roles


def unsigned(claims: dict[str, Any]) -> str:
    return jwt.encode(claims, None, algorithm="none")  # type: ignore[arg-type]  # as an attacker does


def tampered(token: str) -> str:
    head, claims, signature = token.split(".")
    said = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    said["sub"] = "mallory"
    forged = base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")
    return f"{head}.{forged}.{signature}"


def signed_with_the_public_key_as_a_secret() -> str:
    """The classic: a verifier that believes the token's `alg` takes the public key for a secret."""
    with_pem = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').decode().rstrip("=")
    claims = base64.urlsafe_b64encode(json.dumps({"sub": "alice", **FOR_US}).encode())
    message = f"{with_pem}.{claims.decode().rstrip('=')}"
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
        message.encode(), ISSUER.pem
    )
    return f"{message}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


BAD: dict[str, tuple[str, str]] = {
    "another key": (Issuer().token(), "signed by nobody known here"),
    "another key's name": (Issuer("k1").token(), "signed by nobody known here"),
    "a subject changed afterwards": (tampered(ISSUER.token()), "signed by nobody known here"),
    "no signature": (unsigned({"sub": "alice", **FOR_US}), "not one for this service"),
    "the public key as a secret": (
        signed_with_the_public_key_as_a_secret(),
        "not one for this service",
    ),
    "another audience": (ISSUER.token(aud="billing"), "another audience"),
    "no audience": (ISSUER.token(aud=None), "lacks the claim aud"),
    "no end": (ISSUER.token(exp=None), "lacks the claim exp"),
    "no subject": (ISSUER.token(None), "lacks the claim sub"),
    "an empty subject": (ISSUER.token(""), "not one for this service"),
    "a subject that is no text": (ISSUER.token(sub=["alice"]), "not one for this service"),
    "an end that is no number": (ISSUER.token(exp="4102444800"), "not one for this service"),
    "an end that never comes": (ISSUER.token(exp=float("nan")), "not one for this service"),
    "an end too far away": (ISSUER.token(exp=10**400), "not one for this service"),
    "not yet": (ISSUER.token(nbf=NOW + 60), "not valid yet"),
    "nonsense": ("nonsense", "not a token"),
    "nothing": ("", "not a token"),
    "three times nothing": ("..", "not a token"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_token_is_refused_with_a_reason(world: World, name: str) -> None:
    token, reason = BAD[name]
    assert reason in world.refusal(token)
    # And again: a refusal is not what is remembered.
    assert reason in world.refusal(token)


def test_a_refusal_repeats_nothing_of_the_token(world: World) -> None:
    canary = "canary4242"
    for token in (
        Issuer(canary).token(canary, [canary]),
        ISSUER.token(canary, aud=canary, iss=canary),
        canary,
        f"{canary}.{canary}.{canary}",
    ):
        assert canary not in world.refusal(token)


def test_an_issuer_that_is_asked_for_must_be_named(tmp_path: Path) -> None:
    world = World(tmp_path, TokenOptions(audience="orderflow", issuer="https://id.example"))
    assert "lacks the claim iss" in world.refusal(ISSUER.token())
    assert "another issuer" in world.refusal(ISSUER.token(iss="https://other.example"))
    assert world.verifier.identify(ISSUER.token(iss="https://id.example")).subject == "alice"


def test_a_token_ends_when_it_says_with_some_leeway_though_it_is_remembered(world: World) -> None:
    token = ISSUER.token(exp=NOW + 60)
    world.verifier.identify(token)
    world.now = NOW + 69.9
    world.verifier.identify(token)
    world.now = NOW + 70
    with pytest.raises(TokenExpired):
        world.verifier.identify(token)
    with pytest.raises(TokenExpired):
        world.verifier.identify(token)


def test_a_token_begins_when_it_says_with_some_leeway(world: World) -> None:
    token = ISSUER.token(nbf=NOW + 60)
    world.now = NOW + 49
    world.refusal(token)
    world.now = NOW + 51
    world.verifier.identify(token)


def test_a_signature_is_verified_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    token = ISSUER.token()
    first = world.verifier.identify(token)
    monkeypatch.setattr(jwt, "decode", None)
    assert world.verifier.identify(token) is first


def test_only_so_many_tokens_are_remembered(tmp_path: Path) -> None:
    world = World(tmp_path, max_remembered=3)
    for number in range(10):
        world.verifier.identify(ISSUER.token(f"c{number}"))
    assert len(world.verifier._remembered) == 3


def test_a_key_that_is_withdrawn_no_longer_counts_even_for_what_is_remembered(
    world: World,
) -> None:
    token, following = ISSUER.token(), Issuer()
    world.verifier.identify(token)
    world.path.write_bytes(following.pem + b"\n")
    world.now += 1.0
    world.refusal(token)
    assert world.verifier.identify(following.token("bob")).subject == "bob"


def test_the_file_is_looked_at_once_a_second(world: World) -> None:
    token = ISSUER.token()
    before = world.asked
    for _ in range(100):
        world.now += 0.1
        world.verifier.identify(token)
    assert world.asked - before in range(8, 12)


def test_of_a_set_the_key_is_the_one_that_the_token_names(tmp_path: Path) -> None:
    old, new = Issuer("2025"), Issuer("2026")
    keys = public_keys(write_set(tmp_path / "keys.json", old.jwk, new.jwk))
    verifier = TokenVerifier(keys.current, options=OPTIONS)
    assert verifier.identify(old.token("a")).subject == "a"
    assert verifier.identify(new.token("b")).subject == "b"
    old.key_id = "2026"
    with pytest.raises(TokenInvalid):
        verifier.identify(old.token("a"))
    new.key_id = None
    with pytest.raises(TokenInvalid):
        verifier.identify(new.token("b"))


def test_a_shared_secret_signs_hs256_and_nothing_else(tmp_path: Path) -> None:
    secret = "0123456789abcdef0123456789abcdef" * 2
    path = tmp_path / "secret"
    path.write_text(secret + "\n")
    verifier = TokenVerifier(shared_secret(path).current, options=OPTIONS)
    assert verifier.identify(ISSUER.token(algorithm="HS256", key=secret)).subject == "alice"
    for algorithm, key in (("HS512", secret), ("HS256", secret[1:] + "x")):
        with pytest.raises(TokenInvalid):
            verifier.identify(ISSUER.token(algorithm=algorithm, key=key))
    with pytest.raises(TokenInvalid):
        verifier.identify(ISSUER.token())
