"""A signature holds for the bytes, the type and the key it was made with, and for nothing else."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("securesystemslib", reason="the extra `sign` is not installed")
pytest.importorskip("cryptography", reason="the extra `sign` is not installed")

from pv.evidence import signing
from pv.evidence.signing import PASSWORD, NotInstalled, SigningError, new_key, sign, verified

PAYLOAD = b'{"_type":"https://in-toto.io/Statement/v1"}'


@pytest.fixture
def keys(tmp_path):
    new_key(tmp_path / "key.pem", tmp_path / "key.pub")
    return tmp_path / "key.pem", tmp_path / "key.pub"


def edited(envelope, **changes):
    data = json.loads(envelope)
    data.update(changes)
    return json.dumps(data).encode()


def b64(content):
    return base64.b64encode(content).decode()


def test_what_was_signed_comes_back(keys):
    envelope = sign(PAYLOAD, keys[0])
    assert verified(envelope, keys[1]) == PAYLOAD
    assert signing.is_envelope(envelope)
    assert not signing.is_envelope(PAYLOAD)
    assert not signing.is_bundle(envelope)


def test_it_is_dsse_as_openssl_sees_it(keys, tmp_path):
    """The signature over the pre-authentication encoding of the specification, checked by other code."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = json.loads(sign(PAYLOAD, keys[0]))
    kind = data["payloadType"].encode()
    pae = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(PAYLOAD), PAYLOAD)
    load_pem_public_key(keys[1].read_bytes()).verify(base64.b64decode(data["signatures"][0]["sig"]), pae)
    assert base64.b64decode(data["payload"]) == PAYLOAD
    assert kind == b"application/vnd.in-toto+json"


def test_a_private_key_is_for_its_owner_and_is_never_overwritten(keys):
    assert os.stat(keys[0]).st_mode & 0o777 == 0o600
    before = keys[0].read_bytes()
    with pytest.raises(FileExistsError):
        new_key(*keys)
    assert keys[0].read_bytes() == before


def test_another_payload_under_the_same_signature_is_refused(keys):
    envelope = sign(PAYLOAD, keys[0])
    with pytest.raises(SigningError, match="another key signed this, or it was changed"):
        verified(edited(envelope, payload=b64(PAYLOAD + b" ")), keys[1])


def test_a_signature_of_another_envelope_is_refused(keys):
    mine, other = sign(PAYLOAD, keys[0]), sign(PAYLOAD.replace(b"v1", b"v2"), keys[0])
    with pytest.raises(SigningError, match="found none of it"):
        verified(edited(mine, signatures=json.loads(other)["signatures"]), keys[1])


def test_another_key_is_refused_even_under_the_same_key_id(keys, tmp_path):
    new_key(tmp_path / "b.pem", tmp_path / "b.pub")
    mine, other = sign(PAYLOAD, keys[0]), json.loads(sign(PAYLOAD, tmp_path / "b.pem"))
    other["signatures"][0]["keyid"] = json.loads(mine)["signatures"][0]["keyid"]
    with pytest.raises(SigningError, match="found none of it"):
        verified(json.dumps(other).encode(), keys[1])
    with pytest.raises(SigningError, match="found none of it"):
        verified(mine, tmp_path / "b.pub")


def test_another_type_of_payload_is_refused(keys):
    with pytest.raises(SigningError, match=r"expected a payload of type application/vnd\.in-toto"):
        verified(edited(sign(PAYLOAD, keys[0]), payloadType="text/plain"), keys[1])


def test_one_good_signature_among_others_is_enough(keys, tmp_path):
    new_key(tmp_path / "b.pem", tmp_path / "b.pub")
    both = [json.loads(sign(PAYLOAD, key))["signatures"][0] for key in (tmp_path / "b.pem", keys[0])]
    assert verified(edited(sign(PAYLOAD, keys[0]), signatures=both), keys[1]) == PAYLOAD
    with pytest.raises(SigningError):
        verified(edited(sign(PAYLOAD, keys[0]), signatures=both[:1]), keys[1])


def test_a_cut_envelope_is_refused_at_every_length(keys):
    envelope = sign(PAYLOAD, keys[0])
    for length in range(len(envelope.rstrip())):
        with pytest.raises(SigningError):
            verified(envelope[:length], keys[1])


def test_every_flipped_bit_of_the_signature_is_refused(keys):
    envelope = json.loads(sign(PAYLOAD, keys[0]))
    good = base64.b64decode(envelope["signatures"][0]["sig"])
    for place in range(0, len(good) * 8, 7):
        bad = bytearray(good)
        bad[place // 8] ^= 1 << place % 8
        envelope["signatures"][0]["sig"] = b64(bytes(bad))
        with pytest.raises(SigningError):
            verified(json.dumps(envelope).encode(), keys[1])


@pytest.mark.parametrize(
    "change",
    [
        {"signatures": []},
        {"signatures": [{}]},
        {"signatures": "x"},
        {"signatures": None},
        {"signatures": [{"keyid": "a", "sig": "!"}]},
        {"payload": "!"},
        {"payload": None},
        {"payloadType": None},
        {"payloadType": []},
    ],
)
def test_a_malformed_envelope_is_a_refusal_and_no_crash(keys, change):
    with pytest.raises(SigningError):
        verified(edited(sign(PAYLOAD, keys[0]), **change), keys[1])


def test_what_is_no_key_is_said(keys, tmp_path):
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("-----BEGIN NOTHING-----\n")
    with pytest.raises(SigningError, match="expected a private key in PEM form"):
        sign(PAYLOAD, nothing)
    with pytest.raises(SigningError, match="expected a private key in PEM form"):
        sign(PAYLOAD, keys[1])
    with pytest.raises(SigningError, match="expected a public key in PEM form"):
        verified(sign(PAYLOAD, keys[0]), keys[0])


def test_an_encrypted_key_wants_its_password(tmp_path, monkeypatch):
    monkeypatch.setenv(PASSWORD, "tr0ub4dor")
    new_key(tmp_path / "key.pem", tmp_path / "key.pub")
    assert b"ENCRYPTED" in (tmp_path / "key.pem").read_bytes()
    assert verified(sign(PAYLOAD, tmp_path / "key.pem"), tmp_path / "key.pub") == PAYLOAD
    monkeypatch.setenv(PASSWORD, "wrong")
    with pytest.raises(SigningError):
        sign(PAYLOAD, tmp_path / "key.pem")
    monkeypatch.delenv(PASSWORD)
    with pytest.raises(SigningError, match=f"put its password into {PASSWORD}"):
        sign(PAYLOAD, tmp_path / "key.pem")


def test_a_key_of_another_kind_signs_too(tmp_path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (tmp_path / "a.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "a.pub").write_bytes(public)
    assert verified(sign(PAYLOAD, tmp_path / "a.pem"), tmp_path / "a.pub") == PAYLOAD


@pytest.mark.parametrize("library", ["securesystemslib", "cryptography"])
def test_without_the_extra_it_says_what_to_install(library, keys, monkeypatch):
    envelope = sign(PAYLOAD, keys[0])
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(NotInstalled, match=r"pip install 'provable-contracts-pv\[sign\]'"):
        verified(envelope, keys[1])


def test_nothing_of_it_is_imported_before_it_is_asked_for():
    names = "('securesystemslib', 'cryptography', 'sigstore')"
    code = f"import sys, pv.cli.evidence; print([n for n in sys.modules if n.split('.')[0] in {names}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- by identity: what can be tried without a network ----------------------------------------------------------------


def test_sigstore_takes_an_export_and_says_why_not_a_record(monkeypatch):
    pytest.importorskip("sigstore", reason="the extra `sign` is not installed")
    from sigstore.models import ClientTrustConfig

    def offline(*_, **__):
        raise OSError("no network here")

    monkeypatch.setattr(ClientTrustConfig, "production", offline)
    subject = {"name": "a", "digest": {"sha256": "0" * 64}, "annotations": {"kind": "source"}}
    export = {"_type": "https://in-toto.io/Statement/v1", "subject": [subject], "predicateType": "t", "predicate": {}}
    with pytest.raises(SigningError, match="sigstore did not sign: OSError: no network here"):
        signing.sign_by_identity(json.dumps(export).encode())
    export["subject"] = [{"name": "git", "digest": {"gitCommit": "1" * 40}}]
    with pytest.raises(SigningError, match="sigstore takes no such statement"):
        signing.sign_by_identity(json.dumps(export).encode())


def test_a_bundle_that_is_none_does_not_hold():
    pytest.importorskip("sigstore", reason="the extra `sign` is not installed")
    with pytest.raises(SigningError, match="the bundle does not hold"):
        signing.verified_by_identity(b'{"verificationMaterial": {}}', "a@example.org", "https://example.org")
