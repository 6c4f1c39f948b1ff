"""`pv validate` as a user runs it: output, exit codes, fixes, and what it must not load or do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from pv.cli.main import pv as program
from pv.cli.validate import Options, run
from tests.contract.samples import SOUND

CORPUS = Path(__file__).parents[2].parent / "shared" / "corpus"
BROKEN = SOUND.replace("    prediction:", "    predicton:")


def validate(*arguments: str, **environment: str):
    return CliRunner().invoke(program, ["validate", *map(str, arguments)], env=environment)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that we stand in, outside of any project."""
    for name in ("PV_PROFILE", "PV_CONTRACTS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, name: str, text: str = SOUND) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


# ------------------------------------------------------------------------------------------ what is said


def test_one_sound_contract_says_what_users_of_the_reference_look_for(folder):
    done = validate(write(folder, "x-v1.yaml"))
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "0 error(s), 0 warning(s)",
        "Contract is valid.",
        "1 contract, 1 falsifier, 1 harness: 2 unbound; 0 errors, 0 warnings",
    ]


@pytest.mark.parametrize(
    ("text", "noun"),
    [
        ("version: 1.0.0\ntarget_crate: c\nbindings: []\n", "Binding registry (kind: binding)"),
        ("model_id: m\nprovenance: {a: b}\n", "Publish manifest (kind: publish-manifest)"),
    ],
)
def test_other_artefacts_are_named(folder, text, noun):
    assert f"{noun} is valid." in validate(write(folder, "x.yaml", text)).output


def test_a_finding_has_place_excerpt_caret_and_fix(folder):
    write(folder, "x-v1.yaml", BROKEN)
    output = validate("x-v1.yaml").output
    line = BROKEN[: BROKEN.index("predicton")].count("\n") + 1
    assert f"x-v1.yaml:{line}:5  PV203 error  unknown key `predicton`, did you mean `prediction`?" in output
    assert "    predicton: a minus b is 0" in output
    assert "^^^^^^^^^" in output
    assert "falsification_tests[0] (FALSIFY-SOUND-001)" in output
    assert "rename the key to `prediction` (`pv validate --fix`)" in output
    assert "1 error(s), 0 warning(s)" in output
    assert "Contract is valid." not in output
    assert output.splitlines()[-1] == "1 contract, 1 falsifier, 1 harness: 2 unbound; 1 error, 0 warnings"


def test_several_files_have_one_denominator_and_no_verdict_of_one(folder):
    write(folder, "c/a-v1.yaml")
    write(folder, "c/b-v1.yaml", SOUND.replace("-SOUND-", "-B-"))
    output = validate("c").output
    assert output.splitlines() == ["2 contracts, 2 falsifiers, 2 harnesses: 4 unbound; 0 errors, 0 warnings"]


def test_left_out_files_are_told_on_the_other_stream(folder):
    write(folder, "c/a-v1.yaml")
    write(folder, "c/compose.yaml", "services: {}\n")
    done = validate("c")
    assert "left out" not in done.stdout
    assert "1 YAML files that are no contracts were left out" in done.stderr


# ------------------------------------------------------------------------------------------ exit codes


@pytest.mark.parametrize(
    ("arguments", "text", "code"),
    [
        ([], SOUND, 0),
        ([], BROKEN, 1),
        (["--exit-zero"], BROKEN, 0),
        (["--fail-on", "never"], BROKEN, 0),
        (["--fail-on", "warning"], SOUND.replace("version: 1.2.0", "version: next"), 1),
        ([], SOUND.replace("version: 1.2.0", "version: next"), 0),
        (["--ignore", "PV203,PV602"], BROKEN, 0),
        (["--select", "PV6"], BROKEN, 0),
        (["--select", "pv2"], BROKEN, 1),
        ([], "[1", 1),
        ([], "services: {}\n", 1),
    ],
)
def test_findings_decide(folder, arguments, text, code):
    write(folder, "x-v1.yaml", text)
    assert validate("x-v1.yaml", *arguments).exit_code == code


@pytest.mark.parametrize("more", [[], ["--exit-zero"], ["--fail-on", "never"]])
def test_zero_files_is_five_whatever_was_asked(folder, more):
    assert validate(*more).exit_code == 5
    assert validate("nowhere.yaml", *more).exit_code == 5


def test_settings_that_cannot_be_used_are_two(folder):
    write(folder, "pyproject.toml", "[tool.pv]\nprofil = 'strict'\n")
    done = validate(write(folder, "x-v1.yaml"))
    assert done.exit_code == 2
    assert "did you mean `profile`?" in done.output


def test_an_unknown_option_or_format_is_two(folder):
    assert validate("--frobnicate").exit_code == 2
    assert validate("--output-format", "xml").exit_code == 2


def test_bad_files_are_one_clear_finding_each_within_a_second(folder):
    write(folder, "good-v1.yaml")
    (folder / "brackets.yaml").write_bytes(b"[" * 100_000)
    (folder / "huge.yaml").write_bytes(b"a: 1\n" * (20 << 20))
    (folder / "nul.yaml").write_bytes(b"a: \x00")
    (folder / "latin.yaml").write_bytes(b"a: \xe9")
    (folder / "two.yaml").write_bytes(b"a: 1\n---\nb: 1\n")
    (folder / "empty.yaml").touch()
    (folder / "object.yaml").write_text("!!python/object/apply:os.system ['touch ran']\n")
    (folder / "dir.yaml").mkdir()
    os.mkfifo(folder / "pipe.yaml")
    names = sorted(path.name for path in folder.iterdir())
    began = time.perf_counter()
    done = validate(*names, "--output-format", "json")
    assert time.perf_counter() - began < 5
    found = {each["path"]: each["code"] for each in json.loads(done.stdout)["diagnostics"]}
    assert found == {
        "brackets.yaml": "PV107", "huge.yaml": "PV102", "nul.yaml": "PV104", "latin.yaml": "PV103", "two.yaml": "PV106",
        "empty.yaml": "PV106", "object.yaml": "PV110", "dir.yaml": "PV190", "pipe.yaml": "PV101",
    }  # fmt: skip
    assert not (folder / "ran").exists()
    assert "Traceback" not in done.output


# ------------------------------------------------------------------------------------------ settings


def test_the_project_is_that_of_the_paths_not_of_the_caller(folder):
    write(folder, "here/pyproject.toml", '[tool.pv]\nprofile = "strict"\n')
    text = SOUND.replace("    status: UNBOUND\n", "")
    write(folder, "there/x-v1.yaml", text)
    write(folder, "here/x-v1.yaml", text)
    os.chdir(folder / "here")
    assert validate("../there/x-v1.yaml").exit_code == 0, "other people's files are judged by their own settings"
    assert "PV409" in validate("x-v1.yaml").output


def test_profile_by_option_and_variable(folder):
    path = write(folder, "x-v1.yaml", SOUND.replace("    status: UNBOUND\n", ""))
    assert validate(path).exit_code == 0
    assert validate(path, "--profile", "strict").exit_code == 1
    assert validate(path, PV_PROFILE="strict").exit_code == 1
    assert validate(path, "--profile", "compat", PV_PROFILE="strict").exit_code == 0


def test_without_paths_the_contracts_of_the_project(folder):
    write(folder, "pyproject.toml", '[tool.pv]\ncontracts = ["claims/*.yaml"]\n')
    write(folder, "claims/x-v1.yaml")
    assert "1 contract, " in validate().output


# ------------------------------------------------------------------------------------------ formats


@pytest.mark.parametrize("name", ["text", "json", "sarif", "github", "junit"])
def test_formats_are_pure_on_standard_output_and_in_a_file(folder, name):
    write(folder, "c/x-v1.yaml", BROKEN)
    write(folder, "c/compose.yaml", "services: {}\n")
    done = validate("c", "--output-format", name)
    assert done.exit_code == 1
    quiet = validate("c", "--output-format", name, "--output-file", "out")
    assert (quiet.exit_code, quiet.stdout) == (1, "")
    assert (folder / "out").read_text("utf-8") == done.stdout
    if name == "json":
        data = json.loads(done.stdout)
        assert data["summary"]["contracts"] == 1
        assert data["diagnostics"][0]["code"] == "PV203"
    elif name == "sarif":
        (result,) = json.loads(done.stdout)["runs"]
        assert [each["ruleId"] for each in result["results"]] == ["PV203"]
        assert [rule["id"] for rule in result["tool"]["driver"]["rules"]] == ["PV203"]
    elif name == "github":
        assert done.stdout.startswith("::error ")
    elif name == "junit":
        assert ElementTree.fromstring(done.stdout).get("failures") == "1"


def test_sarif_is_valid_by_the_schema_of_oasis(folder):
    import jsonschema

    schema = json.loads((Path(__file__).parents[1] / "data" / "sarif-schema-2.1.0.json").read_text("utf-8"))
    write(folder, "x-v1.yaml", BROKEN + "1: x\n")
    write(folder, "bad.yaml", "[1")
    done = validate(".", "--output-format", "sarif")
    jsonschema.Draft7Validator(schema).validate(json.loads(done.stdout))


def test_a_file_that_cannot_be_written_is_said(folder):
    done = validate(write(folder, "x-v1.yaml"), "--output-file", "no/such/folder")
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    assert "no/such/folder" in done.output


def test_colour_is_asked_for_or_forbidden(folder):
    write(folder, "x-v1.yaml", BROKEN)
    assert "\x1b[" in validate("x-v1.yaml", "--color", "always").output
    assert "\x1b[" not in validate("x-v1.yaml", "--color", "never", FORCE_COLOR="1").output
    assert "\x1b[" in validate("x-v1.yaml", FORCE_COLOR="1").output
    assert "\x1b[" not in validate("x-v1.yaml", NO_COLOR="1").output


# ------------------------------------------------------------------------------------------ --fix


def test_fixes_are_applied_and_nothing_else_is_touched(folder):
    text = (
        BROKEN.replace("tolerance: 1.0e-6", "tolerance: 1e-6   # tight")
        .replace("metadata:", "# a head\nmetadata:", 1)
        .replace("type: invariant", "type: invarient")
        + "verification_summary: {total_obligations: 9}\n"
    )
    path = write(folder, "x-v1.yaml")
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    done = validate(path, "--fix")
    assert done.exit_code == 0, done.output
    assert "4 fixes in 1 files" in done.stderr
    wanted = (
        SOUND.replace("tolerance: 1.0e-6", "tolerance: 1.0e-6   # tight").replace("metadata:", "# a head\nmetadata:", 1)
        + "verification_summary: {total_obligations: 1}\n"
    )
    assert path.read_bytes() == b"\xef\xbb\xbf" + wanted.replace("\n", "\r\n").encode()
    assert "nothing to fix" in validate(path, "--fix").stderr


def test_a_status_and_a_binding_are_never_guessed(folder):
    text = SOUND.replace("[parity, PO-1]", "[paritty, PO-1]").replace("status: UNBOUND", "status: FUNCTONAL", 1)
    path = write(folder, "x-v1.yaml", text)
    assert "nothing to fix" in validate(path, "--fix").stderr
    assert path.read_text() == text


def test_fixes_of_ignored_codes_are_not_applied(folder):
    path = write(folder, "x-v1.yaml", BROKEN)
    validate(path, "--fix", "--ignore", "PV203")
    assert path.read_text() == BROKEN


def test_other_peoples_files_in_a_folder_are_not_fixed(folder):
    text = "services:\n  tolerance: 1e-6\n"
    path = write(folder, "c/compose.yaml", text)
    write(folder, "c/x-v1.yaml")
    validate("c", "--fix")
    assert path.read_text() == text


def test_two_slips_in_one_place_do_not_break_the_file(folder):
    text = SOUND.replace("    rule: a is b\n    prediction:", "    predicton: x\n    predction:")
    path = write(folder, "x-v1.yaml", text)
    validate(path, "--fix")
    assert path.read_text() == text, "which of the two is meant is not for us to say"


@pytest.mark.skipif(not CORPUS.is_dir(), reason=f"the corpus of real contracts is not at {CORPUS}")
def test_fixing_the_corpus_changes_data_only_where_a_finding_says_so(folder):
    shutil.copytree(CORPUS, folder / "corpus")
    done = validate("corpus", "--fix", "--select", "PV118")
    assert done.exit_code == 0
    changed = [
        path.name
        for path in (folder / "corpus").rglob("*.yaml")
        if path.read_bytes() != (CORPUS / path.relative_to(folder / "corpus")).read_bytes()
    ]
    assert len(changed) == 13, changed
    import yaml

    for path in (folder / "corpus").rglob("*.yaml"):
        from pv.document.reader import read

        before, after = read(CORPUS / path.relative_to(folder / "corpus")), read(path)
        assert before.data == after.data, path
        yaml.load(path.read_bytes(), yaml.CSafeLoader)


# ------------------------------------------------------------------------------------------ --against, --watch


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_a_version_that_is_too_small_is_fixed_against_a_revision(folder):
    path = write(folder, "contracts/x-v1.yaml", SOUND.replace("version: 1.2.0", "version: '1.2.0'"))
    write(folder, "pyproject.toml", '[tool.pv]\nprofile = "compat"\n')
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "start")
    added = path.read_text().replace("proof_obligations:\n", "proof_obligations:\n  - {id: PO-2, property: more}\n")
    path.write_text(added)
    assert validate("contracts", "--against", "HEAD").exit_code == 1
    assert "nothing to fix" in validate("contracts", "--fix").stderr  # no revision, nothing to compare with
    done = validate("contracts", "--against", "HEAD", "--fix")
    assert "1 fixes in 1 files" in done.stderr
    assert path.read_text() == added.replace("'1.2.0'", "'1.3.0'")


def test_against_a_revision(folder):
    path = write(folder, "contracts/x-v1.yaml")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    assert validate("contracts", "--against", "HEAD").exit_code == 0
    path.write_text(SOUND.replace("value: 0.5", "value: 0.75"))
    write(folder, "contracts/new-v1.yaml", SOUND.replace("-SOUND-", "-N-"))
    done = validate("contracts", "--against", "HEAD")
    assert done.exit_code == 1
    assert "PV501 error  the version moved not at all, the changes since 1.2.0 demand a major bump" in done.output
    assert validate("contracts").exit_code == 0, "without history nothing is compared"
    wrong = validate("contracts", "--against", "nosuch")
    assert wrong.exit_code == 2
    assert "expected a git revision" in wrong.output


WITHOUT_WATCHFILES = "import sys; sys.modules['watchfiles'] = None; from pv.cli.main import main; main()"


@pytest.mark.parametrize("start", [["-m", "pv"], ["-c", WITHOUT_WATCHFILES]], ids=["told by the system", "by asking"])
def test_watching_looks_again_after_a_change_and_ends_with_ctrl_c(folder, start):
    path = write(folder, "x-v1.yaml")
    command = [sys.executable, *start, "validate", "x-v1.yaml", "--watch", "--color", "never"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watcher:
        try:
            assert "exit code 0; watching" in watcher.stderr.readline()
            path.write_text(BROKEN)
            assert "exit code 1; watching" in watcher.stderr.readline()
        finally:
            watcher.send_signal(signal.SIGINT)
        watcher.wait(20)
    assert watcher.returncode == 130


# ------------------------------------------------------------------------------------------ what it loads


def modules_after(*arguments: str) -> set[str]:
    code = (
        "import sys\nfrom pv.cli.main import pv\n"
        f"try: pv.main({['validate', *arguments]!r}, standalone_mode=False)\n"
        "except SystemExit: pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_nothing_heavy_is_loaded(folder):
    write(folder, "pyproject.toml", '[tool.pv]\nprofile = "strict"\n')
    write(folder, "contracts/x-v1.yaml")
    write(folder, "falsifiers/x_v1.py", "import torch_is_not_imported_here\n")
    loaded = modules_after()
    assert "pv.evidence.facts" in loaded, "statuses are compared with the records"
    assert not loaded & {"torch", "numpy", "jsonschema", "transformers", "ruamel.yaml", "rich", "gguf", "wgpu"}


@pytest.mark.parametrize("marked", [True, False])
def test_a_warm_cache_needs_neither_yaml_nor_pydantic(folder, monkeypatch, marked):
    """In a project it lies at the root; in a folder that is none, nothing is left behind there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "home"))
    monkeypatch.delenv("PV_CACHE", raising=False)
    if marked:
        (folder / ".git").mkdir()
    for number in range(100):
        write(folder, f"c/x{number}-v1.yaml", SOUND.replace("-SOUND-", f"-N{number}-"))
    assert "yaml" in modules_after("c")
    cache = folder / ".pv_cache" if marked else next((folder / "home" / "pv" / "folders").iterdir())
    assert (cache / "CACHEDIR.TAG").exists()
    assert (folder / ".pv_cache").exists() == marked
    assert not (folder / "c" / ".pv_cache").exists()
    loaded = modules_after("c")
    assert not loaded & {"yaml", "pydantic", "pv.evidence.facts"}
    assert "yaml" in modules_after("c", "--no-cache")


def test_few_files_leave_no_cache_behind(folder):
    write(folder, "x-v1.yaml")
    validate(".")
    assert sorted(path.name for path in folder.iterdir()) == ["x-v1.yaml"]


def test_the_library_call_needs_no_click_context(folder, capsys):
    write(folder, "x-v1.yaml")
    options = Options(("x-v1.yaml",), "text", None, None, "error", False, (), (), None, False, "never")
    assert run(options) == 0
    assert "Contract is valid." in capsys.readouterr().out
