"""Records on their way to another clone: whole or not at all, and there they earn the same."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from dataclasses import replace

import pytest

from pv.evidence import bundle as bundles
from pv.evidence.bundle import BundleError, export, import_
from pv.evidence.retract import retract
from pv.evidence.store import Store

ONE = "FALSIFY-TOY-001"


@pytest.fixture
def other(tmp_path):
    return Store(tmp_path / "other" / "evidence")


@pytest.fixture
def bundle(toy, tmp_path):
    """A bundle of one run with a log, and of what it follows."""
    store = toy.ledger.store
    store.add(toy.record())
    store.add(toy.record(run_id="second"), log=b"what happened\n")
    path = tmp_path / "records.zip"
    export(store, [toy.ledger.summaries[-1].digest], path)
    return path


def rewritten(path, change) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_another_clone_settles_to_the_same_bytes(toy, tmp_path):
    """The promise of bundles: same records, same contract."""
    toy.commit()
    clone = type(toy)(tmp_path / "clone")
    toy.run()
    toy.run("FALSIFY-TOY-002")
    retract(toy.ledger.store, toy.run("FALSIFY-TOY-002", run_id="x", value=0.5).digest, "wrong card")
    toy.settle()
    export(toy.ledger.store, [s.digest for s in toy.ledger.summaries], tmp_path / "b.zip")
    clone.commit()
    import_(clone.ledger.store, tmp_path / "b.zip")
    clone.settle(today="2031-01-01")
    assert clone.text == toy.text
    assert [s.digest for s in clone.ledger.summaries] == [s.digest for s in toy.ledger.summaries]


def test_the_same_records_make_the_same_bytes(toy, bundle, tmp_path):
    again = tmp_path / "again.zip"
    export(toy.ledger.store, reversed([s.digest for s in toy.ledger.summaries]), again)
    assert again.read_bytes() == bundle.read_bytes()


def test_what_a_record_follows_goes_with_it_and_so_does_its_log(toy, bundle, other):
    taken = import_(other, bundle)
    assert len(taken.new) == 2
    assert other.log_text(taken.new[0]) or other.log_text(taken.new[1])
    assert sorted(p.name for p in other.record_files()) == sorted(p.name for p in toy.ledger.store.record_files())


def test_a_second_import_is_harmless(bundle, other):
    import_(other, bundle)
    before = {p: p.read_bytes() for p in other.root.rglob("*") if p.is_file()}
    taken = import_(other, bundle)
    assert (taken.new, taken.known) == ((), 2)
    assert {p: p.read_bytes() for p in other.root.rglob("*") if p.is_file()} == before


def first_record(members) -> str:
    return next(name for name in members if name.startswith("records/"))


def put(name, content):
    return lambda members: members.update({name: content})


def edit(members):
    name = first_record(members)
    members[name] = members[name].replace(b'"value":1}', b'"value":0.999}', 1)


def drop(members):
    members.pop(first_record(members))


def drop_and_tell(members):
    name = sorted(n for n in members if n.startswith("records/"))
    manifest = json.loads(members["bundle.json"])
    for gone in name:
        if b'"previousRecord"' not in members[gone]:
            members.pop(gone)
            manifest["records"].remove("sha256:" + gone[8:72])
    members["bundle.json"] = json.dumps(manifest).encode()


def other_log(members):
    name = next(n for n in members if n.startswith("logs/"))
    members[name] = bundles.zipfile.zlib.compress(b"else")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (edit, "it was edited"),
        (drop, "lists other records"),
        (drop_and_tell, "neither in the bundle nor here"),
        (other_log, "expected gzip data"),
        (put("../../evil.json", b"x"), "found '../../evil.json'"),
        (put("/etc/passwd", b"x"), "found '/etc/passwd'"),
        (put("records/../x.json", b"x"), "expected records, logs"),
        (put("records/" + "0" * 64 + ".json", b"{}"), "expected _type"),
        (put("bundle.json", b"{}"), "expected bundle.json of type"),
        (put("bundle.json", b"not json"), "bundle.json"),
        (lambda members: members.pop("bundle.json"), "expected bundle.json of type"),
    ],
)
def test_a_bundle_with_one_bad_member_is_refused_whole(bundle, other, change, sentence):
    rewritten(bundle, change)
    with pytest.raises(BundleError) as refusal:
        import_(other, bundle)
    assert sentence in str(refusal.value)
    assert not other.root.exists()


def test_what_is_no_bundle_is_refused(other, tmp_path):
    path = tmp_path / "x.zip"
    for content in (b"", b"hello", b"PK\x03\x04 cut"):
        path.write_bytes(content)
        with pytest.raises(BundleError, match="expected a bundle"):
            import_(other, path)


def test_a_member_that_stands_twice_is_refused(bundle, other):
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr("bundle.json", b"{}")
    with pytest.raises(BundleError, match="stands twice"):
        import_(other, bundle)


def test_too_much_is_refused_before_it_is_unpacked(bundle, other, monkeypatch):
    monkeypatch.setattr(bundles, "MAX_TOTAL", 1000)
    with pytest.raises(BundleError, match="at most 1000 bytes unpacked"):
        import_(other, bundle)


def test_a_zip_bomb_is_refused(other, tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "MAX_TOTAL", 10_000_000)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"logs/{'0' * 64}.log.gz", bytes(bundles.MAX_TOTAL // 2 + 1))
        archive.writestr(f"logs/{'1' * 64}.log.gz", bytes(bundles.MAX_TOTAL // 2 + 1))
    with pytest.raises(BundleError, match="bytes unpacked"):
        import_(other, path)


def test_a_size_that_lies_is_refused(bundle, other):
    content = bytearray(bundle.read_bytes())
    buffer = io.BytesIO(bytes(content))
    with zipfile.ZipFile(buffer) as archive:
        info = archive.infolist()[0]
    at = content.rindex(info.filename.encode()) - 46 + 24  # the uncompressed size in the central directory
    content[at : at + 4] = (1).to_bytes(4, "little")
    bundle.write_bytes(bytes(content))
    with pytest.raises(BundleError):
        import_(other, bundle)


def test_an_unknown_digest_cannot_be_exported(toy, tmp_path):
    with pytest.raises(BundleError, match="found none"):
        export(toy.ledger.store, ["sha256:" + "0" * 64], tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


def test_a_record_that_contradicts_itself_is_refused(toy, other, bundle, tmp_path, monkeypatch):
    """A forger who makes digest, name and manifest fit still has to make the figures fit."""
    from pv.evidence import statement

    record = toy.record()
    forged = statement.to_bytes(replace(record, observed="if_fails"))
    digest = statement.digest(forged)

    def change(members):
        members.clear()
        members[f"records/{digest[7:]}.json"] = forged
        members["bundle.json"] = json.dumps({"type": bundles.BUNDLE_TYPE, "records": [digest]}).encode()

    rewritten(bundle, change)
    with pytest.raises(BundleError, match="contradicts itself"):
        import_(other, bundle)


def test_a_store_that_was_wiped_is_restored(toy, bundle):
    digests = {s.digest for s in toy.ledger.summaries}
    shutil.rmtree(toy.project.evidence)
    import_(toy.ledger.store, bundle)
    assert {s.digest for s in toy.ledger.summaries} == digests
