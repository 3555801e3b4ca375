"""What prompts cost: CPU seconds to cast scenes and to write both renderings, the caption and the fact check.

Scenes are made in parts of 2,000, after the tables of their places were filled. The best of some
rounds counts: other processes on the same cores only make a round slower.
"""

import argparse
import gc
import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from worldloop.atlas.atlas import load_atlas
from worldloop.prompts.captions import short_caption
from worldloop.prompts.cosmos3 import cosmos3_prompt
from worldloop.prompts.facts import missing_facts
from worldloop.prompts.prose import write_prose
from worldloop.recipes import Shape
from worldloop.scenes.stream import scenes_at

_ROUNDS = 5
_console = Console(width=110)


def main() -> None:
    """Print a table of rates."""
    parser = argparse.ArgumentParser(prog="orchestration.bench_prompts", description=__doc__)
    parser.add_argument("--num", type=int, default=2000, help="scenes of each round")
    num = parser.parse_args().num
    atlas, shape, indices = load_atlas(), Shape(), range(num)
    scenes = scenes_at(atlas, indices)
    prose = [write_prose(scene, atlas) for scene in scenes]
    [cosmos3_prompt(scene, atlas, shape) for scene in scenes]
    gc.collect()
    gc.freeze()

    def both() -> None:
        for scene in scenes_at(atlas, indices):  # a prompt is written down and forgotten
            cosmos3_prompt(scene, atlas, shape, prose=write_prose(scene, atlas))

    pairs = list(zip(prose, scenes, strict=True))
    rows: dict[str, Callable[[], object]] = {
        "cast": lambda: scenes_at(atlas, indices),
        "prose": lambda: [write_prose(scene, atlas) for scene in scenes],
        "Cosmos 3 JSON": lambda: [
            cosmos3_prompt(scene, atlas, shape, prose=text) for text, scene in pairs
        ],
        "caption": lambda: [short_caption(scene, atlas) for scene in scenes],
        "fact check": lambda: [missing_facts(text, scene, atlas) for text, scene in pairs],
        "cast and both renderings": both,
    }
    table = Table(
        "what", "us a scene", "scenes a CPU-s", title=f"Prompts of {num} scenes, one core"
    )
    for name, work in rows.items():
        seconds = min(_cpu_s(work) for _ in range(_ROUNDS))
        table.add_row(name, f"{seconds / num * 1e6:.0f}", f"{num / seconds:,.0f}")
    _console.print(table)


def _cpu_s(work: Callable[[], object]) -> float:
    gc.collect()
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
