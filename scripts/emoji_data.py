"""The pictures and captions that emoji-ldm is trained on: Noto emoji on white, and drawn shapes.

`load(folder)` gives them as one list; everything is made from one npm package, checked by its SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

PACKAGE = "emoji-datasource-google@16.0.0"  # pictures: Noto emoji, Apache-2.0; emoji.json: MIT
ARCHIVE = "emoji-datasource-google-16.0.0.tgz"
SHA256 = "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"
SIDE, ART = 64, 56  # pixels of a picture, and of the art in its middle: the margin is room for shifts
MARGIN = (SIDE - ART) // 2
SHIFTS = [(x, y) for x in range(-2, 3) for y in range(-2, 3)]
HELD_BACK_SHIFTS = [(1, 2), (-2, 1), (2, -1), (-1, -2), (1, 0)]  # never trained on: the auto-encoder's test
TRAINED_SHIFTS = [s for s in SHIFTS if s not in HELD_BACK_SHIFTS]

CATEGORIES = ("Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects", "Smileys & Emotion")
# Left out: what few people could name or what differs from its neighbour by a line of a few pixels.
SKIPPED_KINDS = {"face-concerned", "face-neutral-skeptical", "face-unwell", "face-hand", "face-sleepy", "face-tongue"}
SKIPPED_NAMES = re.compile(
    r"clock face|moon symbol|negative|banknote|envelope|mailbox|oncoming|tray|chart|book|page|speaker|card|"
    r"light rail|trolleybus|railway car|metro|station|japanese|place medal|love hotel|smoking|coffin|pistol|"
    r"suspension|aerial|cableway|mountain railway|tram car|arrow at left|minidisc|trackball|slider|control knobs|"
    r"headstone|funeral|hamsa|nazar|moyai|probing|hair pick|diya|lab coat|running shirt|left-pointing|motorway|"
    r"railway track|globe europe|globe asia|silhouette|european post|department|convenience|mate drink|oden|tamale|"
    r"flatbread|shallow pan|beverage box|izakaya|postal horn|film frames|receipt|ledger|tear-off|spiral (note|cal)|"
    r"linked paper|lock with|lock with key|hammer and|with cancellation|petri|x-ray|crutch|anger|left speech|"
    r"eye in speech|carp streamer|tanabata|pine decoration|moon viewing|mahjong|reminder|admission|articulated|"
    r"building construction|identification|symbols covering|sun behind (small|large)|with decorative|three hearts"
)
KEPT_FACES = {
    "sleeping", "stuck_out_tongue", "confused", "cry", "sob", "scream", "neutral_face", "thinking_face", "mask",
    "open_mouth", "white_frowning_face", "exploding_head", "cold_face", "hot_face", "nauseated_face",
}  # fmt: skip

# The words that a person would use where the official name is another.
SAID = {
    "red apple": "apple", "aubergine": "eggplant", "automobile": "car", "bicycle": "bike", "lady beetle": "ladybug",
    "honeybee": "bee", "hamburger": "burger", "slice of pizza": "pizza", "ear of maize": "corn", "hocho": "knife",
    "hot beverage": "coffee", "beer mug": "beer", "doughnut": "donut", "electric light bulb": "light bulb",
    "jack-o-lantern": "pumpkin", "heavy black heart": "red heart", "extraterrestrial alien": "alien",
    "white medium star": "star", "black sun with rays": "sun", "house building": "house", "television": "tv",
    "soccer ball": "football", "frog face": "frog", "lion face": "lion", "fox face": "fox", "bear face": "bear",
    "panda face": "panda", "wolf face": "wolf", "hamster face": "hamster", "unicorn face": "unicorn",
    "giraffe face": "giraffe", "zebra face": "zebra", "robot face": "robot", "clown face": "clown",
    "wrapped present": "present", "personal computer": "laptop", "black telephone": "telephone", "shirt": "t-shirt",
    "black scissors": "scissors", "mobile phone": "phone", "high voltage sign": "lightning bolt",
    "gem stone": "diamond", "kiwifruit": "kiwi", "poultry leg": "chicken leg", "cheese wedge": "cheese",
    "fish cake with swirl design": "fish cake",
    "electric torch": "flashlight", "black nib": "pen nib", "pile of poo": "poop", "steaming bowl": "noodle soup",
    "cooking": "fried egg", "shortcake": "slice of cake", "water wave": "wave", "evergreen tree": "fir tree",
    "deciduous tree": "tree", "spiral shell": "shell", "spouting whale": "blue whale", "blowfish": "pufferfish",
    "racing car": "race car", "delivery truck": "truck", "steam locomotive": "steam train", "alarm clock": "clock",
    "basketball and hoop": "basketball", "tennis racquet and ball": "tennis", "cooked rice": "bowl of rice",
    "face screaming in fear": "scared face", "smiling face with sunglasses": "cool face", "crying face": "sad face",
    "grinning face": "happy face", "winking face": "wink", "smiling face with heart-shaped eyes": "face in love",
}  # fmt: skip

UNSAID = {"shit", "hankey", "flipper", "hocho", "8ball", "mag_right", "date", "imp"}

COLOURS = {
    "red": "#dd2e2e", "orange": "#f58a1f", "yellow": "#fcd21c", "green": "#3aa33a", "blue": "#2f6fdb",
    "purple": "#8a3fc0", "pink": "#f583b5", "brown": "#8a5530", "black": "#1c1c1c", "grey": "#8d9298",
}  # fmt: skip
FORMS = ("circle", "square", "triangle", "star", "diamond", "ring", "cross")
# Never trained on: whether the model can join a colour and a form that it has seen apart.
HELD_BACK = {("green", "star"), ("purple", "triangle"), ("orange", "ring"), ("blue", "diamond"), ("pink", "square")}


@dataclass(frozen=True)
class Picture:
    """One thing to draw: its names, its pixels [64, 64, 3] uint8, and whether its mirror image is as true."""

    names: tuple[str, ...]
    kind: str
    pixels: np.ndarray
    mirrored: bool


def fetch(folder: Path) -> Path:
    """The npm package's archive in `folder`, fetched with `npm pack` when missing; ValueError on a wrong hash."""
    archive = folder / ARCHIVE
    if not archive.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError(f"npm is missing: install it, or put {ARCHIVE} into {folder}")
        subprocess.run([npm, "pack", PACKAGE, "--silent"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
        raise ValueError(f"{ARCHIVE} is not the archive this script knows: delete it and run again")
    return archive


def on_white(art: Image.Image) -> np.ndarray:
    """An RGBA picture, made ART pixels wide, in the middle of a white one [64, 64, 3]."""
    small = art.convert("RGBA").resize((ART, ART), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (SIDE, SIDE), "white")
    canvas.alpha_composite(small, (MARGIN, MARGIN))
    return np.asarray(canvas.convert("RGB"))


def plain(name: str) -> str:
    """A name as a prompt would have it: lower case, no underscores, no trailing number."""
    return re.sub(r"\s+", " ", re.sub(r"\d+$", "", name.lower().replace("_", " ").replace("’", ""))).strip()


def is_kept(entry: dict) -> bool:
    """Whether an entry of emoji.json is one of the things to learn."""
    if not entry["has_img_google"] or entry["category"] not in CATEGORIES:
        return False
    if entry["subcategory"] in SKIPPED_KINDS:
        return entry["short_name"] in KEPT_FACES
    return not SKIPPED_NAMES.search(entry["name"].lower())


def emoji(archive: Path) -> list[Picture]:
    """The chosen emoji; a name that two could claim goes to the one whose full name it is, else to the first."""
    with tarfile.open(archive) as tar:
        entries = json.load(tar.extractfile("package/emoji.json"))
        entries = sorted((e for e in entries if is_kept(e)), key=lambda e: e["sort_order"])
        art = [Image.open(io.BytesIO(tar.extractfile(f"package/img/google/64/{e['image']}").read())) for e in entries]
    taken = {plain(e["name"]): i for i, e in reversed(list(enumerate(entries)))}
    for i, e in enumerate(entries):
        for name in (SAID.get(plain(e["name"]), ""), *e["short_names"]):
            if len(plain(name)) > 1 and name not in UNSAID:
                taken.setdefault(plain(name), i)
    names: list[list[str]] = [[] for _ in entries]
    for name, i in taken.items():
        names[i].append(name)
    return [
        Picture(
            tuple(dict.fromkeys([SAID.get(plain(e["name"]), plain(e["name"])), *n])),
            e["category"],
            on_white(a),
            e["category"] == "Animals & Nature",
        )
        for e, a, n in zip(entries, art, names, strict=True)
        if n
    ]


def polygon(form: str, r: float) -> list[tuple[float, float]]:
    """Corners of a form of radius `r` around the origin."""
    if form == "star":
        turns = [(2 * np.pi * k / 10 - np.pi / 2, r if k % 2 == 0 else 0.42 * r) for k in range(10)]
        return [(d * np.cos(a), d * np.sin(a)) for a, d in turns]
    w = 0.33 * r
    corners = {
        "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
        "triangle": [(0, -0.95), (1, 0.8), (-1, 0.8)],
        "diamond": [(0, -1), (0.75, 0), (0, 1), (-0.75, 0)],
    }
    if form in corners:
        return [(x * r, y * r) for x, y in corners[form]]
    return [(-w, -r), (w, -r), (w, -w), (r, -w), (r, w), (w, w), (w, r), (-w, r), (-w, w), (-r, w), (-r, -w), (-w, -w)]


def shape(colour: str, form: str, radius: float) -> np.ndarray:
    """A drawn form [64, 64, 3], eight times too large first so that its edges are soft."""
    scale, middle = 8, SIDE * 4
    canvas = Image.new("RGB", (SIDE * scale, SIDE * scale), "white")
    draw, r = ImageDraw.Draw(canvas), radius * scale
    if form in ("circle", "ring"):
        draw.ellipse((middle - r, middle - r, middle + r, middle + r), COLOURS[colour])
        if form == "ring":
            draw.ellipse((middle - r * 0.6, middle - r * 0.6, middle + r * 0.6, middle + r * 0.6), "white")
    else:
        draw.polygon([(middle + x, middle + y) for x, y in polygon(form, r)], COLOURS[colour])
    return np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def shapes() -> list[Picture]:
    """Every colour and form but the held-back ones."""
    pairs = [(c, f) for f in FORMS for c in COLOURS if (c, f) not in HELD_BACK]
    return [Picture((f"{c} {f}",), "Shapes", shape(c, f, 24), False) for c, f in pairs]


def load(folder: Path) -> list[Picture]:
    """All pictures to train on, emoji first; `folder` keeps the archive. A shape gives way to an emoji of its name."""
    found = emoji(fetch(folder))
    known = {name for p in found for name in p.names}
    return found + [p for p in shapes() if p.names[0] not in known]


def with_article(name: str) -> str:
    """'apple' -> 'an apple'; a plural stays as it is."""
    if re.search(r"[^s]s$", name):
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def captions(picture: Picture) -> list[str]:
    """Every caption form of every name, the bare forms first."""
    said = []
    for name in picture.names:
        said += [name, with_article(name), f"a picture of {with_article(name)}", f"{name} emoji"]
    return list(dict.fromkeys(said))
