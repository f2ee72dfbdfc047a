"""Figures of attacks on text: tokens right, near or wrong, with a sign beside the colour; curves by depth."""

import io
import json
from xml.etree import ElementTree

import pandas as pd
import pytest
from PIL import Image

from lsplit_kit import figures
from lsplit_kit.figures.depths import LOOKS, curves, depths_alt, depths_sketch
from lsplit_kit.figures.reading import MOST, WIDTH, guessed, marks, reading_alt, reading_html, reading_lines, shown

PIECES = {
    0: "<|im_start|>",
    1: "\n",
    2: "Gr\u00fc\u00dfe",
    3: " an",
    4: b"\xe2\x82",
    5: b"\xac",
    6: " \u200b<b>",
    7: " dich",
}
NAMES = ["PriorOnly", "NearestEmbedding", "Ridge", "PrototypeLDA", "VocabMatch"]


def rows(truth, guess, rank=None, kind=None):
    table = pd.DataFrame({"conversation": 0, "position": range(len(truth)), "truth": truth, "guess": guess})
    table["kind"] = kind or ["template", *["prompt"] * (len(truth) - 1)]
    table["right"] = table.truth == table.guess
    table["rank"] = rank or [1 if right else -1 for right in table.right]
    return table


def decode(token):
    return PIECES[token]


@pytest.fixture
def said():
    return rows([0, 2, 3, 4, 5, 6, 1, 7], [0, 2, 7, 4, 5, 3, 1, 7], [1, 1, 4, 1, 1, -1, 1, 1])


def spans(html):
    """(what, text, title, sign behind it) of every token."""
    root = ElementTree.fromstring(html.replace("<br>", "<br/>"))
    found = []
    text = next(e for e in root.iter("div") if e.get("class") == "reading-text")
    for e in text:
        if e.tag == "span":
            found.append([e.get("data-what"), e.text, e.get("title"), "", e.get("style")])
        elif e.tag == "sup":
            found[-1][3] = e.text
    return root, found


def test_each_token_is_what_the_rows_say(said):
    assert [m.what for m in marks(said, decode)] == [
        "apart",
        "right",
        "near",
        "right",
        "right",
        "wrong",
        "right",
        "right",
    ]
    root, found = spans(reading_html(said, decode))
    assert [f[0] for f in found] == [m.what for m in marks(said, decode)]
    assert [f[1] for f in found][:6] == ["<|im_start|>", "Gr\u00fc\u00dfe", " an", "<E2 82>", "<AC>", " <U+200B><b>"]
    assert found[2][2] == "position 2, prompt: among the ten best; guess ' dich', the truth has rank 4"
    assert found[5][2] == "position 5, prompt: wrong; guess ' an', the truth is not among its guesses"


def test_the_colour_is_never_alone(said):
    _, found = spans(reading_html(said, decode))
    looks = {f[0]: (f[3], f[4].split(";")[2].rsplit(" ", 1)[0]) for f in found}
    assert looks["near"][0] == "?" and looks["wrong"][0] == "\u00d7" and looks["right"][0] == ""
    assert len({border for _, border in looks.values()}) == 4
    key = next(e for e in spans(reading_html(said, decode))[0].iter("div") if e.get("class") == "reading-key")
    assert [e.text for e in key if e.tag == "span"] == ["right", "among the ten best", "wrong", "not counted"]


def test_the_sentence_counts_what_counts_and_says_what_was_read(said):
    assert reading_alt(said, decode, "Ridge") == (
        "Ridge: 5 of 7 tokens right (71.4 %), 1 more among the ten best, 1 wrong; 1 not counted. "
        'It reads "Gr\u00fc\u00dfe dich\u20ac an dich".'
    )
    root, _ = spans(reading_html(said, decode, "Ridge"))
    (text,) = [e for e in root.iter("div") if e.get("role") == "img"]
    assert text.get("aria-label") == reading_alt(said, decode, "Ridge") and text.get("tabindex") == "0"


def test_pieces_of_a_character_meet_again(said):
    assert guessed(said, decode) == "Gr\u00fc\u00dfe dich\u20ac an  dich"
    assert "\ufffd" in guessed(rows([0, 4], [0, 4]), decode)


@pytest.mark.parametrize(
    ("piece", "words"),
    [("\n", "\u23ce"), ("\t", "\u21e5"), (b"\xf0\x9f", "<F0 9F>"), ("\u202e", "<U+202E>"), ("", "<nothing>"),
     (" a", " a"), ("\u65e5", "\u65e5")],
)  # fmt: skip
def test_what_cannot_be_seen_is_spelled_out(piece, words):
    assert shown(piece) == words


def test_markup_in_a_prompt_stays_text(said):
    assert "&lt;b&gt;" in reading_html(said, decode) and "<b>" not in reading_html(said, decode)


def test_lines_end_where_the_text_does_and_none_is_too_wide():
    truth = [0, *[2, 7, 6] * 60, 1, 3]
    lines = reading_lines(rows(truth, truth), decode)
    assert lines[-1][0][1].text == " an" and len(lines) > 5
    assert sum(len(line) for line in lines) == len(truth)
    long = rows([0, 8], [0, 8])
    assert len(reading_lines(long, lambda token: "ab " * 400)) > 8
    picture = Image.open(io.BytesIO(figures.reading(long, lambda token: "ab " * 400).png))
    assert picture.width == 2 * WIDTH


def test_a_very_long_text_is_cut_off_in_the_picture_only():
    truth = [0, *[7] * 3000]
    found = figures.reading(rows(truth, truth), decode)
    assert Image.open(io.BytesIO(found.png)).height < 2 * 24 * (MOST + 10)
    assert found.html.count("reading-token") == 3001 and "3000 of 3000 tokens" in found.alt and len(found.alt) < 500


def test_a_reading_is_a_page_a_picture_and_a_sentence(said):
    found = figures.reading(said, decode, "Ridge")
    bundle, metadata = found._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", "image/png"}
    assert bundle["text/plain"] == reading_alt(said, decode, "Ridge") == repr(found)
    assert metadata["image/png"]["width"] == WIDTH and found.png == figures.reading(said, decode, "Ridge").png


def test_rows_of_several_texts_and_rows_without_any():
    both = pd.concat([rows([0, 2], [0, 2]), rows([0, 2], [0, 2]).assign(conversation=1)])
    with pytest.raises(ValueError, match="several conversations"):
        marks(both, decode)
    assert reading_alt(rows([0], [0]), decode) == "no token that counts."


def table(codec="fp32", depths=(1, 5, 15)):
    return [
        {"attack": name, "depth": depth, "codec": codec, "accuracy": 1 - 0.01 * k * depth, "bits": 12 - k,
         "low": 11 - k, "high": 12.5 - k, "h0": 13.0}
        for k, name in enumerate(reversed(NAMES)) for depth in reversed(depths)
    ]  # fmt: skip


def test_every_attack_has_a_curve_a_mark_and_a_dash_of_its_own():
    figure = figures.depth_curves(table()).figure
    assert [line.name for line in figure.data] == NAMES
    assert len({line.marker.symbol for line in figure.data}) == len({line.line.dash for line in figure.data}) == 5
    assert all(line.x == (1, 5, 15) for line in figure.data)
    assert figure.data[-1].line.dash == "solid" and figure.data[-1].y == (1, 1, 1)
    assert len({mark for _, mark, _, _ in LOOKS.values()}) == 5
    assert json.dumps(figures.depth_curves(table())._repr_mimebundle_()[0]["application/vnd.plotly.v1+json"])


def test_bits_have_their_interval():
    ridge = next(line for line in figures.depth_curves(table(), value="bits").figure.data if line.name == "Ridge")
    assert ridge.error_y.array == (0.5, 0.5, 0.5) and ridge.error_y.arrayminus == (1, 1, 1)
    sketch = depths_sketch(table(), value="bits")
    uprights = [s for s in sketch.shapes if s.kind == "line" and s.colour and s.points[0][0] == s.points[1][0]]
    assert len(uprights) == 15


def test_labels_of_curves_do_not_meet():
    level = [row | {"accuracy": 0.0} for row in table()]
    words = [s for s in depths_sketch(level).shapes if s.kind == "text" and s.words in NAMES]
    heights = sorted(s.points[0][1] for s in words)
    assert len(heights) == 5 and all(b - a >= 14 for a, b in zip(heights, heights[1:], strict=False))


def test_the_sentence_has_both_ends_of_each_curve():
    said = depths_alt(table())
    assert said.startswith(
        "Tokens right by layers before the cut, codec fp32: PriorOnly 96.0 % behind 1, 40.0 % behind 15;"
    )
    assert "VocabMatch 100.0 % behind 1, 100.0 % behind 15." in said
    assert "behind 1;" in depths_alt(table(depths=(1,))) and depths_sketch(table(depths=(1,))).png()


def test_only_the_codec_asked_for_is_drawn():
    both = table() + [row | {"accuracy": 0.5} for row in table("int8:token")]
    assert all(row["accuracy"] == 0.5 for line in curves(both, "int8:token").values() for row in line)
    with pytest.raises(ValueError, match="no rows of codec 'fp16'; there are those of fp32, int8:token"):
        figures.depth_curves(both, "fp16")
    with pytest.raises(ValueError, match="value='leak': choose one of accuracy"):
        figures.depth_curves(both, value="leak")
