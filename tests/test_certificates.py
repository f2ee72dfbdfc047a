"""A class's certificates: all of it or nothing, keys for nobody else's eyes, one sentence for every mistake."""

import shutil
import stat
import subprocess
import threading
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from typer.testing import CliRunner

from lsplit_kit import cli, errors
from lsplit_kit.remote import certificates
from lsplit_kit.remote import folder as folders
from lsplit_kit.remote.authority import Bundle
from lsplit_kit.remote.certificates import make_class, read_roster
from lsplit_kit.remote.changes import add_students, revoke

OWN = ["README.txt", "authority.pem", "ca.pem", "host/host.pem", "register.txt"]
NEVER = "\nIt was not written, and nothing is left over."


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_class(
        tmp_path_factory.mktemp("made") / "class", ["ann", "Bob.b", "cy@uni.example"], hosts=["gpu.example.org"], days=9
    )


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_class_is_one_file_for_the_host_and_one_for_each_student(made):
    students = [f"students/{name}.pem" for name in sorted(made.students)]
    assert files(made.folder) == [*OWN, *students]
    assert {"localhost", "127.0.0.1", "::1", "gpu.example.org"} <= set(Bundle(made.folder / "host/host.pem").hosts)
    for name in made.students:
        bundle = Bundle(made.folder / "students" / f"{name}.pem")
        assert (bundle.name, bundle.hosts) == (name, ())
        assert 8 <= (bundle.until - datetime.now(UTC)).days <= 9


def test_keys_can_be_read_by_their_owner_only(made):
    for path in [made.folder, *made.folder.rglob("*")]:
        secret = path.is_dir() or b"PRIVATE KEY" in path.read_bytes()
        assert not secret or stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        assert secret or path.name in ("README.txt", "ca.pem", "register.txt")


def test_the_authority_signed_everything_and_its_key_is_in_one_file(made):
    authority = x509.load_pem_x509_certificate((made.folder / "ca.pem").read_bytes())
    keys = 0
    for path in made.folder.rglob("*.pem"):
        chain = x509.load_pem_x509_certificates(path.read_bytes())
        chain[0].verify_directly_issued_by(authority)
        assert chain[-1] == authority
        keys += path.read_bytes().count(b"BEGIN PRIVATE KEY")
        mine = load_pem_private_key(path.read_bytes(), None) if b"PRIVATE KEY" in path.read_bytes() else None
        assert mine is None or (mine.public_key() == authority.public_key()) == (path.name == "authority.pem")
    assert keys == 5  # the host's, the students', and the authority's


def test_two_classes_have_nothing_in_common(made, tmp_path):
    other = make_class(tmp_path / "class", 1)
    mine, theirs = (x509.load_pem_x509_certificate((c.folder / "ca.pem").read_bytes()) for c in (made, other))
    assert mine.subject != theirs.subject and mine.public_key() != theirs.public_key()


def test_numbers_sort_as_people_expect(tmp_path):
    made = make_class(tmp_path / "class", 100)
    assert made.students[0] == "student-001" and list(made.students) == sorted(made.students)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(students=0), "1 to 1000 students, got 0"),
        (dict(students=-3), "got -3"),
        (dict(students=10**9), "1 to 1000"),
        (dict(students=True), "1 to 1000"),
        (dict(students=[]), "got 0"),
        (dict(students=["ann", "bo", "ann"]), "'ann' is in the list twice"),
        (dict(students=["ann", "Ann"]), "'Ann' is in the list twice"),
        (dict(students=["Zoë"]), "'Zoë' cannot be a student's name"),
        (dict(students=["../ann"]), "cannot be a student's name"),
        (dict(students=["/etc/passwd"]), "cannot be a student's name"),
        (dict(students=["a/b"]), "cannot be a student's name"),
        (dict(students=["a\\b"]), "cannot be a student's name"),
        (dict(students=["a\nb"]), "cannot be a student's name"),
        (dict(students=["ann\n"]), "cannot be a student's name"),
        (dict(students=["."]), "cannot be a student's name"),
        (dict(students=["-rf"]), "cannot be a student's name"),
        (dict(students=["a" * 65]), "1 to 64"),
        (dict(students=[""]), "cannot be a student's name"),
        (dict(students=[7]), "cannot be a student's name"),
        (dict(students=["token"]), "'token' is a word that the host uses"),
        (dict(hosts=["rpycs://gpu:18861"]), "no machine's name"),
        (dict(hosts=["0.0.0.0"]), "no machine's name"),
        (dict(hosts=["*.example.org"]), "no machine's name"),
        (dict(hosts=["bücher.example"]), "no machine's name"),
        (dict(hosts=["1.2.3"]), "no machine's name"),
        (dict(hosts=[""]), "no machine's name"),
        (dict(days=0), "1 to 3650 days, got 0"),
        (dict(days=1.5), "1 to 3650 days"),
        (dict(folder="no/such/class"), "no folder"),
    ],
)
def test_a_mistake_is_one_sentence_and_no_file(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.UnsupportedOption) as caught:
        make_class(**{"folder": "class", "students": 1} | options)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir()), NEVER


def test_a_class_that_is_there_stays_unless_told(made, tmp_path):
    first = make_class(tmp_path / "class", 2)
    before = {path: (first.folder / path).read_bytes() for path in files(first.folder)}
    with pytest.raises(errors.UnsupportedOption, match="--overwrite"):
        make_class(first.folder, 2)
    assert before == {path: (first.folder / path).read_bytes() for path in files(first.folder)}
    make_class(first.folder, ["ann"], overwrite=True)
    assert files(first.folder) == [*OWN, "students/ann.pem"]
    assert [path.name for path in tmp_path.iterdir()] == ["class"]


@pytest.mark.parametrize("other", ["notes.txt", "students/notes.txt"])
def test_what_is_no_class_is_never_replaced(tmp_path, other):
    made = make_class(tmp_path / "class", 1)
    (made.folder / other).write_text("mine")
    with pytest.raises(errors.UnsupportedOption, match="not replaced"):
        make_class(made.folder, 1, overwrite=True)
    assert (made.folder / other).read_text() == "mine"


def test_of_two_who_make_one_class_at_once_the_second_waits_and_is_told(tmp_path, monkeypatch):
    real, told = certificates._write, []

    def second():
        try:
            make_class(tmp_path / "class", ["bob"])
        except errors.UnsupportedOption as error:
            told.append(str(error))

    other = threading.Thread(target=second)

    def write(folder, made, authority):
        other.start()
        other.join(0.3)  # it would be done by then
        real(folder, made, authority)

    monkeypatch.setattr(certificates, "_write", write)
    make_class(tmp_path / "class", ["ann"])
    other.join(20)
    assert len(told) == 1 and "There is a class in" in told[0]
    assert files(tmp_path) == sorted(f"class/{name}" for name in (*OWN, "students/ann.pem"))


def test_who_waits_too_long_for_another_command_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "WAIT", 0.05)
    with (
        folders.changing(tmp_path / "class"),
        pytest.raises(errors.UnsupportedOption, match="Another command is changing the class in .*class; wait until"),
    ):
        make_class(tmp_path / "class", 1)
    make_class(tmp_path / "class", 1)


def test_ctrl_c_while_the_old_class_is_removed_leaves_nothing_of_it(tmp_path, monkeypatch):
    make_class(tmp_path / "class", ["ann"])
    real, calls = shutil.rmtree, []

    def stopped(path, **options):
        calls.append(path)
        if len(calls) == 1:
            (path / "ca.pem").unlink()
            raise KeyboardInterrupt
        real(path, **options)

    monkeypatch.setattr(shutil, "rmtree", stopped)
    with pytest.raises(KeyboardInterrupt):
        make_class(tmp_path / "class", ["bob"], overwrite=True)
    assert files(tmp_path) == sorted(f"class/{name}" for name in (*OWN, "students/bob.pem"))
    assert [path.name for path in tmp_path.iterdir()] == ["class"]


@pytest.mark.parametrize("command", ["make", "add", "revoke"])
def test_what_a_killed_command_left_is_removed_by_the_next(tmp_path, command):
    folder = make_class(tmp_path / "class", ["ann", "bo"]).folder
    shutil.copytree(folder, tmp_path / ".class.x0_y1z2w.old")
    shutil.copytree(folder / "students", tmp_path / ".class.abcdefgh" / "students")
    (tmp_path / ".class.abcdefgh" / ".register.txt.0123abcd").touch()
    (folder / ".register.txt.0123abcd").touch()
    (folder / "host" / ".revoked.pem.0123abcd").touch()
    for name in (".class.holidays", ".class.holiday", ".other.abcdefgh", ".class.abcdefgh.olds"):  # none of ours
        (tmp_path / name).mkdir()
        (tmp_path / name / ("photo.jpg" if name == ".class.holidays" else "ca.pem")).touch()
    {
        "make": lambda: make_class(folder, ["cy"], overwrite=True),
        "add": lambda: add_students(folder, ["cy"]),
        "revoke": lambda: revoke(folder, ["ann"]),
    }[command]()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"class", ".class.holidays", ".class.holiday", ".other.abcdefgh", ".class.abcdefgh.olds"}
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_a_class_that_was_out_of_the_way_when_its_command_was_killed_is_put_back(tmp_path):
    made = make_class(tmp_path / "class", ["ann"])
    before = files(tmp_path)
    made.folder.rename(tmp_path / ".class.abcdefgh.old")
    with pytest.raises(errors.UnsupportedOption, match="There is a class"):
        make_class(made.folder, ["bob"])
    assert files(tmp_path) == before
    made.folder.rename(tmp_path / ".class.abcdefgh.old")
    assert add_students(made.folder, ["bob"]) == ("bob",)


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_half_written_is_left(tmp_path, monkeypatch, fault, overwrite):
    before = files(make_class(tmp_path / "class", 3).folder) if overwrite else []
    write, count = certificates.write_bundle, []

    def failing(path, content):
        count.append(path)
        if len(count) == 3:
            raise fault
        write(path, content)

    monkeypatch.setattr(certificates, "write_bundle", failing)
    expected = errors.UnsupportedOption if isinstance(fault, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        make_class(tmp_path / "class", 5, overwrite=overwrite)
    assert files(tmp_path) == [f"class/{path}" for path in before], NEVER


def test_a_roster_is_names_and_remarks(tmp_path):
    path = tmp_path / "roster.txt"
    path.write_bytes("\ufeff# first year\nann\r\n\n  bo-b \n#eve\n".encode())
    assert read_roster(path) == ("ann", "bo-b")
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(errors.UnsupportedOption, match="UTF-8"):
        read_roster(path)
    with pytest.raises(errors.UnsupportedOption, match="No such file"):
        read_roster(tmp_path / "none.txt")


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None])
def test_what_is_no_bundle_is_said(tmp_path, content):
    path = tmp_path / "x.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(errors.AuthError, match="is no bundle"):
        Bundle(path)


def test_the_command(tmp_path):
    roster = tmp_path / "roster.txt"
    roster.write_text("ann\nbo\n")
    out = tmp_path / "lab"
    run = CliRunner().invoke(
        cli.app, ["certs", "class", "--names", str(roster), "--host", "gpu", "--host", "192.0.2.7", "--out", str(out)]
    )
    assert run.exit_code == 0 and "2 students" in run.stdout and str(out / "students") in run.stdout
    assert {"gpu", "192.0.2.7"} <= set(Bundle(out / "host" / "host.pem").hosts)
    assert repr(Bundle(out / "students" / "ann.pem")).startswith("Bundle: ann.pem")
    for wrong in ([], ["--students", "3", "--names", str(roster)]):
        run = CliRunner().invoke(cli.app, ["certs", "class", "--out", str(tmp_path / "b"), *wrong])
        assert isinstance(run.exception, errors.UnsupportedOption) and "either" in str(run.exception)


@pytest.mark.skipif(subprocess.run(["which", "openssl"], capture_output=True).returncode != 0, reason="needs openssl")
def test_another_reader_agrees_that_the_chain_holds(made):
    ca = str(made.folder / "ca.pem")
    for purpose, path in (("sslserver", "host/host.pem"), ("sslclient", "students/ann.pem")):
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", ca, str(made.folder / path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        wrong = [{"sslserver": "sslclient", "sslclient": "sslserver"}.get(word, word) for word in command]
        assert subprocess.run(wrong, capture_output=True).returncode != 0
