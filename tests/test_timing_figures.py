"""Bars of the deployments and the crossover map: every number drawn is the measure's, and every cue is doubled."""

import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from lsplit_kit.figures import crossover, crossover_map, deployment_bars
from lsplit_kit.figures.crossover import LOOKS as SIGNS
from lsplit_kit.figures.crossover import RATES, RTTS, crossover_sketch
from lsplit_kit.figures.timing import LOOKS, bars_sketch, seconds
from lsplit_kit.measure import budget, pricing, recorded
from lsplit_kit.measure.budget import SPENT
from lsplit_kit.measure.latency import Times
from lsplit_kit.wire.network import Network, network


@pytest.fixture(scope="module")
def table():
    return budget(recorded(), 32, 32, "5g", host_speed=10)


@pytest.fixture(scope="module")
def seen():
    return crossover_map(pricing(recorded(), 32, 32, host_speed=10), network("5g"))


MEASURED = {"split": Times("split", 0.3, np.ones(31) * 0.1, 0.004)}


def titles(sketch):
    root = ElementTree.fromstring(sketch.svg("x").replace("currentColor", "black"))
    return [e.text for e in root.iter("title")]


def test_every_part_has_its_own_colour_and_its_own_hatch():
    assert set(LOOKS) == set(SPENT)
    for cue in (0, 1):
        assert len({look[cue] for look in LOOKS.values()}) == len(LOOKS)
        assert len({look[cue] for look in SIGNS.values()}) == len(SIGNS) == 3


def test_bars_hold_the_budget_to_four_digits(table):
    figure = deployment_bars(table, MEASURED).figure
    for trace in (t for t in figure.data if t.type == "bar"):
        part = next(p for p, w in LOOKS.items() if trace.marker.color == w[0])
        assert list(trace.x) == pytest.approx(table[part].to_numpy(), abs=1e-4)
    first, measured = figure.data[-2:]
    assert list(first.x) == pytest.approx(table["first"].to_numpy(), abs=1e-4)
    assert list(measured.x) == [3.404] and list(measured.y) == ["split"]


def test_the_sketch_says_each_part_and_the_measured_point(table):
    said = titles(bars_sketch(table, MEASURED))
    assert f"split, waiting for the line: {seconds(table.loc['split', 'waiting'])}" in said
    assert "measured: 3.4 s" in said and not any(s.startswith("local, bytes up") for s in said)
    assert "measured" not in " ".join(titles(bars_sketch(table)))


def test_the_bars_sentence_names_totals_and_the_largest_part(table):
    alt = deployment_bars(table, MEASURED).alt
    assert alt.startswith("The whole reply takes local ") and "the split's largest part is waiting for the line" in alt
    assert alt.endswith("measured: split 3.4 s.")


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.00042, "0.42 ms"), (0.081, "81 ms"), (0.5, "0.50 s"), (3.44, "3.4 s"), (125.9, "126 s"), (720, "12 min")],
)
def test_times_have_two_digits_or_so(value, words):
    assert seconds(value) == words


def test_the_map_draws_the_fastest_of_every_field(seen):
    heat = crossover(seen).figure.data[0]
    assert np.asarray(heat.text).tolist() == seen.names.to_numpy().tolist()
    assert seen.names.shape == (len(RATES), len(RTTS))
    drawn = titles(crossover_sketch(seen))
    assert any(t.startswith("cloud is fastest") for t in drawn) and "this network: cloud is fastest" in drawn


def test_without_the_cloud_split_wins_near_and_local_far(seen):
    two = crossover_map(pricing(recorded(), 32, 32, host_speed=10), network("5g"), ("local", "split"))
    names = two.names.loc[RATES[-1]]
    assert names.iloc[0] == "split" and names.iloc[-1] == "local" and "cloud in" not in crossover(two).alt
    even = two.even[RATES[-1]]
    assert [n == "split" for n in names] == [rtt < even for rtt in RTTS]


def test_a_network_off_the_map_is_drawn_at_its_edge():
    far = crossover_map(pricing(recorded(), 8, 4), Network(rtt_ms=9000))
    assert "9000 ms" in crossover(far).alt and crossover(far).figure.data[-1].x[0] == RTTS[-1]


def test_pictures_are_one_pixel_a_unit_beside_a_figure(table, seen):
    for shown, width in ((deployment_bars(table), 620), (crossover(seen), 390)):
        assert Image.open(io.BytesIO(shown.png)).width == width and "image/png" in shown._repr_mimebundle_()[0]
