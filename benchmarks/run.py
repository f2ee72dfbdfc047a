"""Run every benchmark in a process of its own, then write benchmarks/README.md and the README's tables."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys

import common

HERE = common.RESULTS.parent
NAMES = (
    "overhead",
    "tls_cost",
    "traffic",
    "round_trips",
    "round_trips_pictures",
    "families",
    "pictures",
    "rate_distortion",
    "text_rate",
    "codec_speed",
    "deployments",
    "latency_model",
    "emulated_link",
    "emoji_quality",
    "attacks",
    "controls",
    "lenses",
    "noise",
    "queries",
    "leakage",
    "picture_attacks",
    "classroom",
    "faults",
    "hostile",
)
TITLES = {
    "overhead": "Speed",
    "tls_cost": "What TLS costs",
    "traffic": "Bytes with and without a cache",
    "round_trips": "Round trips",
    "families": "Families",
    "pictures": "Pictures",
    "rate_distortion": "Rate and distortion",
    "text_rate": "Bits of hidden vectors",
    "codec_speed": "Speed of the codecs",
    "deployments": "Local, cloud-only or split",
    "latency_model": "Predicted and measured time",
    "emulated_link": "Emulated links",
    "emoji_quality": "The shipped picture model",
    "round_trips_pictures": "Round trips of pictures",
    "attacks": "Attacks",
    "controls": "Whose weights are known",
    "lenses": "Attacks on what comes down",
    "noise": "A noisy wire",
    "queries": "Queries instead of weights",
    "leakage": "Bits",
    "picture_attacks": "Attacks on pictures",
    "classroom": "One host and a class",
    "faults": "Killed hosts",
    "hostile": "Hostile peers, and a long soak",
}
ABOUT = (
    "# Benchmarks\n\nWritten by `make bench` (`python benchmarks/run.py`) from `results/*.json`; do not edit. "
    "One benchmark: `python benchmarks/overhead.py`, with `--quick` for a short run and `--json` for one JSON object. "
    "Ratios compare runs that took turns, so they hold on a busy machine; absolute speeds are this machine's."
)


def section(name: str) -> str:
    """One benchmark's part of the page, with its conditions."""
    result = json.loads((common.RESULTS / f"{name}.json").read_text("utf-8"))
    m = result["machine"]
    packages = ", ".join(f"{p} {m[p]}" for p in common.PACKAGES)
    made = f"{m['processor']}, {m['cores']} cores, load {m['load']} at the end, {m['system']}, Python {m['python']}, "
    made += f"{packages}."
    text = importlib.import_module(name).render(result)
    return f"## {TITLES[name]}\n\n`python benchmarks/{name}.py`. {made}\n\n{text}"


def family_table() -> str:
    """The README's short table: the families that pass, by what is special about them."""
    from families import passes

    result = json.loads((common.RESULTS / "families.json").read_text("utf-8"))
    rows = result["families"]
    good: dict[str, list[str]] = {}
    for row in rows:
        if passes(row):
            good.setdefault(row["trait"], []).append(row["family"])
    said = (
        f"{sum(map(passes, rows))} of {len(rows)} families pass, each cut at {rows[0]['plans']} different "
        "(head, tail): "
        "bit-equal logits under `kv`, the same tokens under `hidden` and `none`."
    )
    return f"{said}\n\n{common.table(['what is special', 'families'], [[k, ', '.join(v)] for k, v in good.items()])}"


def speed_table() -> str:
    """The README's short table: tokens per second, with the conditions."""
    from overhead import conditions

    result = json.loads((common.RESULTS / "overhead.json").read_text("utf-8"))
    rows = [[k, v["tokens_per_s"], v["ratio"]] for k, v in result["speed"]["rows"].items()]
    m = result["machine"]
    said = (
        f"{conditions(result)} {m['processor']}, {m['cores']} cores, load {m['load']}; `python benchmarks/overhead.py`."
    )
    return f"{common.table(['way', 'tokens/s', 'ratio to unsplit'], rows)}\n\n{said}"


def picture_table() -> str:
    """The README's short table: what one picture costs on the wire and how near it is, in lockstep."""
    import pictures

    result = json.loads((common.RESULTS / "pictures.json").read_text("utf-8"))
    rows = [
        [t["noise"], t["down"], f"{t['down_against_fp32']:+.1%}", t["frames"], f"{t['against_paper']:+.1%}",
         "bit-equal" if t["psnr"] is None else f"{t['psnr']} dB"]
        for t in result["traffic"] if t["mode"] == "lockstep"
    ]  # fmt: skip
    head = ["noise as", "payload down", "against FP32", "all frames, both ways", "against FP32", "PSNR to unsplit"]
    return f"{common.table(head, rows)}\n\n{pictures.conditions(result)} `python benchmarks/pictures.py`."


def deployment_table() -> str:
    """The README's short table: seconds of the three deployments, by network, with a host ten times as fast."""
    import deployments

    result = json.loads((common.RESULTS / "deployments.json").read_text("utf-8"))
    return deployments.short_table(result)


def example_output(readme: str) -> str:
    """What the README's first Python block prints, by running it."""
    code = readme.split("```python\n", 1)[1].split("```", 1)[0]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the README's example failed: {done.stderr[-2000:]}")
    return f"```text\n{done.stdout.rstrip()}\n```"


def between(text: str, mark: str, new: str) -> str:
    """The text with what stands between <!-- mark --> and <!-- /mark --> replaced."""
    before, rest = text.split(f"<!-- {mark} -->", 1)
    return f"{before}<!-- {mark} -->\n{new}\n<!-- /{mark} -->{rest.split(f'<!-- /{mark} -->', 1)[1]}"


def write_pages() -> None:
    """benchmarks/README.md, and between its markers the README's example output and tables."""
    (HERE / "README.md").write_text("\n\n".join([ABOUT, *map(section, NAMES)]) + "\n", "utf-8")
    readme = HERE.parent / "README.md"
    text = readme.read_text("utf-8")
    text = between(text, "example", example_output(text))
    text = between(text, "speed", speed_table())
    text = between(text, "pictures", picture_table())
    text = between(text, "deployments", deployment_table())
    readme.write_text(between(text, "families", family_table()), "utf-8")


def main() -> int:
    """Run all, or with --render only write the pages; the exit status is the number of benchmarks that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short runs; the pages stay as they are")
    parser.add_argument("--render", action="store_true", help="write the pages from the results there are")
    args = parser.parse_args()
    failed = 0
    for name in () if args.render else NAMES:
        print(f"== {name}", flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), *(["--quick"] if args.quick else [])]
        failed += subprocess.run(command).returncode != 0
    if not args.quick and not failed:
        write_pages()
    return failed


if __name__ == "__main__":
    sys.exit(main())
