"""Figures of quantisation: what they show of known data, their sentences, labels that do not meet, and odd input."""

import io
import json
import math
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from lsplit_kit import figures
from lsplit_kit.errors import CodecError, UnsupportedOption
from lsplit_kit.figures.axes import decades, spread_out, ticks
from lsplit_kit.figures.plane import family_of
from lsplit_kit.figures.quantization import channels_sketch, levels_sketch, plane_alt, plane_sketch
from lsplit_kit.figures.sketch import Sketch
from lsplit_kit.figures.style import HEAD

ROWS = [
    {"codec": "int8", "bits": 8.06, "snr_db": 41.0}, {"codec": "int4", "bits": 4.06, "snr_db": 16.3},
    {"codec": "uniform:step=0.3+delta+ans", "bits": 1.8, "snr_db": 26.3},
    {"codec": "fp32", "bits": 32.0, "snr_db": math.inf},
]  # fmt: skip


@pytest.fixture(scope="module")
def noise():
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def hidden():
    hidden = torch.rand(1, 7, 32, generator=torch.Generator().manual_seed(0)) + 1
    hidden[0, 0, 5], hidden[0, 3, 20] = 500, -60
    return hidden


def drawing(sketch, alt="what it shows"):
    return ElementTree.fromstring(sketch.svg(alt))


def titles(sketch):
    return [e.text for e in drawing(sketch).iter("title")]


def words(sketch):
    return [e.text for e in drawing(sketch).iter("text")]


def test_exported():
    assert {"rate_distortion", "levels", "channels"} <= set(figures.__all__)


@pytest.mark.parametrize("make", [lambda n, h: figures.rate_distortion(ROWS), lambda n, h: figures.levels(n, "int4"),
                                  lambda n, h: figures.levels(h, "int8", log=True),
                                  lambda n, h: figures.channels(h)])  # fmt: skip
def test_each_is_a_live_figure_a_picture_and_a_sentence(make, noise, hidden):
    shown = make(noise, hidden)
    bundle, _ = shown._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.plotly.v1+json", "image/png", "text/plain"}
    assert json.dumps(bundle["application/vnd.plotly.v1+json"], allow_nan=False)
    assert Image.open(io.BytesIO(shown.png)).size[0] < 600
    assert shown.alt.endswith(".") and len(shown.alt) > 60 and make(noise, hidden).png == shown.png


def test_the_plane_has_every_point_and_shannons_line():
    figure = figures.rate_distortion(ROWS, now="int4").figure
    line, *groups = figure.data
    assert line.line.dash == "dash" and line.y[1] == pytest.approx(line.x[1] / 6.0206, rel=1e-4)
    assert {(text, x, y) for g in groups for text, x, y in zip(g.text, g.x, g.y, strict=True)} == {
        (row["codec"], row["snr_db"], row["bits"]) for row in ROWS[:3]
    }
    (integers,) = [g for g in groups if g.name == "INT"]
    assert dict(zip(integers.text, integers.marker.symbol, strict=True)) == {"int8": "star", "int4": "circle"}
    assert dict(zip(integers.text, integers.marker.line.width, strict=True)) == {"int8": 0, "int4": 2}
    assert len({(g.marker.color, g.marker.symbol[-1]) for g in groups}) == len(groups)


def test_the_sentence_of_the_plane():
    assert plane_alt(ROWS) == (
        "Bits a value against signal to noise for 4 codecs; from int4 (4.1 bits, 16 dB) to int8 (8.1 bits, 41 dB); "
        "the paper's INT8 at 8.1 bits, 41 dB; below Shannon's line for Gaussian values: uniform:step=0.3+delta+ans; "
        "without an error: fp32."
    )
    assert plane_alt(ROWS[1:2]) == "Bits a value against signal to noise for 1 codec; int4 (4.1 bits, 16 dB)."
    with pytest.raises(ValueError, match="at least one row"):
        figures.rate_distortion([])


def test_the_sketch_of_the_plane_names_points_and_draws_the_line():
    sketch = plane_sketch(ROWS, "int4")
    assert "INT8, the paper's" in words(sketch) and "step=0.3+delta+ans" in words(sketch)
    assert "int4: 4.06 bits a value, 16.3 dB" in titles(sketch) and "Shannon" in words(sketch)
    assert [e.get("stroke-dasharray") for e in drawing(sketch) if e.get("stroke-dasharray")]
    places = dict(zip((r["codec"] for r in ROWS), ROWS, strict=True))
    ends = [s for s in sketch.shapes if s.said.startswith("Shannon")][0].points
    for codec, above in (("int8", True), ("uniform:step=0.3+delta+ans", False)):
        (mark,) = [s for s in sketch.shapes if s.said.startswith(f"{codec}:")]
        x, y = (sum(p[k] for p in mark.points) / len(mark.points) for k in (0, 1))
        (x0, y0), (x1, y1) = ends
        assert (y < y0 + (y1 - y0) * (x - x0) / (x1 - x0)) is above, places[codec]


def test_only_lossless_codecs_or_bad_ones_still_make_a_plane():
    assert plane_sketch(ROWS[3:]).svg("x") and "without an error: fp32" in plane_alt(ROWS[3:])
    low = [{"codec": "int1", "bits": 1.1, "snr_db": -10.4}]
    (mark,) = [s for s in plane_sketch(low).shapes if s.said.startswith("int1")]
    assert min(x for x, _ in mark.points) > 40


@pytest.mark.parametrize(("spec", "name"), [("int8:token", "INT"), ("nf4", "NF4"), ("bf16", "formats"),
                                            ("uniform:snr=30", "uniform"), ("uniform:step=1+delta", "predicted"),
                                            ("mulaw", "others")])  # fmt: skip
def test_families(spec, name):
    assert family_of(spec).name == name


def test_the_histogram_counts_every_value_and_has_every_level(noise):
    bars, rug = figures.levels(noise, "int2").figure.data
    assert sum(bars.y) == noise.numel() and len(rug.x) == 4
    assert (min(rug.x), max(rug.x)) == pytest.approx((float(noise.min()), float(noise.max())), abs=1e-3)
    said = titles(levels_sketch(noise, "int2"))
    assert len([t for t in said if t.startswith("level ")]) == 4
    assert sum(int(t.split()[0].replace(",", "")) for t in said if " values from " in t) == noise.numel()
    assert "with the 4 levels that int2 uses." in figures.levels(noise, "int2").alt


@pytest.mark.parametrize("values", [torch.zeros(1, 4), torch.tensor([[1e-30, -1e-30]]), torch.full((1, 3), 1e30)])
@pytest.mark.parametrize("log", [False, True])
def test_histograms_of_odd_values(values, log):
    assert figures.levels(values, "int8", log).png


def test_a_histogram_of_nothing_or_of_an_unknown_codec(noise):
    with pytest.raises(ValueError, match="at least one value"):
        figures.levels(torch.empty(0, 3), "int8")
    with pytest.raises(CodecError):
        figures.levels(noise, "int9")


def test_outlier_channels_are_apart_and_named(hidden):
    shown = figures.channels(hidden)
    plain, outliers = shown.figure.data
    assert list(outliers.x) == [5, 20] and list(outliers.y) == [500, 60] and len(plain.y) == 32
    assert plain.marker.color == HEAD != outliers.marker.color
    assert shown.alt.endswith("2 outliers, 5: 500 at token 0, 20: 60 at token 3.")
    sketch = channels_sketch(hidden)
    assert {"5: 500 at token 0", "20: 60 at token 3"} <= set(words(sketch))
    assert "no outlier" in figures.channels(hidden[:, 4:]).alt
    with pytest.raises(UnsupportedOption):
        figures.channels(torch.ones(3, dtype=torch.int64))


@pytest.mark.parametrize("width", [1, 2, 383, 385, 5000])
def test_any_width_has_a_chart_of_bounded_size(width):
    hidden = torch.rand(2, width, generator=torch.Generator().manual_seed(1))
    assert len(channels_sketch(hidden).svg("x")) < 100_000
    assert figures.channels(torch.zeros(2, width)).png


@pytest.mark.parametrize(("low", "high"), [(0, 9), (-20, 48), (0, 1e-6), (-3.7, 3.7), (0, 123_456)])
def test_ticks_are_round_inside_and_few(low, high):
    found = ticks(low, high)
    assert 3 <= len(found) <= 8 and low <= found[0] and found[-1] <= high
    assert len({round((b - a) / (high - low), 6) for a, b in zip(found, found[1:], strict=False)}) == 1


def test_decades():
    assert decades(0.5, 12000) == [1, 10, 100, 1000, 10000] and decades(1, 10) == [1, 2, 5, 10]
    assert decades(3, 40) == [5, 10, 20]


def test_labels_do_not_meet_and_stay_inside():
    labels = [(80 + k % 3, 60 + k % 2, f"label {k}") for k in range(14)]
    found = spread_out(labels, [(74, 54, 88, 67)], (0, 0, 180, 120))
    put = [(x, y - 10, x + 6.6 * len(label[2]), y + 2) for label, (x, y) in
           ((label, place) for label, place in zip(labels, found, strict=True) if place)]  # fmt: skip
    assert 2 < len(put) < 14 and found[0] is not None
    for i, a in enumerate(put):
        assert a[0] >= 0 and a[1] >= 0 and a[2] <= 180 and a[3] <= 120
        assert all(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for b in put[:i])


def test_a_sketch_says_the_same_as_svg_and_png():
    sheet = Sketch(60, 40)
    sheet.box(10, 10, 30, 30, "#ff0000", said="<b>")
    sheet.line(0, 35, 60, 35, dashed=True)
    sheet.text(40, 20, "a & b")
    sheet.ring(50, 10, 6)
    root = drawing(sheet, 'says "so"')
    assert root.get("role") == "img" and root.get("aria-label") == 'says "so"' and root.get("fill") == "currentColor"
    assert [e.text for e in root.iter("title")] == ["<b>"] and words(sheet) == ["a & b"]
    image = Image.open(io.BytesIO(sheet.png())).convert("RGB")
    assert image.size == (120, 80) and image.getpixel((40, 40)) == (255, 0, 0)
    assert image.getpixel((100, 20)) == (255, 255, 255) and image.getpixel((100, 8)) == (51, 51, 51)
    row = [image.getpixel((x, 70)) for x in range(120)]
    assert 20 < sum(pixel != (255, 255, 255) for pixel in row) < 100  # dashed
    assert Image.open(io.BytesIO(sheet.png(small=True))).size == (60, 40)
