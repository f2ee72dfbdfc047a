"""AttackArena without a front end, and the recordings behind it: files, truth, results, refusals, and live runs."""

import base64
import json
import threading
from xml.etree import ElementTree

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit import data
from lsplit_kit.attacks import PriorOnly, RunTail, record, report
from lsplit_kit.attacks.pieces import piece
from lsplit_kit.attacks.recorded import dumped, recorded
from lsplit_kit.attacks.threats import DOWNWARD, LADDER, QUERIES, THREATS, direction_of, knowledge_of
from lsplit_kit.errors import NeedsKnowledge, UnsupportedOption
from lsplit_kit.figures.arena import bout_alt
from lsplit_kit.measure.inversion import ladder, leak_of, recorded_ladder
from lsplit_kit.quantization import codec
from lsplit_kit.wire.view import OBSERVERS

torch.set_num_threads(1)
NAMES = [recording.name for recording in data.captures()]
DOWN = [recording.name for recording in data.captures("down")]
SHIPPED = [recording.name for recording in data.captures() if recording.path]
LARGEST = 1_800_000  # bytes of all recordings
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def panel():
    return lk.AttackArena(depth=1)


def html(widget):
    return ElementTree.fromstring(f"<div>{widget.value.replace('<br>', '<br/>')}</div>")


def tokens(panel):
    return [e.get("data-what") for e in html(panel.charts).iter("span") if e.get("class") == "reading-token"]


# Recordings


def test_recordings_cover_every_depth_and_codec_and_are_small():
    there = {(r.depth, r.codec) for r in data.captures()}
    assert there == {(depth, spec) for depth in (1, 5, 15) for spec in ("fp32", "int8:token", "auto:text")}
    assert {(r.depth, r.codec) for r in data.captures("down")} == there
    files = [path for path in data.captures()[0].reports.parent.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LARGEST
    assert {r.codec for r in data.captures() if not r.path} == {"fp32"}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_capture_is_what_its_name_says_and_agrees_with_its_reports(name):
    found = recorded(name)
    capture = found.capture
    assert capture.manifest["layers"][0] == found.depth and capture.manifest["model"] == "smollm2"
    up = [c for c in capture.crossings if c.direction == "up" and c.codec]
    assert up and all(codec(c.codec).spec == c.codec and c.data for c in up)
    truth = capture.sealed.open()
    heard = [c.up for c in capture.view("eavesdrop_up").conversations()]
    for said in found.reports.values():
        for number, ids in enumerate(truth["ids"].split(truth["length"].tolist())):
            rows = said.tokens[said.tokens.conversation == number]
            assert rows.position.tolist() == heard[number].positions.tolist()
            assert rows.truth.tolist() == ids[rows.position.tolist()].tolist()
            prompt = rows[rows.kind == "prompt"].position.tolist()
            assert prompt == list(range(int(truth["first"][number]), int(truth["stop"][number])))


@pytest.mark.parametrize("name", NAMES)
def test_reports_are_of_the_ladder_and_name_every_token(name):
    found = recorded(name)
    assert {attack for attack, knowledge in found.reports if knowledge == "public"} == set(LADDER)
    asked = [("Ridge", "queries"), ("PrototypeLDA", "queries")] if found.codec == "int8:token" else []
    assert [key for key in found.reports if key[1] != "public"] == asked
    for (attack, _), said in found.reports.items():
        assert said.attack == attack and (said.tokens.right == (said.tokens.truth == said.tokens.guess)).all()
        assert said.tokens[said.tokens.right & (said.tokens["rank"] == -1)].empty
        assert all(found.decode(int(t)) is not None for t in {*said.tokens.truth, *said.tokens.guess})
    prompt = found.prior.tokens.query("conversation == 0 and kind == 'prompt'").truth
    assert data.prompts(count=1)[0].text.startswith("".join(map(found.decode, prompt)))


@pytest.mark.parametrize("name", NAMES)
def test_the_exact_attack_reads_what_the_weak_ones_do_not(name):
    found = recorded(name)
    rows = ladder([found.report(attack) for attack in LADDER], found.prior).set_index("attack")
    assert rows.accuracy["VocabMatch"] > 0.98 and rows.accuracy["PriorOnly"] < 0.1
    assert rows.accuracy["NearestEmbedding"] < rows.accuracy["Ridge"] <= rows.accuracy["PrototypeLDA"]


def test_a_recorded_attack_is_made_again():
    found = recorded("smollm2.01.int8-token")
    _, tok = lk.load("smollm2")
    view = found.capture.view("eavesdrop_up")
    know = knowledge_of("no_weights", None, tok, [text for _, text in data.topics("all")])
    again = report(PriorOnly().fit(view, know).reconstruct(view), found.capture)
    assert again.tokens.guess.tolist() == found.prior.tokens.guess.tolist()
    assert again.counted.log_prob.tolist() == pytest.approx(found.prior.counted.log_prob.tolist(), abs=1e-4)


def test_what_is_dumped_comes_back():
    lm = lk.split("toy-llama", head=1, tail=1)
    capture, tok = record(lm, ["Grüße \U0001f600"], new_tokens=2), lm.lsplit_tokenizer()
    view = capture.view("cloud")
    said = report(PriorOnly().fit(view, knowledge_of("public", lm, tok, ["Grüße an dich. " * 400])).reconstruct(view),
                  capture)  # fmt: skip
    kept = json.loads(dumped([("public", said)], lambda token: piece(tok, token)))
    assert kept["truth"] == said.tokens.truth.tolist() and kept["said"][0]["guess"] == said.tokens.guess.tolist()
    raw = b"".join(
        bytes.fromhex(kept["bytes"][t]) if t in kept["bytes"] else kept["pieces"][t].encode()
        for t in map(str, said.tokens[said.tokens.kind == "prompt"].truth)
    )
    assert raw.decode().endswith("Grüße \U0001f600") and kept["bytes"]


def test_the_table_of_recordings_is_their_ladders():
    table = recorded_ladder()
    assert len(table) == len(NAMES) * len(LADDER) and set(table.prompts) == {6}
    row = table[(table.depth == 5) & (table.codec == "fp32") & (table.attack == "Ridge")].iloc[0]
    found = recorded("smollm2.05.fp32")
    assert (
        row.accuracy == found.report("Ridge").accuracy()
        and row.bits == leak_of(found.report("Ridge"), found.prior).bits
    )


@pytest.mark.parametrize("name", DOWN)
def test_reports_of_what_comes_down_are_beside_the_model_and_the_text(name):
    found, upward = recorded(name), recorded(NAMES[0])
    assert found.direction == "down" and {a for a, knowledge in found.reports if knowledge == "public"} == set(DOWNWARD)
    assert found.reports.keys() == found.texts.keys()
    (said, text), prior = (reports["RunTail", "public"] for reports in (found.reports, found.texts)), found.prior
    assert set(said.tokens.kind) == {"prompt", "reply"} and said.tokens.position.equals(text.tokens.position)
    words = upward.prior.tokens.query("conversation == 2 and kind == 'prompt'").truth
    assert text.tokens.query("conversation == 2 and kind == 'prompt'").truth.tolist() == words.tolist()
    assert said.accuracy() == 1 if found.codec == "fp32" else said.accuracy() > 0.8  # ties fall either way
    assert text.accuracy("prompt") < 0.5 and text.accuracy("reply") > 0.9
    rows = ladder([found.report(attack) for attack in DOWNWARD], prior).set_index("attack")
    assert rows.top10["LogitLens"] < rows.top10["TunedLens"] < rows.top10["RunTail"]
    assert rows.bits["PriorOnly"] == 0 < rows.bits["TunedLens"] < rows.bits["RunTail"]


def test_the_shipped_downlink_says_again_what_was_recorded():
    (shipped,) = (r for r in data.captures("down") if r.path)
    found, (model, tok) = recorded(shipped.name), lk.load("smollm2")
    with pytest.raises(UnsupportedOption, match="eavesdrop_down does not see what goes up"):
        found.capture.view("eavesdrop_down").tensors("up")
    assert {c.direction for c in found.capture.crossings if c.data} == {"down"}
    view = found.capture.view("eavesdrop_down")
    again = RunTail().fit(view, knowledge_of("public", model, tok, ["text"])).reconstruct(view)
    for said, kept in (
        (report(again, found.capture, model), found.reports),
        (report(again, found.capture), found.texts),
    ):
        assert said.counted.truth.tolist() == kept["RunTail", "public"].tokens.truth.tolist()
        assert said.counted["rank"].tolist() == kept["RunTail", "public"].tokens["rank"].tolist()


@pytest.mark.parametrize(("attack", "name", "sentence"), [
    ("Ridge", DOWN[0], "Ridge reads what goes up, not what comes down."),
    ("RunTail", NAMES[0], "RunTail reads what comes down, not what goes up."),
])  # fmt: skip
def test_a_recording_has_the_attacks_on_its_direction(attack, name, sentence):
    with pytest.raises(UnsupportedOption, match=sentence):
        recorded(name).report(attack)


def test_who_guesses_without_a_look_guesses_at_what_the_observer_sees():
    assert [direction_of("PriorOnly", observer) for observer in OBSERVERS] == ["up", "up", "up", "down"]
    assert {direction_of(name, "cloud") for name in LADDER} == {"up"} and direction_of("RunTail", "cloud") == "down"


def test_recordings_are_listed_by_name():
    assert data.capture(NAMES[0]) == data.captures()[0]
    with pytest.raises(UnsupportedOption, match="no recording 'gpt2.01'.*smollm2.01"):
        data.capture("gpt2.01")


@pytest.mark.parametrize("observer", [name for name, ways in OBSERVERS.items() if "up" in ways])
def test_whoever_sees_what_goes_up_reads_the_same(observer):
    found = recorded(NAMES[0])
    said = found.report("Ridge", observer)
    assert said.observer == observer and said.tokens.equals(found.report("Ridge").tokens)


# The panel


def test_exported():
    assert "AttackArena" in lk.__all__ and lk.AttackArena.__module__ == "lsplit_kit.widgets.attack_arena"


@pytest.mark.parametrize("attack", LADDER)
def test_every_number_is_the_reports(panel, attack):
    panel.attack, panel.number = attack, 3
    said = panel.recording.report(attack)
    (seen,) = [e for e in html(panel.charts).iter("p") if e.get("class") == "arena-figures"]
    leak = leak_of(said, panel.recording.prior)
    wanted = (said.accuracy(), leak.bits, *leak.interval)
    assert [float(seen.get(f"data-{n}")) for n in ("accuracy", "bits", "low", "high")] == pytest.approx(
        wanted, rel=1e-5
    )
    rows = said.tokens[said.tokens.conversation == 2]
    whats = tokens(panel)
    assert len(whats) == len(rows) and whats.count("apart") == (~rows.kind.isin(("prompt", "reply"))).sum()
    assert whats.count("right") == rows[rows.kind.isin(("prompt", "reply"))].right.sum()
    (now,) = [e for e in html(panel.table).iter("tr") if e.get("aria-current")]
    assert attack in now[0].text and now[0].text.startswith("\u25b6")
    assert len(list(html(panel.table).iter("tr"))) == 1 + len(LADDER)


def test_a_message_from_the_page_moves_everything(panel):
    panel.controls["attack"].set_state({"index": 0})
    assert (panel.attack, panel.bout.attack) == ("PriorOnly", "PriorOnly") and tokens(panel).count("right") < 5
    panel.controls["number"].set_state({"index": 5})
    assert panel.number == 6 and "Vermieter" not in panel.text
    panel.controls["attack"].set_state({"index": 4})
    assert "Mein Vermieter" in panel.text and panel.announcer.said == bout_alt(panel.bout)
    panel.controls["codec"].set_state({"index": 1})
    assert panel.codec in panel.announcer.said


@pytest.mark.parametrize(
    ("setting", "value", "attack", "sentence"),
    [("knowledge", "no_weights", "VocabMatch", "VocabMatch needs head weights"),
     ("knowledge", "no_weights", "NearestEmbedding", "NearestEmbedding needs embeddings"),
     ("knowledge", "vocabulary", "PriorOnly", "PriorOnly needs text"),
     ("observer", "eavesdrop_down", "Ridge", "eavesdrop_down does not see what goes up.")],
)  # fmt: skip
def test_what_an_attack_refuses_is_shown_instead_of_a_result(panel, setting, value, attack, sentence):
    panel.attack = attack
    setattr(panel, setting, value)
    assert tokens(panel) == [] and sentence in panel.bout.why and sentence in panel.announcer.said
    assert sentence in panel.table.value and "No result" in panel.charts.value
    with pytest.raises((NeedsKnowledge, UnsupportedOption), match=sentence):
        panel.recording.report(panel.attack, panel.observer, panel.knowledge)
    assert base64.b64decode(panel._repr_mimebundle_()[0]["image/png"]).startswith(PNG)


@pytest.mark.parametrize("attack", DOWNWARD)
def test_what_comes_down_is_beside_the_model_and_the_text(panel, attack):
    panel.observer, panel.attack, panel.tail, panel.number = "eavesdrop_down", attack, 5, 3
    assert panel.recording.name == "smollm2.tail-05.int8-token"
    said = panel.recording.report(attack)
    rows, text = (t[t.conversation == 2] for t in (said.tokens, panel.recording.texts[attack, "public"].tokens))
    drawn = tokens(panel)
    assert len(drawn) == 2 * len(rows) and drawn.count("right") == rows.right.sum() + text.right.sum()
    (seen,) = [e for e in html(panel.charts).iter("p") if e.get("class") == "arena-figures"]
    assert float(seen.get("data-accuracy")) == pytest.approx(said.accuracy(), rel=1e-5)
    reply = text[text.kind == "reply"].right
    assert f"{reply.sum()} of {len(reply)} tokens of the reply" in panel.text.replace("\n", " ")
    assert len(list(html(panel.table).iter("tr"))) == 1 + len(DOWNWARD)
    assert panel.controls["depth"].disabled and not panel.controls["tail"].disabled
    assert base64.b64decode(panel._repr_mimebundle_()[0]["image/png"]).startswith(PNG)


def test_a_refused_direction_leaves_the_table_of_what_can_be_read(panel):
    panel.observer, panel.attack = "eavesdrop_down", "Ridge"
    heads = [row[0].text for row in html(panel.table).iter("tr") if row[0].text]
    assert heads == [*DOWNWARD, "\u25b6 Ridge"] and panel.controls["tail"].disabled
    panel.observer, panel.attack = "eavesdrop_up", "RunTail"
    assert "eavesdrop_up does not see what comes down" in panel.bout.why or "goes down" in panel.bout.why


def test_queries_take_the_place_of_weights(panel):
    panel.knowledge, panel.attack = "queries", "PrototypeLDA"
    said = panel.recording.report("PrototypeLDA", knowledge="queries")
    assert (
        0 < said.cost.queries <= QUERIES and f"{said.cost.queries:,} tokens sent through the head" in panel.charts.value
    )
    assert panel.recording.report("Ridge").accuracy() / 2 < said.accuracy()
    panel.codec = "fp32"
    assert "is not recorded with fp32; take int8:token" in panel.bout.why
    panel.attack, panel.codec = "VocabMatch", "int8:token"
    assert "VocabMatch needs head weights" in panel.bout.why and "PrototypeLDA" in panel.table.value


def test_without_weights_a_guess_is_left(panel):
    panel.attack, panel.knowledge = "PriorOnly", "no_weights"
    assert panel.bout.rows is not None and "0.00 bits a token" in panel.charts.value


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [("observer", "me", "Unknown observer 'me'; choose one of cloud"), ("knowledge", 3, "Unknown knowledge 3"),
     ("attack", "Magic", "choose one of PriorOnly"), 
     ("tail", 2, "Unknown tail 2; choose one of 1, 5, 15"), ("depth", 2, "Unknown depth 2; choose one of 1, 5, 15"),
     ("codec", "int4", "choose one of auto:text"), ("number", 7, "choose one of 1, 2"), ("number", True, "number True"),
     ("depth", [1], r"Unknown depth \[1\]")],
)  # fmt: skip
def test_bad_settings_are_a_sentence(panel, name, value, sentence):
    before = getattr(panel, name)
    with pytest.raises(lk.LsplitError, match=sentence) as caught:
        setattr(panel, name, value)
    assert "\n" not in str(caught.value) and getattr(panel, name) == before
    with pytest.raises(lk.LsplitError, match=sentence):
        lk.AttackArena(**{name: value})


def test_a_panel_of_recordings_does_not_run(panel):
    for act in (panel.run, lambda: panel.prompt, lambda: setattr(panel, "prompt", "x")):
        with pytest.raises(UnsupportedOption, match="recorded"):
            act()


def controls(widget):
    for child in getattr(widget, "children", ()):
        yield child
        yield from controls(child)


@pytest.mark.parametrize("live", [False, True])
def test_controls_have_descriptions_and_there_is_one_live_region(live):
    panel = lk.AttackArena(live=live, model="toy-llama")
    found = [c for c in controls(panel) if "description" in c.trait_names() and c._view_name != "HTMLView"]
    assert len(found) == (10 if live else 12) and all(c.description for c in found)
    assert [c for c in controls(panel) if hasattr(c, "said") and hasattr(c, "names")] == [panel.announcer]
    assert "aria-live" not in panel.charts.value + panel.table.value


def test_bundle_has_widget_picture_and_sentence(panel):
    bundle, metadata = panel._repr_mimebundle_()
    png = base64.b64decode(bundle["image/png"])
    assert png.startswith(PNG) and 2 * metadata["image/png"]["width"] == int.from_bytes(png[16:20], "big")
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == panel.text and max(map(len, panel.text.splitlines())) <= 72


# Live


@pytest.fixture(scope="module")
def live():
    return lk.AttackArena(live=True, model="toy-llama", prompt="Tell the doctor", attack="VocabMatch", depth=2)


def test_a_live_run_reads_the_prompt(live):
    found = live.run()
    assert found.attack == "VocabMatch" and "Tell the doctor" in live.text and live.worker.why == ""
    assert found.rows[found.rows.kind == "prompt"].right.all() and "0 more among" in live.announcer.said
    assert not live.target.model.get_input_embeddings()._forward_pre_hooks


def test_a_live_lens_says_what_the_model_says(live):
    live.observer, live.attack, live.tail = "eavesdrop_down", "RunTail", 2
    found = live.run()
    assert found.rows.right[found.rows.kind == "reply"].all() and found.beside.right[found.beside.kind == "reply"].all()
    assert "2 layers before the end, fp32" in found.who and "What the unsplit model would say" in live.text
    live.attack, live.tail = "VocabMatch", 1


def test_a_live_refusal_is_its_sentence(live):
    live.observer = "eavesdrop_down"
    assert live.run() is None and live.worker.why == live.bout.why == "eavesdrop_down does not see what goes up."
    live.observer, live.depth = "cloud", 50
    assert live.run() is None and "the model has 6 decoder layers" in live.text
    live.depth = 2


def test_stop_ends_a_run_before_its_next_step(live):
    begun, going = threading.Event(), threading.Event()
    step = live.target.step

    def held(words):
        begun.set()
        going.wait(60)
        step(words)

    live.target.step = held
    try:
        live.run(wait=False)
        assert begun.wait(60)
        live.cancel()
        going.set()
        live.worker.wait()
        assert live.bout.rows is None and "Cancelled" in live.worker.status.value
    finally:
        live.target.step = step


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [("depth", -1, "depth takes a whole number from 0, got -1"), ("tail", True, "tail takes a whole number"),
     ("depth", 1.5, "got 1.5"), ("codec", "int99", "int99"),
     ("prompt", " ", "prompt|sentence takes words"), ("knowledge", "all", "Unknown knowledge 'all'")],
)  # fmt: skip
def test_bad_live_settings_are_a_sentence(live, name, value, sentence):
    before = getattr(live, name)
    with pytest.raises(lk.LsplitError, match=sentence):
        setattr(live, name, value)
    assert getattr(live, name) == before


def test_threats_have_words():
    assert all(THREATS.values()) and list(THREATS)[0] == "public"
    with pytest.raises(UnsupportedOption, match="Unknown knowledge 'all'; choose one of public"):
        knowledge_of("all", None, None, [])
