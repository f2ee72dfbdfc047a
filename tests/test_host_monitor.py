"""HostMonitor without a front end: who sees what, looks by itself and when asked, and a host that dies meanwhile."""

import base64
import time
from xml.etree import ElementTree

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit import errors
from lsplit_kit.figures.host import COUNTS, SEES, Seen, cache_sketch, host_alt, host_html, host_png, memory_sketch
from lsplit_kit.measure.audit import look
from lsplit_kit.models.whole import whole_of
from lsplit_kit.remote.target import target_of
from lsplit_kit.wire.here import InProcess
from lsplit_kit.wire.watch import Use

PNG = b"\x89PNG\r\n\x1a\n"
PROMPT = torch.tensor([[1, 2, 3, 4]])


def said(lm, count=4):
    return lm.generate(PROMPT, max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=[])


@pytest.fixture(scope="module")
def host():
    with lk.host("toy-llama", 1, 1) as found:
        yield found


@pytest.fixture
def lm(host):
    found = lk.split(lk.load_local("toy-llama", 1, 1), body=host.address)
    said(found)
    yield found
    found.close()


@pytest.fixture
def panel(host):
    found = lk.HostMonitor(host, watch=False)
    yield found
    found.close()


def html(text):
    return ElementTree.fromstring(f"<div>{text}</div>")


def shown(panel):
    (now,) = [e for e in html(panel.charts.value).iter("p") if e.get("class") == "host-now"]
    return {name.removeprefix("data-"): int(value) for name, value in now.items() if name.startswith("data-")}


def until(true, what):
    end = time.monotonic() + 20
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    assert true(), what


def test_exported():
    assert "HostMonitor" in lk.__all__ and lk.HostMonitor.__module__ == "lsplit_kit.widgets.host_monitor"


def test_every_number_is_the_hosts(host, lm, panel):
    now = panel.refresh().now
    assert shown(panel) == {
        "sessions": len(now.sessions), "connections": 1, "queued": 0, "refused": 0, "memory": now.memory,
        "limit": now.limit, "steps": now.steps, "hits": now.hits, "misses": 0, "evictions": 0,
    }  # fmt: skip
    assert now.hits > 0 and now.steps == host.stats().steps and panel.seen.health == host.health()
    assert f"{now.hits:,} hits" in panel.text.replace("\n", " ")


def test_who_started_the_host_sees_everybody_and_a_client_itself(host, lm, panel):
    other = lk.split(lk.load_local("toy-llama", 1, 1), body=host.address)
    said(other)
    ours, outside = lk.HostMonitor(lm, watch=False), lk.HostMonitor(host.address, watch=False)
    panel.refresh(), ours.refresh()
    assert [shown(p)["sessions"] for p in (panel, ours, outside)] == [2, 1, 0]
    assert [p.seen.whose for p in (panel, ours, outside)] == ["child", "link", "foreign"]
    for one in (panel, ours, outside):
        assert SEES[one.seen.whose] in one.charts.value and SEES[one.seen.whose] in one.text.replace("\n", " ")
    assert len({shown(p)["memory"] for p in (panel, ours, outside)}) == 1
    for one in (ours, outside):
        one.close()
    other.close()
    assert lm.remote.link.stats().sessions  # a panel closes its own connection, never its owner's


def test_it_looks_by_itself_until_it_is_closed(host, panel):
    before = len(panel.seen.history)
    panel.every = 0.2
    panel.watch()
    until(lambda: len(panel.seen.history) >= before + 3, "no look by itself")
    watcher = panel._watcher
    assert panel.watching and "every 0.2 s" in panel.status.value
    panel.close()
    until(lambda: not watcher.is_alive(), "the thread outlived its panel")


def test_watch_can_be_stopped_and_begun_again(panel):
    panel.every = 0.2
    panel.watch_button.value = True
    assert panel.watching
    panel.stop()
    assert not panel.watching and "when asked" in panel.status.value
    until(lambda: not panel._watcher.is_alive(), "the thread goes on")
    panel.watch()
    assert panel.watching


def test_a_host_that_dies_while_it_is_watched_is_one_sentence():
    with lk.host("toy-llama", 1, 1) as host:
        panel, outside = lk.HostMonitor(host, every=0.2), lk.HostMonitor(host.address, every=0.2)
        steps = shown(panel)["steps"]
    for one in (panel, outside):
        until(lambda one=one: one.seen.why and not one.watching and not one.watch_button.value, "still watching")
        until(lambda one=one: not one._watcher.is_alive(), "the thread goes on")
        assert "No news." in one.charts.value and "does not answer" in one.status.value and "\n" not in one.seen.why
        assert one.seen.why in one.announcer.said and "Traceback" not in one.charts.value + one.status.value
        assert shown(one)["steps"] == steps and one.refresh().why
        one.close()


def test_a_host_that_answers_again_is_watched_again(host):
    panel = lk.HostMonitor(host.address, watch=False)
    link = panel.target.asked
    where, link._where = link._where, ("127.0.0.1", 1)
    link._discard()
    assert "No host answers" in panel.refresh().why
    link._where = where
    panel.refresh_button.click()
    assert not panel.seen.why and "No news" not in panel.charts.value and "limit" in shown(panel)
    assert panel.announcer.said == host_alt(panel.seen)
    panel.close()


def test_answers_under_way_are_left_alone(lm):
    panel = lk.HostMonitor(lm, watch=False)
    link, before = lm.remote.link, len(panel.seen.history)
    link._asked_for.append((0, "step", 0))
    assert not panel.refresh().why and len(panel.seen.history) == before
    link._asked_for.clear()
    assert len(panel.refresh().history) == before + 1
    panel.close()


def test_what_a_host_holds_is_in_a_table(panel):
    (table,) = html(panel.charts.value).iter("table")
    assert table.get("data-passed") == "True"
    rows = {row[0].text: row[2].text for row in table.iter("tr") if row[0].tag == "th"}
    assert rows["decoder layer"] == f"{sum(h.size for h in panel.seen.audit.holdings if '.layers.' in h.name):,}"


def test_a_whole_models_host_is_shown_as_failed():
    link = InProcess(whole_of(lk.load("toy-llama")[0]))
    panel = lk.HostMonitor(link, watch=False)
    (table,) = html(panel.charts.value).iter("table")
    assert table.get("data-passed") == "False" and "\u2717 not a body" in panel.charts.value
    assert "holds more than a body: LM head" in panel.text.replace("\n", " ")
    panel.close()


def test_bundle_has_widget_picture_and_sentences(panel):
    bundle, metadata = panel._repr_mimebundle_()
    png = base64.b64decode(bundle["image/png"])
    assert png.startswith(PNG) and 2 * metadata["image/png"]["width"] == int.from_bytes(png[16:20], "big")
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == panel.text and max(map(len, panel.text.splitlines())) <= 72


def controls(widget):
    for child in getattr(widget, "children", ()):
        yield child
        yield from controls(child)


def test_controls_have_descriptions_and_there_is_one_live_region(panel):
    found = [c for c in controls(panel) if "description" in c.trait_names() and c._view_name != "HTMLView"]
    assert len(found) == 3 and all(c.description and c.tooltip for c in found)
    assert [c for c in controls(panel) if hasattr(c, "said") and hasattr(c, "names")] == [panel.announcer]
    assert "aria-live" not in panel.charts.value + panel.status.value


@pytest.mark.parametrize("every", [0, 0.1, 3601, "2", True, float("nan"), None])
def test_bad_intervals_are_a_sentence(panel, every):
    with pytest.raises(errors.UnsupportedOption, match="every takes seconds from 0.2 to 3600"):
        panel.every = every
    with pytest.raises(errors.UnsupportedOption, match="every takes seconds"):
        lk.HostMonitor("rpyc://127.0.0.1:1", every=every)


@pytest.mark.parametrize(
    ("what", "error"), [("smollm2", errors.UnsupportedOption), (None, errors.UnsupportedOption),
                        ("rpyc://127.0.0.1:1", errors.LsplitError)],
)  # fmt: skip
def test_what_is_no_host_is_refused(what, error):
    with pytest.raises(error) as caught:
        lk.HostMonitor(what)
    assert "\n" not in str(caught.value)


# The charts


@pytest.fixture
def seen(host, lm):
    target = target_of(lm)
    now = target.asked.stats()
    return Seen("x", "child", target.asked.health(), [(0.0, now)], look(lm))


def test_many_sessions_are_the_largest_ones_and_a_count(seen):
    uses = tuple(Use(f"client-{k}", k, 1000 * 10**k // 7, k) for k in range(1, 13))
    sheet = memory_sketch(seen.now._replace(sessions=uses, everybody=True, memory=10**9))
    words = [shape.words for shape in sheet.shapes if shape.kind == "text"]
    assert "client-12, session 12" in words and "client-4, session 4" not in words
    assert "and 4 smaller ones" in words and all(0 <= x <= sheet.width for s in sheet.shapes for x, _ in s.points)


def test_counts_over_time_have_colour_mark_and_number(seen):
    history = [(2.0 * k, seen.now._replace(hits=10 * k, misses=k, evictions=k // 2)) for k in range(30)]
    sheet = cache_sketch(history)
    words = [shape.words for shape in sheet.shapes]
    assert {"290 hits", "29 misses", "14 evictions"} <= set(words)
    assert len({colour for _, colour, *_ in COUNTS}) == len({shape for _, _, shape, _ in COUNTS}) == 3


def test_words_of_a_host_are_escaped(seen):
    seen.name, seen.why = "<script>", "<b>gone</b>"
    seen.health = seen.health._replace(model="<img src=x>")
    assert not {"script", "img", "b>gone"} & {e.tag for e in html(host_html(seen)).iter()}
    assert "&lt;img" in host_html(seen) and host_png(seen).startswith(PNG)


def test_before_there_is_news_there_is_a_sentence():
    nothing = Seen("x", "foreign", why="No host answers.")
    assert "No host answers." in host_html(nothing) and "nothing is known" in host_alt(nothing)
    assert host_png(nothing).startswith(PNG)
