"""A statement and a key (or an identity) -> a signed file; that file and a public key -> the statement, or a refusal.

With a key: a DSSE envelope, through securesystemslib. With an identity: a sigstore bundle, through sigstore, which
needs the network. Neither is imported before it is asked for; the extra `sign` brings both.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PAYLOAD_TYPE = "application/vnd.in-toto+json"
PASSWORD = "PV_SIGN_PASSWORD"  # noqa: S105 - the name of a variable
EXTRA = "signing needs an extra: pip install 'provable-contracts-pv[sign]'"


class SigningError(ValueError):
    """It cannot be signed, or its signature does not hold; the sentence says why."""


class NotInstalled(SigningError):  # noqa: N818 - it says what is the case
    """The library for it is not there."""


def new_key(private: Path, public: Path) -> None:
    """Write a new pair of ed25519 keys as PEM files; the private one is for its owner's eyes only.

    Raises FileExistsError, so that no key is ever overwritten.
    """
    with _libraries():
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    password = os.environ.get(PASSWORD, "").encode()
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    key = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, protection)
    open_part = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    for path, content, mode in ((private, secret, 0o600), (public, open_part, 0o644)):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)


def sign(payload: bytes, key: Path) -> bytes:
    """The DSSE envelope of a statement, signed with the private key in a PEM file. Raises SigningError."""
    with _libraries():
        from securesystemslib.dsse import Envelope
        from securesystemslib.signer import CryptoSigner
    try:
        signer = CryptoSigner(_private_key(key))
    except ValueError as wrong:
        raise SigningError(f"{key}: expected a key that securesystemslib signs with: {wrong}") from None
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return json.dumps(envelope.to_dict(), indent=1, sort_keys=True).encode() + b"\n"


def verified(content: bytes, key: Path) -> bytes:
    """The payload of an envelope that the key signed. Raises SigningError: it is none, or another key signed it."""
    with _libraries():
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
        from securesystemslib.exceptions import UnverifiedSignatureError
        from securesystemslib.signer import SSlibKey
    envelope = _envelope(content)
    try:
        public = SSlibKey.from_crypto(load_pem_public_key(key.read_bytes()))
    except (ValueError, UnsupportedAlgorithm) as wrong:
        raise SigningError(f"{key}: expected a public key in PEM form: {wrong}") from None
    for signature in envelope.signatures.values():  # a key id is a hint; the key decides
        try:
            public.verify_signature(signature, envelope.pae())
        except UnverifiedSignatureError:
            continue
        return bytes(envelope.payload)
    raise SigningError(f"expected a signature by {key}, found none of it: another key signed this, or it was changed")


def is_envelope(content: bytes) -> bool:
    """Whether the bytes are meant to be a DSSE envelope."""
    data = _json(content)
    return isinstance(data, dict) and "payloadType" in data


def is_bundle(content: bytes) -> bool:
    """Whether the bytes are meant to be a sigstore bundle."""
    data = _json(content)
    return isinstance(data, dict) and "verificationMaterial" in data


def sign_by_identity(payload: bytes) -> bytes:
    """The sigstore bundle of a statement, by the identity of this CI job, or of who answers in a browser. Online."""
    with _libraries():
        from sigstore.dsse import Statement
        from sigstore.errors import Error as StatementError
        from sigstore.models import ClientTrustConfig
        from sigstore.oidc import IdentityToken, Issuer, detect_credential
        from sigstore.sign import SigningContext
    try:
        statement = Statement(payload)
        trust = ClientTrustConfig.production()
        token = detect_credential()
        issuer = Issuer(trust.signing_config.get_oidc_url())
        identity = IdentityToken(token) if token else issuer.identity_token()
        with SigningContext.from_trust_config(trust).signer(identity) as signer:
            return str(signer.sign_dsse(statement).to_json()).encode() + b"\n"
    except StatementError as wrong:
        raise SigningError(f"sigstore takes no such statement: {wrong}; sign an export, or use a key") from None
    except Exception as wrong:  # network, identity, service: sigstore has no common family for them
        raise SigningError(f"sigstore did not sign: {type(wrong).__name__}: {wrong}") from wrong


def verified_by_identity(content: bytes, identity: str, issuer: str, *, offline: bool = False) -> bytes:
    """The payload of a bundle that this identity signed. `offline` trusts the roots that were fetched before."""
    with _libraries():
        from sigstore.models import Bundle
        from sigstore.verify import Verifier, policy
    try:
        bundle = Bundle.from_json(content)
        kind, payload = Verifier.production(offline=offline).verify_dsse(
            bundle, policy.Identity(identity=identity, issuer=issuer)
        )
    except Exception as wrong:  # as above; whatever it is, the signature is not known to hold
        raise SigningError(f"the bundle does not hold: {type(wrong).__name__}: {wrong}") from wrong
    if kind != PAYLOAD_TYPE:
        raise SigningError(f"expected a payload of type {PAYLOAD_TYPE}, found {kind!r}")
    return bytes(payload)


# --- helpers ---------------------------------------------------------------------------------------------------------


@contextmanager
def _libraries() -> Iterator[None]:
    try:
        yield
    except ImportError as missing:
        raise NotInstalled(f"{EXTRA} ({missing})") from None


def _private_key(path: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    password = os.environ.get(PASSWORD, "").encode() or None
    content = path.read_bytes()
    try:
        return load_pem_private_key(content, password if b"ENCRYPTED" in content else None)
    except TypeError:
        raise SigningError(f"{path} is encrypted: put its password into {PASSWORD}") from None
    except (ValueError, UnsupportedAlgorithm) as wrong:
        raise SigningError(f"{path}: expected a private key in PEM form: {wrong}") from None


def _envelope(content: bytes) -> Any:
    from securesystemslib.dsse import Envelope

    data = _json(content)
    if not isinstance(data, dict):
        raise SigningError("expected a DSSE envelope, found no JSON object: it was cut, or is another file")
    try:
        envelope = Envelope.from_dict(data)
    except Exception as wrong:  # it was written for trusted input: KeyError, TypeError, AttributeError, binascii.Error
        raise SigningError(f"expected a DSSE envelope: {type(wrong).__name__}: {wrong}") from None
    if envelope.payload_type != PAYLOAD_TYPE:
        raise SigningError(f"expected a payload of type {PAYLOAD_TYPE}, found {envelope.payload_type!r}")
    return envelope


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
