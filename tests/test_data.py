"""The texts of the attacks: as many, as long and as unlike as the card says, and canaries whose bits are exact."""

import re
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from itertools import combinations
from math import log2
from pathlib import Path
from pydoc_data.topics import topics as texts_of_python

import describe_data
import pytest
import yaml
from describe_data import words

from lsplit_kit import data
from lsplit_kit.data.canaries import ALPHABET, CARRIERS, KINDS, LENGTH
from lsplit_kit.data.topics import calibrating
from lsplit_kit.errors import UnsupportedOption
from lsplit_kit.measure.corpus import DOMAINS as CORPUS
from lsplit_kit.measure.corpus import PARTS, corpus

FOLDER = Path(data.__file__).parent
ALL = [prompt.text for prompt in data.prompts()]
# The 99.9 % points of chi-squared by degrees of freedom; seeds fix the draws, so these hold always or never.
CHI2 = {9: 27.9, 31: 61.1, 127: 181.9}
SECRETS = ["9485", "7983", "9044", "Yselda", "Nalvina", "Brisea", "5QZC4U", "592R9E", "N4PKUK"]
CALIBRATING = {"augassign", "callable-types", "comparisons", "debugger", "imaginary", "in", "lambda", "truth"}


def grams(text, size):
    found = words(text)
    return {tuple(found[i : i + size]) for i in range(len(found) - size + 1)}


def twice(texts, size):
    """The sequences of `size` words that stand in more than one text."""
    counts = Counter(gram for text in texts for gram in grams(text, size))
    return [" ".join(gram) for gram, count in counts.items() if count > 1]


# Prompts


@pytest.mark.parametrize("domain", data.DOMAINS)
def test_a_domain_holds_fifty_tidy_lines(domain):
    found = data.prompts(domain)
    assert len(found) == 50 and {prompt.domain for prompt in found} == {domain}
    for _, text in found:
        assert text and text == text.strip() and text.isprintable(), repr(text)


def test_no_prompt_stands_twice():
    assert len({tuple(words(text)) for text in ALL}) == len(ALL) == 300


@pytest.mark.parametrize("domain", data.DOMAINS)
def test_lengths(domain):
    lengths = [len(words(prompt.text)) for prompt in data.prompts(domain)]
    assert min(lengths) >= 6 and max(lengths) <= 45
    assert 18 <= sum(lengths) / len(lengths) <= 22
    assert sum(12 <= length <= 30 for length in lengths) >= 45


def test_prompts_are_unlike_each_other():
    assert not twice(ALL, 6)
    openings = Counter(tuple(words(text)[:3]) for text in ALL)
    assert not [opening for opening, count in openings.items() if count > 1]


def test_words_that_stand_twice_are_found():
    assert twice(["Today the ferry leaves at noon, alone", "THE FERRY: leaves at noon"], 5) == [
        "the ferry leaves at noon"
    ]
    assert not twice(["Today the ferry leaves at noon, alone", "THE FERRY: leaves at noon"], 6)
    assert twice(["你好，世界", "世界"], 2) == ["世 界"]


@pytest.mark.parametrize("source", ["topics", *CORPUS])
def test_no_prompt_has_words_from_the_other_texts(source):
    others = [t for _, t in data.topics()] if source == "topics" else [t for p in PARTS for t in corpus(source, p)]
    theirs = set().union(*(grams(text, 13) for text in others))
    assert len(theirs) > 100
    for text in [*ALL, *(carrier for carriers in CARRIERS.values() for carrier in carriers)]:
        assert not grams(text, 13) & theirs, text


def test_any_first_part_is_balanced():
    for count in range(1, 301):
        held = Counter(prompt.domain for prompt in data.prompts(count=count))
        assert sum(held.values()) == count
        assert max(held.values()) - min(held[domain] for domain in data.DOMAINS) <= 1


@pytest.mark.parametrize("domain", [None, *data.DOMAINS])
def test_a_count_takes_the_first(domain):
    assert data.prompts(domain, 7) == data.prompts(domain)[:7]


def test_a_list_of_prompts_belongs_to_the_caller():
    data.prompts("legal").clear()
    assert len(data.prompts("legal")) == 50


def test_languages_and_scripts():
    text = "".join(prompt.text for prompt in data.prompts("language", 11))
    assert all(re.search(letter, text) for letter in ("[а-я]", "[ぁ-ん]", "[一-龥]", "ğ|ş", "ł|ż", "ü", "ç"))


def test_addresses_and_numbers_are_reserved_ones():
    joined = "\n".join(ALL)
    mails = re.findall(r"[\w.]+@[a-z][\w.-]*\.[a-z]+", joined)
    hosts = re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", joined)
    phones = re.findall(r"\b555-\d{4}\b", joined)
    assert mails and all(mail.endswith(".example") for mail in mails)
    assert hosts and all(host.startswith("192.0.2.") for host in hosts)
    assert phones and all(phone.startswith("555-01") for phone in phones)


# Canaries


@pytest.mark.parametrize("kind", KINDS)
def test_a_canary_carries_its_secret_at_its_offsets(kind):
    shape = {"pin": r"\d{4}", "name": r"[A-Z][a-z]+", "code": f"[{ALPHABET}]{{6}}"}[kind]
    drawn = data.canaries(kind, 200, seed=3)
    assert len({c.text.replace(c.secret, "{}") for c in drawn}) == len(CARRIERS[kind])
    for c in drawn:
        assert c.text[c.start : c.end] == c.secret and c.text.count(c.secret) == 1
        assert c.text.replace(c.secret, "{}") in CARRIERS[kind]
        assert re.fullmatch(shape, c.secret) and c.kind == kind
        assert c.bits == log2(data.space(kind))


def test_another_secret_in_the_same_sentence():
    for c in data.canaries("name", 20, seed=0):
        other = c.with_secret("Zo")
        assert other[c.start :].startswith("Zo") and other.replace("Zo", c.secret) == c.text
        assert c.with_secret(c.secret) == c.text


def test_a_seed_gives_the_same_canaries_everywhere():
    # Written down, so that another Python version or a new order of draws shows.
    assert [c.secret for kind in KINDS for c in data.canaries(kind, 3, seed=0)] == SECRETS
    assert data.canaries("code", 50, seed=1)[:10] == data.canaries("code", 10, seed=1)
    assert data.canaries("code", 10, seed=1) != data.canaries("code", 10, seed=2)


def uneven(values, cells):
    """Chi-squared against equal counts in every cell."""
    counts, expected = Counter(values), len(values) / cells
    assert len(counts) == cells
    return sum((count - expected) ** 2 / expected for count in counts.values())


@pytest.mark.parametrize(("kind", "cells"), [("pin", 10), ("code", len(ALPHABET))])
def test_every_character_is_drawn_evenly(kind, cells):
    secrets = [c.secret for c in data.canaries(kind, 10_000, seed=5)]
    for place in zip(*secrets, strict=True):
        assert uneven(place, cells) < CHI2[cells - 1]


def test_every_name_is_drawn_evenly():
    assert uneven([c.secret for c in data.canaries("name", 20_000, seed=6)], 128) < CHI2[127]


def test_every_carrier_is_as_likely_for_every_secret():
    seen = defaultdict(Counter)
    for c in data.canaries("name", 20_000, seed=7):
        seen[c.text.replace(c.secret, "{}")][c.secret] += 1
    for counts in seen.values():
        assert uneven(list(counts.elements()), 128) < CHI2[127]


@pytest.mark.parametrize("kind", ["pin", "name"])
def test_the_public_list_holds_every_secret_once(kind):
    size = data.space(kind)
    assert len({data.candidate(kind, number) for number in range(size)}) == size


def test_codes_are_numbers_to_the_base_of_their_alphabet():
    assert data.space("code") == 32**LENGTH and len(set(ALPHABET)) == 32
    for number in (0, 1, 31, 32, 123_456_789, 32**LENGTH - 1):
        code = data.candidate("code", number)
        assert len(code) == LENGTH
        assert sum(ALPHABET.index(c) * 32**place for place, c in enumerate(reversed(code))) == number


def test_no_name_is_part_of_another_or_stands_in_a_prompt():
    names = data.names()
    assert not [pair for pair in combinations(names, 2) if pair[0].lower() in pair[1].lower()]
    assert not [pair for pair in combinations(names, 2) if pair[1].lower() in pair[0].lower()]
    assert not {name.lower() for name in names} & {word for text in ALL for word in words(text)}


# Topics


def test_topics_are_python_s_own_by_name():
    assert dict(data.topics()) == {name: text.strip() for name, text in texts_of_python.items()}
    assert [name for name, _ in data.topics()] == sorted(texts_of_python)
    assert 400_000 < sum(len(text) for _, text in data.topics()) < 600_000


def test_a_tenth_calibrates_and_the_rest_fits():
    fit, calibrate, both = (data.topics(split) for split in ("fit", "calibrate", "all"))
    assert len(calibrate) == round(len(both) / 10) > 0
    assert sorted(fit + calibrate) == both and not set(fit) & set(calibrate)
    assert 0.05 < sum(len(t.text) for t in calibrate) / sum(len(t.text) for t in both) < 0.15


def test_the_calibrating_tenth_is_the_same_on_every_python():
    # The names are those of Python 3.11 to 3.13; a new one may push out the last of the tenth and no other.
    names = {topic.name for topic in data.topics()}
    assert calibrating(names) == CALIBRATING
    for new in ("async-generators", "zebra", "lazy-imports", "match"):
        assert len(CALIBRATING - calibrating(names | {new})) <= 1


def test_a_python_without_topics_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UnsupportedOption, match="no pydoc_data .* install the full standard library"):
        data.topics()


# The rest


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: data.prompts("poetry"), "no prompts of 'poetry'.*everyday, medical"),
        (lambda: data.prompts(5), "no prompts of 5"),
        (lambda: data.prompts(["legal"]), r"no prompts of \['legal'\]"),
        (lambda: data.prompts(count=0), "count is 0.*from 1 to 300"),
        (lambda: data.prompts("code", 51), "count is 51.*from 1 to 50"),
        (lambda: data.prompts(count=2.0), "count is 2.0"),
        (lambda: data.prompts(count=True), "count is True"),
        (lambda: data.canaries("password", 1, 0), "no canaries of 'password'.*pin, name, code"),
        (lambda: data.canaries(["pin"], 1, 0), "no canaries of"),
        (lambda: data.canaries("pin", 0, 0), "count is 0.*at least 1"),
        (lambda: data.canaries("pin", "3", 0), "count is '3'"),
        (lambda: data.canaries("pin", 3, None), "seed is None.*whole number"),
        (lambda: data.canaries("pin", 3, 0.5), "seed is 0.5"),
        (lambda: data.candidate("pin", 10_000), "number is 10000.*from 0 to 9999"),
        (lambda: data.candidate("name", -1), "number is -1.*from 0 to 127"),
        (lambda: data.space("iban"), "no canaries of 'iban'"),
        (lambda: data.topics("test"), "no split 'test'.*fit, calibrate, all"),
        (lambda: data.topics(None), "no split None"),
    ],
)
def test_a_mistake_is_one_sentence(call, said):
    with pytest.raises(UnsupportedOption, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_numbers_of_the_card_are_those_of_the_texts():
    card = describe_data.CARD.read_text("utf-8")
    assert describe_data.described(card) == card, "run python scripts/describe_data.py"
    assert describe_data.described(card.replace("| 300 |", "| 301 |")) == card != card.replace("| 300 |", "| 301 |")


def test_the_head_of_the_card_has_the_kit_s_licence():
    head = yaml.safe_load(describe_data.CARD.read_text("utf-8").split("---\n")[1])
    project = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text("utf-8"))["project"]
    assert head["license"] == project["license"].lower()
    assert len(set(head["language"])) == len(head["language"]) == 12


def test_the_card_names_every_domain_kind_and_split():
    text = (FOLDER / "CARD.md").read_text("utf-8")
    assert all(f"`{part}`" in text or f'"{part}"' in text or f"| {part} |" in text for part in (*data.DOMAINS, *KINDS))
    assert all(f'topics("{split}")' in text for split in ("fit", "calibrate"))
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1], {})


def test_no_file_of_the_room_makes_a_split_more_than_a_separation():
    for path in [*FOLDER.rglob("*.py"), *FOLDER.rglob("*.md")]:
        assert not re.search(r"\b(private|secure|obfuscat\w*)\b", path.read_text("utf-8"), re.I), path


def test_the_room_needs_no_torch():
    code = (
        "import sys, lsplit_kit.data as d; d.topics(); assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
