"""A host with two doors, plain and TLS, in this process, and clients that join, talk, leave, or are killed.

Most clients are threads of the same process, whole split models, whose connections are reset. Some are processes of
their own (`light.py`), and die as processes do.
"""

from __future__ import annotations

import gc
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import light
import psutil
import torch
from heap import live_mb
from light import TERMS, Text

import lsplit_kit as lk
from lsplit_kit.errors import LsplitError
from lsplit_kit.models.partial import Held
from lsplit_kit.remote.authority import Authority
from lsplit_kit.remote.client import RpycLink
from lsplit_kit.remote.gate import Gate
from lsplit_kit.remote.server import StrictServer
from lsplit_kit.remote.service import service_of
from lsplit_kit.remote.sharing import Sharing
from lsplit_kit.remote.tls import LOOPBACK
from lsplit_kit.split.plan import SplitPlan
from lsplit_kit.wire.message import PROTOCOL, Open, Step

TOKEN, TOKENS, DEAD = b"t" * 32, 8, struct.pack("ii", 1, 0)  # SO_LINGER: the connection is reset, as the kernel does
NAMES = ("ann", "bo", "cy", "di")
LIGHT = Path(light.__file__).resolve()


def bundles(folder: Path) -> Path:
    """A class's certificates, good for a day."""
    now = datetime.now(UTC)
    ours = Authority(now - timedelta(days=1), now + timedelta(days=1))
    for name in NAMES:
        (folder / f"{name}.pem").write_bytes(ours.issue(name))
    (folder / "host.pem").write_bytes(ours.issue("host", LOOPBACK))
    return folder


class Stage:
    """`with Stage(folder) as stage:` one body, one queue, a plain door and one with TLS; everything ends with it."""

    def __init__(self, folder: Path, sharing: Sharing | None = None, **options: Any) -> None:
        sharing = (sharing or Sharing(batch_window_ms=1.0, memory_mb=0.3)).check()
        self.folder, self.model = bundles(folder), lk.load("toy-llama")[0]
        self.body = Held(self.model, SplitPlan(1, 1))
        self.body.pool = sharing.pool()
        self.turns = sharing.turns(self.body.pool)
        service, options = service_of(self.body, self.turns), {"max_clients": 40, "max_each": 40, **options}
        self.plain = StrictServer(service, TOKEN, **options)
        self.tls = StrictServer(service, TOKEN, gate=Gate(folder), **options)
        self._threads = [threading.Thread(target=server.start, daemon=True) for server in self.servers]

    @property
    def servers(self) -> tuple[StrictServer, StrictServer]:
        """Both doors."""
        return self.plain, self.tls

    def link(self, over_tls: bool, name: str = NAMES[0]) -> RpycLink:
        """A client's link."""
        if over_tls:
            return RpycLink(self.tls.address, 60.0, certificate=self.folder / f"{name}.pem")
        return RpycLink(self.plain.address, 60.0, token=TOKEN)

    def record(self, path: Path, prompts: Sequence[int], name: str = NAMES[0]) -> Path:
        """Write what a light client needs: a text for each of the prompts' lengths, and the way in to both doors."""
        body = Held(self.model, SplitPlan(1, 1))
        texts = []
        for number, prompt in enumerate(prompts):
            vectors = torch.randn(prompt + TOKENS, body.info.width, generator=torch.Generator().manual_seed(number))
            up = vectors.numpy().tobytes()
            texts.append(Text(prompt, up, body.step(body.open(Open(*TERMS)), Step(1, 0, 1, len(vectors), up))).raw())
        path.write_text(json.dumps({
            "addresses": [server.address for server in self.servers], "token": TOKEN.hex(),
            "bundle": str(self.folder / f"{name}.pem"), "width": body.info.width, "texts": texts,
            "hello": [PROTOCOL, "0", "0", "0", "", -1, -1, ""],
        }), "utf-8")  # fmt: skip
        return path

    def __enter__(self) -> Stage:
        for server, thread in zip(self.servers, self._threads, strict=True):
            server.listener.listen(64)
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        for server in self.servers:
            server.close()
        for thread in self._threads:
            thread.join(5)

    def empty(self, seconds: float = 20.0) -> bool:
        """Whether all that belonged to clients is gone: sessions and their bytes, places, waiting steps."""
        end, pool = time.monotonic() + seconds, self.body.pool
        while time.monotonic() < end:
            left = any(server._named or server._strangers for server in self.servers)
            if not (left or pool.held() or self.turns.queued() or pool.bytes or pool.brought):
                return True
            time.sleep(0.02)
        return False


class Soakers:
    """So many clients at once on a stage; `done` counts what they did. A wrong reply is among `wrong`.

    processes: of the clients those that are processes of their own.
    """

    def __init__(self, stage: Stage, clients: int, seed: int = 0, processes: int = 0) -> None:
        self.stage, self.seed = stage, seed
        self._record = stage.record(stage.folder / "record.json", range(6, 36, 5)) if processes else None
        self._lives = [self._die] * processes + [self._live] * (clients - processes)
        self.done, self.wrong, self._over = Counter[str](), list[str](), threading.Event()
        self._prompts = [
            torch.randint(3, 200, (1, 6 + 5 * n), generator=torch.Generator().manual_seed(n)) for n in range(6)
        ]
        self._expected = [self._reply(stage.model, ids) for ids in self._prompts]

    def _reply(self, model: Any, ids: torch.Tensor) -> list[int]:
        options: dict[str, Any] = dict(do_sample=False, pad_token_id=0, eos_token_id=[])
        return model.generate(ids, max_new_tokens=TOKENS, **options)[0].tolist()

    def run(self, seconds: float, look: float = 1.0) -> list[dict[str, float]]:
        """Let them come and go for so long; returns the process's memory, descriptors and threads once a `look`."""
        threads = [threading.Thread(target=live, args=(n,)) for n, live in enumerate(self._lives)]
        seen, end = [], time.monotonic() + seconds
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for thread in threads:
                thread.start()
            while time.monotonic() < end:
                time.sleep(min(look, max(0.01, end - time.monotonic())))
                seen.append(state())
            self._over.set()
            for thread in threads:
                thread.join(60)
        return seen

    def _live(self, number: int) -> None:
        dice = random.Random(1000 * self.seed + number)
        while not self._over.is_set():
            over_tls, which = dice.random() < 0.5, dice.randrange(len(self._prompts))
            try:
                link = self.stage.link(over_tls, NAMES[number % len(NAMES)])
            except LsplitError as err:
                self.wrong.append(f"{type(err).__name__}: {err}")
                continue
            self.done["joined over TLS" if over_tls else "joined plain"] += 1
            try:
                self._talk(link, which, dice)
            finally:
                link.close()

    def _die(self, number: int) -> None:
        """One process after the other, killed at a random moment, most of them while they wait for an answer."""
        dice = random.Random(1000 * self.seed + number)
        env = {**os.environ, "PYTHONPATH": str(LIGHT.parent.parent)}
        while not self._over.is_set():
            command = [sys.executable, str(LIGHT), str(self._record), str(dice.randrange(2**32))]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
                self._over.wait(dice.uniform(0.3, 3.0))
                process.kill()
                said = process.communicate()[0].splitlines()
            self.done["killed processes"] += 1
            self.done["joined from processes"] += said.count("joined")
            self.done["texts of processes"] += len(said) - said.count("joined")
            self.wrong += [line for line in said if line not in ("joined", "same")]

    def _talk(self, link: RpycLink, which: int, dice: random.Random) -> None:
        killed = dice.random() < 0.25
        if killed:
            later = threading.Timer(dice.uniform(0.0, 0.05), self._kill, (link,))
            later.start()
        split = lk.split(self.stage.model, head=1, tail=1, body=link, cache=dice.choice(("kv", "kv", "hidden")))
        for _ in range(dice.randint(1, 4)):
            try:
                same = self._reply(split, self._prompts[which]) == self._expected[which]
            except LsplitError as err:
                same = False
                self.wrong.append(f"{type(err).__name__}: {err}")
            self.done["replies"] += 1
            self.wrong += [] if same else ["another reply"]
        if killed:
            later.join()
            self.done["killed"] += 1

    @staticmethod
    def _kill(link: RpycLink) -> None:
        """What the kernel does for a client that is killed, whatever it was doing: its connection is reset."""
        stream = link._stream
        try:
            stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, DEAD)
            socket.socket.shutdown(stream.sock, socket.SHUT_RDWR)
        except (AttributeError, OSError):  # it was just making a new one
            pass


def state() -> dict[str, float]:
    """Of this process: megabytes in memory and in use (both are the same where nobody counts), descriptors, threads."""
    gc.collect()
    me = psutil.Process()
    mb = me.memory_info().rss / 1e6
    return {"mb": mb, "live": live_mb() or mb, "descriptors": me.num_fds(), "threads": threading.active_count()}


def growth(seen: list[dict[str, float]], what: str = "mb") -> float:
    """Megabytes by which memory is more in the last quarter than in the second: its medians."""
    middle = [sorted(s[what] for s in part)[len(part) // 2] for part in (_quarter(seen, 1), _quarter(seen, 3))]
    return middle[1] - middle[0]


def _quarter(seen: list[dict[str, float]], number: int) -> list[dict[str, float]]:
    return seen[number * len(seen) // 4 : (number + 1) * len(seen) // 4] or seen[-1:]
