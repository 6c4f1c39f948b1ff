"""`pv evidence key|sign|verify`: who says so, on top of what the records say; and does a signed statement hold here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pv.cli.exit_codes import ExitCode
from pv.cli.here import project_here

if TYPE_CHECKING:
    from pv.contract.project import Project

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
NEW_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("private", type=NEW_FILE)
@click.argument("public", type=NEW_FILE)
def key(private: Path, public: Path) -> int:
    """Make a pair of ed25519 keys: PRIVATE signs and stays secret, PUBLIC verifies and may be committed.

    PRIVATE must lie outside of the project. Set PV_SIGN_PASSWORD to encrypt it. No file is ever overwritten. Needs the
    extra `sign`.

    \b
    Example
      pv evidence key ~/.config/pv/signing.pem pv-signing.pub
    """
    from pv.evidence import signing

    _refuse_inside(project_here(), private)
    try:
        signing.new_key(private, public)
    except signing.SigningError as why:
        raise click.UsageError(str(why)) from None
    except FileExistsError as taken:
        raise click.UsageError(f"{taken.filename} is there already, and keys are never overwritten") from None
    except OSError as wrong:
        click.echo(f"{wrong.filename}: {wrong.strerror}", err=True)
        return ExitCode.FAILURE
    click.echo(f"{private} signs: keep it secret. {public} verifies: give it to whoever reads.", err=True)
    return ExitCode.OK


@click.command()
@click.argument("statement", type=FILE)
@click.option("--key", "private", type=FILE, help="A private key, as a PEM file outside of the project.")
@click.option("--sigstore", is_flag=True, help="Sign by the identity of this CI job, or of you in a browser. Online.")
@click.option("--output", "-o", type=NEW_FILE, help="Where to; default STATEMENT with .dsse.json or .sigstore.json.")
def sign(statement: Path, private: Path | None, sigstore: bool, output: Path | None) -> int:
    """Sign STATEMENT: an export (`pv evidence export --format in-toto`), or a record's file. Needs the extra `sign`.

    With --key the result is a DSSE envelope, with --sigstore a sigstore bundle. A signature says who vouched for these
    bytes. It does not say that the runs happened as told: only running again does (`pv replay`).

    \b
    Examples
      pv evidence sign claims.intoto.json --key ~/.config/pv/signing.pem
      pv evidence sign claims.intoto.json --sigstore
    """
    from pv.evidence import signing

    if (private is None) == (not sigstore):
        raise click.UsageError("expected one of --key and --sigstore")
    payload = _statement(statement)
    try:
        if private is not None:
            _refuse_inside(project_here(), private)
            signed = signing.sign(payload, private)
        else:
            signed = signing.sign_by_identity(payload)
    except signing.SigningError as why:
        raise click.UsageError(str(why)) from None
    target = output or statement.with_suffix(".sigstore.json" if sigstore else ".dsse.json")
    target.write_bytes(signed)
    click.echo(f"{target}: signed, {len(payload)} bytes of {statement}", err=True)
    return ExitCode.OK


@click.command()
@click.argument("file", type=FILE)
@click.option("--key", "public", type=FILE, help="The public key that must have signed it.")
@click.option("--identity", metavar="WHO", help="Of a sigstore bundle: who must have signed it.")
@click.option("--issuer", metavar="URL", help="Of a sigstore bundle: who vouches for the identity.")
@click.option("--offline", is_flag=True, help="Of a sigstore bundle: trust the roots that were fetched before.")
def verify(file: Path, public: Path | None, identity: str | None, issuer: str | None, offline: bool) -> int:
    """Check that FILE, a statement or a signed one, holds of this tree: signature, digests of its subjects, results.

    Contracts, records and sources must be here, byte for byte; a model that is not on this machine is told. What the
    statement says of each claim is compared with what the records here support. No check is run.

    \b
    Exit codes: 0 it holds, 1 it does not, 2 a wrong call (a signed file needs --key, or --identity and --issuer).
    \b
    Examples
      pv evidence verify claims.intoto.json
      pv evidence verify claims.intoto.dsse.json --key pv-signing.pub
    """
    from pv.contract.load import load_all
    from pv.diagnostics.words import safe
    from pv.evidence import attestation, signing
    from pv.evidence.ledger import Ledger, open_contracts
    from pv.falsify.discovery import find_checks

    project = project_here()
    try:
        content, who = _opened(file, public, identity, issuer, offline=offline)
        ledger = Ledger.open(project, find_checks(project))
        contracts = open_contracts(load_all((), project))
        found = attestation.compare(content, project, contracts, ledger)
    except signing.NotInstalled as why:
        raise click.UsageError(str(why)) from None
    except (signing.SigningError, attestation.AttestationError) as why:
        click.echo(safe(f"{file}: {why}"))
        return ExitCode.FINDINGS
    ledger.sources.save()
    for finding in found.findings:
        click.echo(safe(finding))
    absent = f", {len(found.absent)} not on this machine ({', '.join(found.absent)})" if found.absent else ""
    holds = "does not hold" if found.findings else "holds"
    told = f", {found.told} of {found.claims} claims told of" if found.claims else ""
    click.echo(safe(f"{file} {holds} of this tree: {found.compared} subjects compared{absent}{told}; {who}"))
    return ExitCode.FINDINGS if found.findings else ExitCode.OK


def _opened(
    file: Path, public: Path | None, identity: str | None, issuer: str | None, *, offline: bool
) -> tuple[bytes, str]:
    """The statement in a file, after its signature was checked, and who signed it, in words."""
    from pv.evidence import signing

    content = file.read_bytes()
    if signing.is_bundle(content):
        if not identity or not issuer:
            raise click.UsageError(f"{file} is a sigstore bundle: say who must have signed it (--identity, --issuer)")
        signed = signing.verified_by_identity(content, identity, issuer, offline=offline)
        return signed, f"signed by {identity}"
    if signing.is_envelope(content):
        if public is None:
            raise click.UsageError(f"{file} is signed: say with which key (--key PUBLIC.pem)")
        return signing.verified(content, public), f"signed with the key of {public}"
    if public is not None or identity is not None:
        raise signing.SigningError("expected a signed file, found a statement without a signature, or a cut file")
    return content, "unsigned: it does not say who made it"


def _statement(file: Path) -> bytes:
    """The bytes to sign. Raises click.UsageError for a file that is no statement."""
    from pv.evidence import attestation

    content = file.read_bytes().removesuffix(b"\n")
    try:
        attestation.parsed(content)
    except attestation.AttestationError as why:
        raise click.UsageError(f"{file}: {why}") from None
    return content


def _refuse_inside(project: Project, private: Path) -> None:
    """A private key in a project is a private key in its repository, sooner or later."""
    if os.path.realpath(private).startswith(os.path.realpath(project.root) + os.sep):
        raise click.UsageError(f"{private} lies in the project: keep private keys out of the repository")
