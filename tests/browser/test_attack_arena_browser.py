"""AttackArena in a real JupyterLab and a real browser: menus, refusals, both themes, a narrow page, a run."""

from jupyter_page import MARKS, lab, one_cell, page_of, screenshots, serious

from lsplit_kit.attacks.pictures.recorded import recorded_pictures
from lsplit_kit.attacks.recorded import recorded

pytestmark = MARKS
DRAWN, PANEL = ".arena-charts .reading-text", ".attack-arena"
SMALL = """import lsplit_kit as lk
panel = lk.AttackArena(depth=1)
panel"""
PICTURES = """import lsplit_kit as lk
panel = lk.AttackArena()
panel"""
LIVE = """import lsplit_kit as lk
panel = lk.AttackArena(live=True, model="toy-llama", depth=2, attack="VocabMatch", prompt="Tell the doctor")
panel"""
# What a reader sees: tokens by what they are, the figures, and what is said aloud.
SEEN = """() => {
  const of = what => document.querySelectorAll(`.reading-token[data-what=${what}]`).length;
  const figures = document.querySelector('.arena-figures');
  return {right: of('right'), near: of('near'), wrong: of('wrong'), apart: of('apart'),
          accuracy: figures ? Number(figures.dataset.accuracy) : -1,
          refused: document.querySelector('.arena-refused')?.textContent ?? '',
          now: document.querySelector('.arena-table [aria-current] th')?.textContent ?? '',
          state: document.querySelector('.arena-status')?.textContent ?? '',
          said: document.querySelector('.lsplit-said').textContent}; }"""
WAIT = f"""wanted => {{ const seen = ({SEEN})();
  return Object.entries(wanted).every(([name, value]) =>
    typeof value === 'string' ? seen[name].includes(value) : seen[name] === value); }}"""


def wait(page, **wanted):
    """Until all of these are so, words somewhere in it; then what is seen."""
    page.wait_for_function(WAIT, arg=wanted, timeout=20_000)
    return page.evaluate(SEEN)


def choose(page, name, index):
    """Take an entry of a menu."""
    page.locator(f".arena-{name} select").focus()
    page.locator(f".arena-{name} select").select_option(index=index)


# What a reader sees in the picture tab: loaded pictures, the step that is marked, figures, and what is said aloud.
PAINTED = """() => {
  const all = where => [...document.querySelectorAll(`.paint-tab ${where}`)];
  const figures = document.querySelector('.paint-figures');
  return {loaded: all('.paint-canvas img').filter(e => e.naturalWidth && e.alt).length,
          step: figures ? Number(figures.dataset.step) : -1, psnr: figures ? Number(figures.dataset.psnr) : -1,
          marked: all('.paint-frame').findIndex(e => e.ariaCurrent === 'step') + 1,
          refused: document.querySelector('.paint-refused')?.textContent ?? '',
          now: document.querySelector('.paint-table [aria-current] th')?.textContent ?? '',
          said: document.querySelector('.lsplit-said').textContent}; }"""


def wait_painted(page, **wanted):
    """Until all of these are so in the picture tab, words somewhere in it; then what is seen."""
    page.wait_for_function(WAIT.replace(SEEN, PAINTED), arg=wanted, timeout=20_000)
    return page.evaluate(PAINTED)


def narrow(page):
    """Elements that stick out of the panel on a narrow page; the table scrolls by itself."""
    page.set_viewport_size({"width": 700, "height": 1400})
    page.wait_for_timeout(500)
    return page.evaluate(
        """() => { const edge = document.querySelector('.attack-arena').getBoundingClientRect().right;
          return [...document.querySelectorAll('.attack-arena, .attack-arena *')]
            .filter(e => e.clientWidth && !e.parentElement.closest('.arena-scroll'))
            .filter(e => e.getBoundingClientRect().right > edge + 1)
            .map(e => e.tagName + '.' + e.className); }"""
    )


def counts(attack, number, knowledge="public"):
    """How many tokens are right of the recorded prompt."""
    rows = recorded("smollm2.01.int8-token").report(attack, knowledge=knowledge).counted
    return int(rows[rows.conversation == number - 1].right.sum())


def test_recordings(tmp_path):
    one_cell(tmp_path, SMALL)
    errors = []
    with lab(tmp_path) as url, page_of(url, errors, DRAWN) as page:
        seen = wait(page, right=counts("PrototypeLDA", 1), now="PrototypeLDA")
        assert seen["apart"] > 0
        choose(page, "attack", 0)
        weak = wait(page, right=counts("PriorOnly", 1), now="PriorOnly", said="PriorOnly by eavesdrop_up")
        assert weak["wrong"] > weak["right"]
        choose(page, "attack", 4)
        wait(page, right=counts("VocabMatch", 1), wrong=0, now="VocabMatch")
        choose(page, "number", 2)
        wait(page, right=counts("VocabMatch", 3))
        choose(page, "knowledge", 2)
        wait(page, refused="VocabMatch needs head weights", right=0, said="VocabMatch needs head weights")
        choose(page, "knowledge", 0)
        choose(page, "observer", 3)
        wait(page, refused="eavesdrop_down does not see what goes up")
        choose(page, "observer", 0)
        wait(page, right=counts("VocabMatch", 3), said="VocabMatch by cloud")
        choose(page, "knowledge", 1)
        wait(page, refused="VocabMatch needs head weights")
        choose(page, "attack", 3)
        wait(page, right=counts("PrototypeLDA", 3, "queries"), now="PrototypeLDA", said="tokens sent through the head")
        screenshots(page, tmp_path, "arena-queries", PANEL)
        choose(page, "knowledge", 0)
        choose(page, "attack", 4)
        wait(page, right=counts("VocabMatch", 3))
        hint = page.locator(".reading-token[data-what=right]").first.get_attribute("title")
        assert hint.startswith("position ") and "guess" in hint
        page.locator(".reading-text").focus()
        screenshots(page, tmp_path, "arena", PANEL)
        assert narrow(page) == []
    assert serious(errors) == []


def test_what_comes_down(tmp_path):
    one_cell(tmp_path, SMALL)
    errors, found = [], recorded("smollm2.tail-05.int8-token")
    key = ("TunedLens", "public")
    both = [int(one[key].counted.query("conversation == 1").right.sum()) for one in (found.reports, found.texts)]
    with lab(tmp_path) as url, page_of(url, errors, DRAWN) as page:
        choose(page, "observer", 3)
        wait(page, refused="eavesdrop_down does not see what goes up")
        assert page.locator(".arena-table tbody th").all_text_contents()[1:4] == ["LogitLens", "TunedLens", "RunTail"]
        assert page.locator(".arena-tail select").is_disabled()
        choose(page, "attack", 6)
        wait(page, now="TunedLens", said="TunedLens by eavesdrop_down, 1 layer before the end")
        assert page.locator(".arena-depth select").is_disabled()
        choose(page, "tail", 1)
        choose(page, "number", 1)
        wait(page, right=sum(both), said="5 layers before the end", apart=0)
        assert page.locator(".arena-beside .reading-token").count() > 20
        assert page.locator(".reading-key").count() == 1
        screenshots(page, tmp_path, "arena-down", PANEL)
        assert narrow(page) == []
        screenshots(page, tmp_path, "arena-down-narrow", PANEL)
    assert serious(errors) == []


def test_a_live_run(tmp_path):
    one_cell(tmp_path, LIVE)
    errors = []
    with lab(tmp_path) as url, page_of(url, errors, ".arena-note") as page:
        page.locator(".arena-run").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector(DRAWN, timeout=90_000)
        seen = wait(page, wrong=0, near=0, said="Tell the doctor", state="Done")
        assert seen["right"] > 10
        screenshots(page, tmp_path, "arena-live", PANEL)
        assert narrow(page) == []
    assert serious(errors) == []


def test_pictures(tmp_path):
    one_cell(tmp_path, PICTURES)
    errors = []
    found = recorded_pictures("emoji-ldm.lockstep.int8")
    with lab(tmp_path) as url, page_of(url, errors, DRAWN) as page:
        page.locator(f"{PANEL} [role=tab][aria-selected=true]").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.wait_for_selector(".paint-attack select", state="visible", timeout=10_000)
        wait_painted(page, loaded=10, step=8, marked=8, now="ReplaySampler", said="equal to the learner's")
        page.locator(".paint-observer select").focus()
        page.keyboard.press("End")
        wait_painted(page, refused="eavesdrop_down does not see what goes up", loaded=0)
        page.locator(".paint-attack select").focus()
        page.keyboard.press("ArrowDown")
        wait_painted(page, refused="does not see what goes up", now="OwnReplay", said="OwnReplay by eavesdrop_down")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        wait_painted(page, now="FittedTelescope", loaded=10, said="no prompt is read")
        page.locator(".paint-step [role=slider], .paint-step .noUi-handle").first.focus()
        for _ in range(3):
            page.keyboard.press("ArrowLeft")
        seen = wait_painted(page, step=5, marked=5, said="after step 5 of 8")
        assert abs(seen["psnr"] - found.strip("FittedTelescope", "eavesdrop_down").psnr[4]) < 1e-3
        screenshots(page, tmp_path, "arena-pictures", PANEL)
        assert narrow(page) == []
        screenshots(page, tmp_path, "arena-pictures-narrow", PANEL)
    assert serious(errors) == []
