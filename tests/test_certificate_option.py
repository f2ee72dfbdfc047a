"""certificate= means the same wherever a host's address is taken: in calls, in panels, on the command line."""

import pytest
import torch
from typer.testing import CliRunner

import lsplit_kit as lk
from lsplit_kit import cli, errors
from lsplit_kit.remote.certificates import make_class

pytestmark = pytest.mark.timeout(120)
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    return make_class(tmp_path_factory.mktemp("room") / "class", ["ann", "bo"]).folder / "students"


@pytest.fixture(scope="module")
def host(students):
    with lk.host("toy-llama", 1, 1, tls=students.parent / "host") as found:
        yield found


@pytest.fixture(scope="module")
def picture_host(students):
    with lk.host("emoji-ldm", tls=students.parent / "host") as found:
        yield found


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    monkeypatch.delenv("LSPLIT_CERTIFICATE", raising=False)


def audited(address, certificate):
    return lk.audit(address, certificate=certificate)


def watched(address, certificate):
    panel = lk.HostMonitor(address, certificate=certificate, watch=False)
    panel.close()
    return panel.seen.audit


@pytest.mark.parametrize("asked", [audited, watched])
def test_a_question_takes_the_bundle(asked, host, students, monkeypatch):
    assert asked(host.address, students / "ann.pem").passed
    assert asked(host.address, str(students / "bo.pem")).passed
    with pytest.raises(errors.AuthError, match="LSPLIT_CERTIFICATE"):
        asked(host.address, None)
    monkeypatch.setenv("LSPLIT_CERTIFICATE", str(students / "ann.pem"))
    assert asked(host.address, None).passed
    with pytest.raises(errors.AuthError, match="none.pem"):  # what is said goes before what is set
        asked(host.address, students / "none.pem")


@pytest.mark.parametrize("asked", [audited, watched])
def test_a_bundle_that_nobody_asks_for_is_a_mistake(asked, host, students):
    for what in ("rpyc://127.0.0.1:1", host, object()):
        with pytest.raises(errors.UnsupportedOption, match="rpycs://"):
            asked(what, students / "ann.pem")


def test_with_a_bundle_a_panel_sees_the_sessions_of_its_name(host, students):
    lm = lk.split(lk.load_local("toy-llama", 1, 1), body=host.address, certificate=students / "ann.pem")
    lm(torch.arange(5, 9)[None])
    for name, count in (("ann", 1), ("bo", 0)):
        panel = lk.HostMonitor(host.address, certificate=students / f"{name}.pem", watch=False)
        assert len(panel.seen.now.sessions) == count
        panel.close()
    lm.close()


def test_the_command_takes_the_bundle(host, students):
    def said(*more):
        return CliRunner().invoke(cli.app, ["audit", host.address, *more])

    done = said("--certificate", str(students / "ann.pem"))
    assert done.exit_code == 0 and "the body and nothing else" in done.stdout
    assert isinstance(said().exception, errors.AuthError)


def test_panels_that_split_take_the_bundle(host, picture_host, students):
    bundle, call = students / "ann.pem", dict(prompt="Hello", codec=None)
    text = lk.SplitExplorer(lk.load("toy-llama"), 1, 1, max_new_tokens=2, body=host.address, certificate=bundle, **call)
    tap = lk.WireTap("toy-llama", body=host.address, certificate=bundle, head=1, tail=1, new_tokens=2, **call)
    picture = lk.PictureSplit("emoji-ldm", body=picture_host.address, certificate=bundle, steps=1)
    for panel in (text, tap, picture):
        panel.run()
    assert "Done" in text.output.value
    assert tap.made and not tap.worker.why
    assert picture.picture is not None
