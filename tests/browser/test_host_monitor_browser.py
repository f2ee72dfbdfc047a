"""HostMonitor in a real JupyterLab and a real browser: looks by itself, both themes, a narrow page, a dying host."""

from jupyter_page import MARKS, lab, one_cell, page_of, screenshots, serious

pytestmark = MARKS
DRAWN, PANEL = ".host-charts .host-stages", ".host-monitor"
SOURCE = """import threading, lsplit_kit as lk
host = lk.host("toy-llama", 1, 1)
lm = lk.split(lk.load_local("toy-llama", 1, 1), body=host.address)
lm.generate("Hello", max_new_tokens=20)
panel = lk.HostMonitor(host, every=0.5)
lm.generate("Hello again", max_new_tokens=20)
panel.refresh_button.on_click(lambda button: len(panel.seen.history) > 6 and host.close())
panel"""
SEEN = """() => { const now = document.querySelector('.host-now');
  return {...now.dataset, sees: document.querySelector('.host-sees').textContent,
          passed: document.querySelector('.host-holds').dataset.passed,
          gone: document.querySelector('.host-gone')?.textContent ?? '',
          state: document.querySelector('.host-status')?.textContent ?? '',
          said: document.querySelector('.lsplit-said').textContent}; }"""
NARROW = """() => { const edge = document.querySelector('.host-monitor').getBoundingClientRect().right;
  return [...document.querySelectorAll('.host-monitor, .host-monitor *')]
    .filter(e => e.clientWidth && e.getBoundingClientRect().right > edge + 1)
    .map(e => e.tagName + '.' + e.className); }"""


def test_a_host_is_watched_until_it_dies(tmp_path):
    one_cell(tmp_path, SOURCE)
    errors = []
    with lab(tmp_path) as url, page_of(url, errors, DRAWN) as page:
        # the panel was made between two replies: only a look by itself can find the steps of the second
        page.wait_for_function(f"() => Number(({SEEN})().steps) > 22", timeout=20_000)
        page.wait_for_timeout(3500)  # a few more looks, for the pictures
        seen = page.evaluate(SEEN)
        assert seen["passed"] == "True"
        assert "all clients" in seen["sees"] and int(seen["hits"]) > 20 and int(seen["memory"]) > 0
        screenshots(page, tmp_path, "host-monitor", PANEL)
        page.set_viewport_size({"width": 700, "height": 1400})
        page.wait_for_timeout(500)
        assert page.evaluate(NARROW) == []
        page.locator(".host-refresh").focus()
        page.keyboard.press("Enter")  # looks, and then this page's cell ends the host
        page.wait_for_selector(".host-gone", timeout=20_000)
        seen = page.evaluate(SEEN)
        assert "The host has ended" in seen["gone"] and "does not answer" in seen["state"]
        assert "The host has ended" in seen["said"]
        assert page.locator(".host-watch.mod-active").count() == 0
    assert serious(errors) == []
