"""Figures of the cache: the line of 99 %, bars of FLOPs, both caches position by position, and their sentences."""

import io
import json
from xml.etree import ElementTree

import pytest
from PIL import Image

from lsplit_kit import figures, measure
from lsplit_kit.figures.axes import Axes
from lsplit_kit.figures.caches import LEFT, REJECTED, caches_alt, caches_sketch
from lsplit_kit.figures.hatch import hatch
from lsplit_kit.figures.numbers import percent
from lsplit_kit.figures.recomputed import recomputed_alt, recomputed_sketch
from lsplit_kit.figures.saving import LARGEST, border, saving_alt, saving_sketch
from lsplit_kit.figures.sketch import Sketch
from lsplit_kit.figures.style import BODY, HEAD, TAIL

SIZE = measure.BodySize(1_000_000, 640)
FLOPS = {policy: measure.body_flops(policy, 20, 30, SIZE) for policy in ("none", "hidden", "kv")}


def titles(sketch):
    return [e.text for e in ElementTree.fromstring(sketch.svg("x")).iter("title")]


def areas(sketch, colour, words=""):
    return [s for s in sketch.shapes if s.kind == "area" and s.colour == colour and s.said and words in s.said]


def told(policy, prompt=6, new=12):
    return measure.story(policy, prompt, new)


def at(moments, what):
    return next(k for k, moment in enumerate(moments) if moment.what == what)


@pytest.mark.parametrize("make", [lambda: figures.cache_saving(20, 200), lambda: figures.recomputed(FLOPS, "kv")])
def test_each_is_a_live_figure_a_picture_and_a_sentence(make):
    bundle, _ = make()._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.plotly.v1+json", "image/png", "text/plain"}
    assert json.dumps(bundle["application/vnd.plotly.v1+json"], allow_nan=False)
    assert Image.open(io.BytesIO(make().png)).size[0] < 600 and make().png == make().png


def test_the_line_is_where_99_percent_becomes_true():
    figure = figures.cache_saving(20, 150).figure
    surface, line, point = figure.data
    assert line.line.dash == "dash" and point.marker.symbol == "diamond" and (point.x, point.y) == ((20,), (150,))
    for prompt, new in zip(line.x, line.y, strict=True):
        assert measure.reduction("kv", prompt, new) >= 0.99 - 1e-12 > measure.reduction("kv", prompt, new - 1)
    for row, new in zip(surface.z, surface.y, strict=True):
        for share, prompt in zip(row, surface.x, strict=True):
            assert share == pytest.approx(measure.reduction("kv", prompt, new), abs=1e-4)
    steps = [colour for share, colour in surface.colorscale if share in (0.99, 1.0)]
    assert len(steps) == 3 and steps[1] == steps[2] != steps[0]  # one more colour begins at 99 %


@pytest.mark.parametrize(("new", "above"), [(10, False), (170, False), (182, True), (1024, True)])
def test_the_point_lies_on_the_side_that_the_sentence_says(new, above):
    sheet = saving_sketch(20, new)
    (line,) = [s for s in sheet.shapes if s.dashed]
    (mark,) = [s for s in sheet.shapes if s.said.startswith("20 prompt")]
    x, y = (sum(p[k] for p in mark.points) / len(mark.points) for k in (0, 1))
    height = next(b[1] + (a[1] - b[1]) * (b[0] - x) / (b[0] - a[0])
                  for a, b in zip(line.points, line.points[1:], strict=False) if a[0] <= x <= b[0])  # fmt: skip
    assert (y <= height + 0.5) is above
    assert ("on or above the line" if above else "below the line") in saving_alt(20, new)
    assert line.said.startswith("99 %") and line.colour == mark.colour


def test_the_map_says_99_only_with_counts():
    assert saving_alt(20, 150) == (
        "Share of the payload bytes of policy none that a cache saves, by prompt and new tokens, 1 to 1,024 each; 99 % "
        "is true from a number of new tokens on, 199 with 1, 173 with 32, 105 with 1,024 prompt tokens. This reply, 20 "
        "prompt and 150 new tokens, saves 98.8 %, below the line: 99 % from 182 new tokens on."
    )
    words = [s.words for s in saving_sketch(1, 1).shapes if s.kind == "text"]
    assert {"50 %", "75 %", "90 %", "95 %", "99 %"} < set(words)
    assert border(0.99)[0] == (1, 199) and border(0.99)[-1][0] == LARGEST
    dots = [s for s in saving_sketch(1, 1).shapes if s.kind == "area" and not s.said and len(s.points) == 4]
    (line,) = [s for s in saving_sketch(1, 1).shapes if s.dashed]
    assert len(dots) > 40 and all(p[1] < max(y for _, y in line.points) for s in dots[:-2] for p in s.points)


@pytest.mark.parametrize(("share", "words"), [(0.98999, "98.9 %"), (0.99, "99.0 %"), (1 - 0.01, "99.0 %"),
                                              (0.9896, "98.9 %"), (0.0, "0.0 %"), (1.0, "100.0 %")])  # fmt: skip
def test_a_share_is_never_rounded_up(share, words):
    assert percent(share) == words


def test_bars_are_as_long_as_their_flops_and_the_second_pass_is_hatched():
    sheet = recomputed_sketch(FLOPS, "hidden")

    def reach(shape):
        return max(x for x, _ in shape.points) - min(x for x, _ in shape.points)

    once, again = areas(sheet, BODY, "FLOP"), areas(sheet, REJECTED, "FLOP")
    assert len(once) == 3 and len(again) == 2  # kv does nothing again
    assert reach(once[0]) == pytest.approx(reach(once[2]))
    assert reach(again[0]) / reach(once[0]) == pytest.approx(FLOPS["none"].again / FLOPS["none"].first)
    assert sum(s.kind == "line" and s.colour == "#ffffff" for s in sheet.shapes) > 20
    assert "the policy in force" in titles(sheet)
    assert recomputed_alt(FLOPS).startswith("FLOPs of the body in one reply by cache policy: none 2.")
    assert "hidden 2.1 GFLOP (95% of it done again), kv 10" in recomputed_alt(FLOPS)
    first, second = figures.recomputed(FLOPS).figure.data
    assert first.x[2] == FLOPS["kv"].total and second.x[2] == 0 and first.marker.pattern.shape == "."
    with pytest.raises(ValueError, match="at least one policy"):
        recomputed_alt({})


@pytest.mark.parametrize("policy", ["none", "hidden", "kv"])
@pytest.mark.parametrize(("prompt", "new"), [(6, 12), (1, 1), (300, 400)])
def test_every_moment_can_be_drawn(policy, prompt, new):
    moments = told(policy, prompt, new)
    for k in sorted({0, len(moments) // 2, *(at(moments, m.what) for m in moments)}):
        sheet = caches_sketch(moments, k, policy)
        right = max(x for s in sheet.shapes if s.kind != "text" for x, _ in s.points)
        assert right <= sheet.width and len(sheet.png()) > 1000
        assert caches_alt(moments, k, policy).startswith(f"Step {k + 1} of {len(moments)}, {moments[k].what}: ")
        assert len(sheet.shapes) < 900


@pytest.mark.parametrize("what", ["decode", "draft", "replay"])
def test_what_crosses_is_drawn_apart_from_what_is_remembered(what):
    moments = told("kv")
    k = at(moments, what)
    now = moments[k]
    sheet = caches_sketch(moments, k, "kv")
    assert len(areas(sheet, HEAD, "hidden vector")) == now.local - now.vectors
    assert len(areas(sheet, TAIL, "hidden vector, crosses")) == now.vectors
    assert len(areas(sheet, BODY, "key and value")) == 2 * (now.host - now.vectors)  # a key and a value each
    assert len(areas(sheet, TAIL, "key and value, crosses")) == 2 * now.vectors
    assert sum(s.kind == "line" and s.colour == "#ffffff" for s in sheet.shapes) >= 2 * now.vectors


def test_rejected_positions_are_hatched_on_both_sides_until_the_next_step():
    for policy, places in (("kv", 4), ("hidden", 4), ("none", 2)):  # without a memory there is nothing to reject
        moments = told(policy)
        k = at(moments, "rollback")
        sheet = caches_sketch(moments, k, policy)
        assert sum("rejected" in s.said for s in sheet.shapes) == places
        assert sum(s.colour == REJECTED and s.kind == "line" for s in sheet.shapes) > 10 * places
        assert "nothing crosses" in [s.words for s in sheet.shapes]
        assert not any("rejected" in s.said for s in caches_sketch(moments, k + 1, policy).shapes)


def test_a_host_without_a_memory_is_an_empty_frame():
    for policy, what, words in (("none", "decode", "remembers nothing"), ("kv", "lost", "has forgotten everything")):
        moments = told(policy)
        sheet = caches_sketch(moments, at(moments, what), policy)
        assert words in [s.words for s in sheet.shapes] and not areas(sheet, BODY, "position")
        assert any(s.dashed for s in sheet.shapes)


def test_sentences_of_the_caches():
    moments = told("kv")
    assert caches_alt(moments, 4, "kv") == (
        "Step 5 of 12, draft: a token and guesses behind it; 5 vectors up, 5 down from position 9, the host computes 5 "
        "positions. The local slot remembers 14 positions, the host 14 as keys and values."
    )
    assert "the last 2 positions were wrong guesses" in caches_alt(moments, 5, "kv")
    assert "computes 14 positions. The local slot remembers 14 positions, the host 14 as hidden vectors" in caches_alt(
        told("hidden"), 4, "hidden"
    )
    shown = figures.caches(moments, 5, "kv")
    assert shown.alt == caches_alt(moments, 5, "kv") and shown.figure is None
    with pytest.raises(IndexError):
        figures.caches(moments, 99, "kv")


def test_hatching_stays_in_its_box():
    for lean in ("/", "\\", "x"):
        sheet = Sketch(100, 100)
        hatch(sheet, 13, 20, 41, 55, "#000000", lean)
        assert len(sheet.shapes) > 8
        for shape in sheet.shapes:
            (x, y), (x2, y2) = shape.points
            assert 13 <= x < x2 <= 41 and 19.99 <= min(y, y2) < max(y, y2) <= 55.01
            assert abs(x2 - x) == pytest.approx(abs(y2 - y))


def test_a_logarithmic_x_axis():
    axes = Axes(Sketch(400, 200), (1, 1000), (0, 1), "x", "y", log_x=True)
    assert axes.x(1) == axes.left and axes.x(1000) == axes.right
    assert axes.x(10) - axes.left == pytest.approx((axes.right - axes.left) / 3)


def test_a_bent_dashed_line_is_dashed_along_all_of_it():
    from lsplit_kit.figures.sketch import _dashes

    pieces = _dashes([(0, 0), (50, 0), (50, 50)])
    assert len(pieces) == 5 and all(
        abs(a[0] - b[0]) + abs(a[1] - b[1]) == pytest.approx(10) for a, b in pieces if a[0] == b[0] or a[1] == b[1]
    )
    assert pieces[0][0] == (0, 0) and pieces[-1][1][1] > 35
    assert _dashes([(0, 0), (30, 0)]) == [[(0, 0), (10, 0)], [(20, 0), (30, 0)]]


def test_guesses_in_a_prefill_are_not_taken_for_the_prompt():
    read = [measure.Moment("prefill", 0, 15, 15, 15, 15), measure.Moment("rollback", 0, 0, 0, 11, 15, 4)]
    for k in (0, 1):
        sheet = caches_sketch(read, k, "kv")
        (edge,) = {s.points[0][0] for s in sheet.shapes if s.kind == "line" and s.width == 2.0 and s.points[0][1] < 45}
        assert edge == pytest.approx(LEFT + 11 * 26)
