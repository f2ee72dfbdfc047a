"""A class that changes, over real TLS: who joins comes in, who is revoked stays out, and the others go on."""

import contextlib
import shutil
import stat
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from cryptography import x509
from typer.testing import CliRunner

import lsplit_kit as lk
from lsplit_kit import cli, errors
from lsplit_kit.models.partial import load_body
from lsplit_kit.remote import changes
from lsplit_kit.remote.authority import Authority, Bundle
from lsplit_kit.remote.certificates import KEY, make_class, write_bundle
from lsplit_kit.remote.changes import add_students, revoke
from lsplit_kit.remote.classroom import prepare
from lsplit_kit.remote.client import RpycLink
from lsplit_kit.remote.gate import Gate
from lsplit_kit.remote.register import read_register, valid
from lsplit_kit.remote.server import StrictServer
from lsplit_kit.remote.service import service_of
from lsplit_kit.wire.message import Open

PROMPT = torch.arange(5, 14)[None]
torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def folder(tmp_path):
    return make_class(tmp_path / "class", ["ann", "bo"]).folder


@contextlib.contextmanager
def hosting(folder):
    """A host of this process that lets in who has a certificate of the class."""
    server = StrictServer(service_of(load_body("toy-llama", 1, 1)), b"t" * 32, gate=Gate(folder / "host"))
    server.listener.listen(8)
    thread = threading.Thread(target=server.start, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(3)


def enter(folder, server, name):
    return RpycLink(server.address, 20, certificate=folder / "students" / f"{name}.pem")


def kept(folder, name):
    """The file of a student, who has it after its copy in the class's folder is gone."""
    return Path(shutil.copy(folder / "students" / f"{name}.pem", folder.parent))


def trusting(path, folder):
    """The certificate and key of one file, with the authority of a class, whose host it then trusts."""
    own = path.read_bytes().partition(b"-----BEGIN CERTIFICATE-----")[2].rpartition(b"-----BEGIN CERTIFICATE-----")[0]
    made = path.with_name(f"{path.stem}-there.pem")
    made.write_bytes(b"-----BEGIN CERTIFICATE-----" + own + (folder / "ca.pem").read_bytes())
    return made


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- over TLS --------------------------------------------------------------------------------------


def test_who_is_revoked_stays_out_and_the_others_come_in_at_a_host_that_runs(folder):
    ann = kept(folder, "ann")
    with hosting(folder) as server:
        enter(folder, server, "ann").close()
        assert revoke(folder, ["ann"]) == ("bo",)
        with pytest.raises(errors.AuthError, match=r"refused your certificate .*ann.pem: it was revoked; ask whoever"):
            RpycLink(server.address, 20, certificate=ann)
        enter(folder, server, "bo").close()
    with hosting(folder) as server:  # a host that starts later knows from the start
        with pytest.raises(errors.AuthError, match="it was revoked"):
            RpycLink(server.address, 20, certificate=ann)
        enter(folder, server, "bo").close()


def test_a_connection_of_somebody_revoked_is_ended_and_the_others_go_on(folder):
    ann = kept(folder, "ann")
    whole = lk.load("toy-llama")[0]
    with lk.host("toy-llama", 1, 1, tls=folder / "host") as host:
        local = lk.load_local("toy-llama", 1, 1)
        out = lk.split(local, body=host.address, certificate=ann)
        stays = lk.split(local, body=host.address, certificate=folder / "students" / "bo.pem")
        for lm in (out, stays):
            assert torch.equal(lm(PROMPT).logits, whole(PROMPT).logits)
        revoke(folder, ["ann"])
        end = time.monotonic() + 20
        while "disconnected client=ann" not in host.stderr() and time.monotonic() < end:
            time.sleep(0.05)
        assert 'why="certificate revoked"' in host.stderr() and host.stats().connections == 1
        with pytest.raises(errors.AuthError, match="it was revoked"):
            out(PROMPT)
        assert torch.equal(stays(PROMPT).logits, whole(PROMPT).logits) and stays.remote.link.epoch == 0
        out.close(), stays.close()


def test_who_joins_comes_in_at_a_host_that_runs(folder):
    with hosting(folder) as server:
        enter(folder, server, "bo").close()
        assert add_students(folder, ["cy"]) == ("cy",)
        with enter(folder, server, "cy") as link:
            assert link.health().ready


def test_a_name_that_was_revoked_can_be_given_again(folder):
    lost = kept(folder, "ann")
    revoke(folder, ["ann"])
    add_students(folder, ["ann"])
    with hosting(folder) as server:
        enter(folder, server, "ann").close()
        with pytest.raises(errors.AuthError, match="it was revoked"):
            RpycLink(server.address, 20, certificate=lost)
    revoke(folder, ["ann"])  # both of them now
    assert len(x509.load_pem_x509_crl((folder / "host" / "revoked.pem").read_bytes())) == 2


@pytest.mark.parametrize("what", ["damaged", "gone", "of another class"])
def test_a_list_that_cannot_be_used_lets_nobody_back_in(folder, tmp_path, what):
    ann, path = kept(folder, "ann"), folder / "host" / "revoked.pem"
    with hosting(folder) as server:
        revoke(folder, ["ann"])
        with pytest.raises(errors.AuthError, match="it was revoked"):
            RpycLink(server.address, 20, certificate=ann)
        if what == "of another class":
            other = make_class(tmp_path / "other", 1).folder
            revoke(other, ["student-01"])
            shutil.copy(other / "host" / "revoked.pem", path)
        else:
            path.unlink() if what == "gone" else path.write_bytes(
                b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"
            )
        with pytest.raises(errors.AuthError):
            RpycLink(server.address, 20, certificate=ann)
        enter(folder, server, "bo").close()
    if what != "gone":  # a host does not begin with it
        with pytest.raises(errors.AuthError, match=f"list of revoked certificates .* is {what}|: it is {what}"):
            Gate(folder / "host")


def test_a_class_made_anew_counts_at_a_host_that_runs(folder):
    """Also a file that somebody makes with the old authority's key, which may be why the class was made anew."""
    ann, old, before = kept(folder, "ann"), Authority.read(folder / KEY), shutil.copytree(folder, folder.parent / "old")
    write_bundle(folder.parent / "forged.pem", old.issue("bo"))
    with hosting(folder) as server, RpycLink(server.address, 20, certificate=ann) as link:
        link.open(Open("kv", "fp32", "fp32"))
        pool = server.service.body.pool
        assert len(pool.held()) == 1
        make_class(folder, ["ann"], overwrite=True)
        server.sweep()  # as a host does several times a second
        end = time.monotonic() + 20
        while pool.held() and time.monotonic() < end:
            time.sleep(0.01)
        assert pool.held() == []  # its session ended with its connection
        with pytest.raises(errors.AuthError, match="is not of the class of"):
            link.open(Open("kv", "fp32", "fp32"))
        for path in (ann, folder.parent / "forged.pem", before / "students" / "bo.pem"):
            with pytest.raises(errors.AuthError, match="is not of the class of"):
                RpycLink(server.address, 20, certificate=path)
            with pytest.raises(errors.AuthError, match="does not know the authority"):  # whoever trusts the new host
                RpycLink(server.address, 20, certificate=trusting(path, folder))
        enter(folder, server, "ann").close()


@pytest.mark.parametrize("beside", [False, True])
def test_a_host_elsewhere_takes_the_copy_of_a_class_made_anew(folder, tmp_path, beside):
    """Whatever list lies beside it: that of the class before says nothing of the new one."""
    there, ann = tmp_path / "there", kept(folder, "ann")
    revoke(folder, ["bo"])
    shutil.copytree(folder / "host", there / "host")
    with hosting(there) as server:
        RpycLink(server.address, 20, certificate=ann).close()
        make_class(folder, ["cy"], overwrite=True)
        shutil.copy(folder / "host" / "host.pem", there / "host")
        if not beside:
            (there / "host" / "revoked.pem").unlink()
        with pytest.raises(errors.AuthError, match="does not know the authority"):
            RpycLink(server.address, 20, certificate=trusting(ann, folder))
        cy = kept(folder, "cy")
        RpycLink(server.address, 20, certificate=cy).close()
        revoke(folder, ["cy"])
        shutil.copy(folder / "host" / "revoked.pem", there / "host")
        with pytest.raises(errors.AuthError, match="it was revoked"):
            RpycLink(server.address, 20, certificate=cy)


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_hosts_own_file_that_is_gone_or_damaged_changes_nothing(folder, content):
    path = folder / "host" / "host.pem"
    with hosting(folder) as server, enter(folder, server, "bo") as link:
        path.unlink() if content is None else path.write_bytes(content)
        server.sweep()
        enter(folder, server, "ann").close()
        assert link.health().ready and link.epoch == 0


# -- the folder ------------------------------------------------------------------------------------


def test_numbers_go_on_and_the_class_ends_when_it_ended(tmp_path):
    folder = make_class(tmp_path / "class", 2, days=9).folder
    shutil.rmtree(folder / "students")  # handed out
    assert add_students(folder, 2) == ("student-03", "student-04")
    ends = Bundle(folder / "host" / "host.pem").until
    for name in ("student-03", "student-04"):
        path = folder / "students" / f"{name}.pem"
        assert Bundle(path).until == ends and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert valid(read_register(folder)) == ("student-01", "student-02", "student-03", "student-04")
    revoke(folder, ["student-02"])
    assert "3 students" in prepare(folder).says


def test_the_key_is_kept_for_its_owner_and_can_be_removed(folder):
    assert stat.S_IMODE((folder / KEY).stat().st_mode) == 0o600
    assert Authority.read(folder / KEY).pem == (folder / "ca.pem").read_bytes()
    (folder / KEY).unlink()
    before = files(folder)
    for change in (lambda: add_students(folder, 1), lambda: revoke(folder, ["ann"])):
        with pytest.raises(errors.UnsupportedOption, match="nobody can be added or revoked without it"):
            change()
    assert files(folder) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: add_students(f, 0), "1 to 1000 students, got 0"),
        (lambda f: add_students(f, 999), "1 to 1000 students, got 1001"),
        (lambda f: add_students(f, ["Ann"]), "'Ann' is in the class already; .*lsplit certs revoke"),
        (lambda f: add_students(f, ["../x"]), "cannot be a student's name"),
        (lambda f: add_students(f, ["cy", "cy"]), "in the list twice"),
        (lambda f: revoke(f, ["cy"]), "'cy' is not in the class"),
        (lambda f: revoke(f, ["ann", "cy"]), "'cy' is not in the class"),
        (lambda f: revoke(f.parent, ["ann"]), "There is no register.txt"),
        (lambda f: add_students(f / "none", 1), "There is no register.txt"),
    ],
)
def test_a_mistake_is_one_sentence_and_changes_nothing(folder, change, words):
    before = files(folder)
    with pytest.raises(errors.UnsupportedOption, match=words) as caught:
        change(folder)
    assert "\n" not in str(caught.value) and files(folder) == before


@pytest.mark.parametrize("content", [b"", b"nonsense", "ca"])
def test_a_damaged_key_is_said(folder, content):
    (folder / KEY).write_bytes((folder / "ca.pem").read_bytes() if content == "ca" else content)
    with pytest.raises(errors.AuthError, match="does not hold an authority's key"):
        add_students(folder, 1)


@pytest.mark.parametrize("content", ["ann\n", "ann zz -\n", "é 1 -\n"])
def test_a_damaged_register_is_said(folder, content):
    (folder / "register.txt").write_text(content, "utf-8")
    with pytest.raises(errors.UnsupportedOption, match="a line is not name, serial number, day"):
        add_students(folder, 1)


def test_a_class_that_is_over_takes_nobody(folder, monkeypatch):
    class Later(changes.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + timedelta(days=365)

    monkeypatch.setattr(changes, "datetime", Later)
    with pytest.raises(errors.UnsupportedOption, match="was valid until"):
        add_students(folder, 1)


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_added_is_left(folder, monkeypatch, fault):
    before, write, count = files(folder), changes.write_bundle, []

    def failing(path, content):
        count.append(path)
        if len(count) == 2:
            raise fault
        write(path, content)

    monkeypatch.setattr(changes, "write_bundle", failing)
    with pytest.raises(errors.UnsupportedOption if isinstance(fault, OSError) else KeyboardInterrupt):
        add_students(folder, 3)
    assert files(folder) == before


@pytest.mark.parametrize("what", ["revoke", "add"])
def test_of_two_changes_at_once_neither_is_lost(folder, monkeypatch, what):
    write = changes.write_register
    other = threading.Thread(target=lambda: revoke(folder, ["bo"]))

    def slow(place, entries):
        if not other.ident:
            other.start()
            other.join(0.5)  # it would be done by then
        write(place, entries)

    monkeypatch.setattr(changes, "write_register", slow)
    revoke(folder, ["ann"]) if what == "revoke" else add_students(folder, ["cy"])
    other.join(20)
    assert valid(read_register(folder)) == (() if what == "revoke" else ("ann", "cy"))
    listed = x509.load_pem_x509_crl((folder / "host" / "revoked.pem").read_bytes())
    assert len(listed) == (2 if what == "revoke" else 1)


def test_a_file_that_was_there_is_not_removed(folder):
    path = folder / "students" / "cy.pem"
    path.write_text("somebody's")
    with pytest.raises(errors.UnsupportedOption, match="cy.pem is there already, and no file of the class"):
        add_students(folder, ["bea", "cy"])
    assert path.read_text() == "somebody's" and not (folder / "students" / "bea.pem").exists()
    path.unlink()
    assert add_students(folder, ["bea", "cy"]) == ("bea", "cy")


def test_a_revocation_that_was_interrupted_is_done_when_it_is_given_again(folder, monkeypatch):
    def failing(path, content):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(changes, "replace", failing)
        with pytest.raises(errors.UnsupportedOption, match="No space left"):
            revoke(folder, ["ann"])
    assert not (folder / "host" / "revoked.pem").exists()
    for _ in range(2):
        assert revoke(folder, ["ann"]) == ("bo",)
        assert len(x509.load_pem_x509_crl((folder / "host" / "revoked.pem").read_bytes())) == 1


def test_the_list_is_signed_by_the_authority(folder):
    revoke(folder, ["ann"])
    found = x509.load_pem_x509_crl((folder / "host" / "revoked.pem").read_bytes())
    authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    assert found.is_signature_valid(authority.public_key()) and found.issuer == authority.subject
    assert found.next_update_utc == authority.not_valid_after_utc  # no list runs out before its class


def test_the_commands(folder):
    def said(*words):
        return CliRunner().invoke(cli.app, ["certs", *words])

    done = said("add", str(folder), "--students", "2")
    assert done.exit_code == 0
    assert [Bundle(line).name for line in done.stdout.splitlines()] == ["student-01", "student-02"]
    done = said("revoke", str(folder), "ann", "student-01")
    assert done.exit_code == 0 and "revoked: ann, student-01; valid files: 2" in done.stdout
    assert str(folder / "host" / "revoked.pem") in done.stdout
    assert sorted(path.stem for path in (folder / "students").iterdir()) == ["bo", "student-02"]
    for wrong in ([], ["--students", "1", "--names", "x"]):
        assert "either" in str(said("add", str(folder), *wrong).exception)
