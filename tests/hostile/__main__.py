"""The long run: `python -m tests.hostile --cases 1000000 --seed 7`.

What is wrong is printed with its number; `--only NUMBER` throws that case alone.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from tests.hostile.mutators import KINDS
from tests.hostile.oracle import Tally, judging


async def _run(cases: int, seed: int, only: int | None, kind: str | None) -> Tally:
    numbers = range(1, cases + 1) if only is None else range(only, only + 1)
    with tempfile.TemporaryDirectory() as folder:
        async with judging(Path(folder), seed) as oracle:
            return await oracle.run(iter(numbers), kind)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="NUMBER")
    parser.add_argument("--kind", choices=sorted(KINDS), help="cases of this kind only")
    said = parser.parse_args()
    began, worked = time.monotonic(), time.process_time()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        tally = runner.run(_run(said.cases, said.seed, said.only, said.kind))
    took_s, worked_s = time.monotonic() - began, time.process_time() - worked
    for name in KINDS:
        shares = {outcome: tally.share(name, outcome) for outcome in ("answered", "refused", "closed")}
        print(f"{name:24}", *(f"{outcome} {share:6.1%}" for outcome, share in shares.items()))
    print(
        f"{tally.cases} cases, seed {said.seed}: {tally.cases / took_s:.0f} a second, {worked_s:.1f} s of CPU"
    )
    for wrong in tally.wrong[:20]:
        print(wrong, file=sys.stderr)
    print(f"{len(tally.wrong)} wrong")
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
