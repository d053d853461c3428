"""Pool selection against the plain forms of the same algorithm: how much faster, how many fewer distances, the same picks.

    python -m benchmarks.pool [--frames 4000] [--budget 400] [--repeats 3] [--check] [--bundle BUNDLE --features FOLDER] [--json]
    python -m benchmarks.pool --list [--repeats 1] [--json]
    python -m benchmarks.pool --peers [--frames 16551] [--budget 8000] [--repeats 1] [--json]

order      the lazy search (`k_center_greedy` without row distances)
complete   the same with the exact distances of all rows of every pick
naive      the plain GEMM form (`naive_k_center`), timed on its first --naive-picks picks and scaled to the budget, as every one
           costs the same; on the whole budget, and compared pick by pick, with --check
broadcast  differences of fp32 rows by broadcasting, in the style of published research code: 20 picks, once, scaled alike

All run on one BLAS thread and take turns; the compiled loops of the extra `fast`, where it is installed, are compiled before.
`--list` measures what the list and the report of a spool wait for: 2,000 selected of 8,000 retained units, in two pools as a
ladder has them. `--peers` measures the Core-Set case, one row a frame (16,551 x 384, 8000 picks), beside fpsample and a loop
over scikit-learn's distances; both need the extra `bench`.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.common import show, spread
from benchmarks.rows import Pool, drawn
from geal_edge.runtime.clusters import IntArray, Rows
from geal_edge.runtime.compiled import loops
from geal_edge.runtime.kcenter import count_distances, k_center_greedy, naive_k_center, offsets_of
from geal_edge.runtime.threads import one_blas_thread

BROADCAST_PICKS = 20
BROADCAST_ROWS = 1000
FRAMES, BUDGET = 4_000, 400
VOC_FRAMES, VOC_BUDGET = 16_551, 8_000
RETAINED, SELECTED, IN_LEVEL = 8_000, 2_000, 1_800


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, help=f"{FRAMES}, or {VOC_FRAMES} with --peers")
    parser.add_argument("--budget", type=int, help=f"{BUDGET}, or {VOC_BUDGET} with --peers")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--naive-picks", type=int, default=30)
    parser.add_argument("--check", action="store_true", help="run the naive form to the end once, and compare")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--features", type=Path, help="stored features of real frames, of --bundle")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    compiled = warm()
    results: dict[str, dict[str, float]] = {}
    if options.peers:
        results, facts = peers(options.frames or VOC_FRAMES, options.budget or VOC_BUDGET, options.repeats)
        show("core-set, one row a frame", results, {"compiled": compiled, **facts}, as_json=options.json)
        return
    if options.list:
        for kind in ("iid", "video"):
            results |= ladder_order(kind, options.repeats)
        facts = {"compiled": compiled, "retained": RETAINED, "selected": SELECTED, "repeats": options.repeats}
        show("the selected order of a spool", results, facts, as_json=options.json)
        return
    pools: dict[str, Pool] = {kind: drawn(kind, options.frames or FRAMES) for kind in ("iid", "video")}
    if options.features is not None:
        pools["real"] = real(options.bundle, options.features)
    facts = {"compiled": compiled, "repeats": options.repeats, "naive picks timed": options.naive_picks}
    with one_blas_thread():
        for kind, (rows, offsets) in pools.items():
            budget = min(options.budget or BUDGET, (len(offsets) - 1) // 4)
            results |= against_naive(kind, rows, offsets, budget, options.repeats, options.naive_picks)
            facts |= {f"{kind}, frames": len(offsets) - 1, f"{kind}, rows": len(rows), f"{kind}, budget": budget}
            if options.check:
                picks = naive_k_center(rows, offsets, budget, first=0)
                assert picks == k_center_greedy(rows, offsets, budget, first=0), kind
                facts[f"{kind}, same picks and distances as the naive form"] = budget
    show("pool selection", results, facts, as_json=options.json)


def warm() -> bool:
    """Compile the loops, so that no measurement does; whether there are any."""
    if loops() is None:
        return False
    rows, offsets = drawn("iid", 40_000, per_frame=1, dim=8)
    k_center_greedy(rows, offsets, 25_000, first=0, stop=stop_after(20))
    return True


def stop_after(picks: int) -> Callable[[], bool]:
    left = iter(range(picks))
    return lambda: next(left, None) is None


def order_of(rows: Rows, offsets: IntArray, budget: int) -> list[int]:
    return [pick.unit for pick in k_center_greedy(rows, offsets, budget, first=0, row_distances=False)]


def ladder_order(kind: str, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of the order in two pools, and of the same with the distances of every row, for the heat maps."""
    rows, offsets = drawn(kind, RETAINED)
    inside = list(range(0, RETAINED, RETAINED // IN_LEVEL))[:IN_LEVEL]
    pools = [inside, sorted(set(range(RETAINED)) - set(inside))]
    seconds: dict[str, list[float]] = {"list": [], "report": []}
    for _ in range(repeats):
        for name, distances in (("list", False), ("report", True)):
            way = lambda: k_center_greedy(rows, offsets, SELECTED, first=0, pools=pools, row_distances=distances)  # noqa: E731, B023
            seconds[name].append(timed(way))
    return {f"{kind}: {name}, s": spread(values) for name, values in seconds.items()}


def against_naive(
    kind: str, rows: Rows, offsets: IntArray, budget: int, repeats: int, naive_picks: int
) -> dict[str, dict[str, float]]:
    seconds: dict[str, list[float]] = {"order": [], "complete": [], "naive": [], "broadcast": []}
    for _ in range(repeats):
        seconds["order"].append(timed(lambda: order_of(rows, offsets, budget)))
        seconds["complete"].append(timed(lambda: k_center_greedy(rows, offsets, budget, first=0)))
        # From the first pick on, which also widens the pool.
        passed: list[float] = []
        naive_k_center(rows, offsets, 1 + naive_picks, first=0, on_pick=lambda _: passed.append(time.perf_counter()))  # noqa: B023
        seconds["naive"].append((passed[-1] - passed[0]) * budget / naive_picks)
    # Minutes, and nothing in it varies: once.
    seconds["broadcast"].append(timed(lambda: broadcast(rows, offsets, BROADCAST_PICKS)) * budget / BROADCAST_PICKS)
    naive = sum(len(rows) * int(size) for size in np.diff(offsets)[order_of(rows, offsets, budget)])
    table = {f"{kind}: {name}, s": spread(values) for name, values in seconds.items()}
    for plain in ("naive", "broadcast"):
        for ours in ("order", "complete"):
            plain_s = seconds[plain] if plain == "naive" else seconds[plain] * repeats
            ratios = [a / b for a, b in zip(plain_s, seconds[ours], strict=True)]
            table[f"{kind}: {ours}, times faster than {plain}"] = spread(ratios)
    lazy = count_distances(rows, offsets, budget, first=0)
    table[f"{kind}: order, million distances"] = spread([lazy / 1e6])
    table[f"{kind}: order, times fewer distances"] = spread([naive / lazy])
    return table


def broadcast(rows: Rows, offsets: IntArray, budget: int) -> list[int]:
    """K-Center-Greedy without a matrix product: (slice, 1, D) - (1, c, D), squared and summed."""
    wide, picked = rows.astype(np.float32), [0]
    nearest = np.full(len(rows), np.inf, np.float32)
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    while True:
        centres = wide[offsets[picked[-1]] : offsets[picked[-1] + 1]]
        for begin in range(0, len(rows), BROADCAST_ROWS):
            part = slice(begin, begin + BROADCAST_ROWS)
            squared = np.square(wide[part, None] - centres[None]).sum(axis=-1).min(axis=1)
            np.minimum(nearest[part], squared, out=nearest[part])
        if len(picked) == budget:
            return picked
        picked.append(int(owner[nearest.argmax()]))


def peers(frames: int, budget: int, repeats: int) -> tuple[dict[str, dict[str, float]], dict[str, object]]:
    """One row a frame: `k_center_greedy`, fpsample's farthest-point sampling, and scikit-learn's distances in a loop."""
    import fpsample
    from sklearn.metrics import pairwise_distances

    rows, offsets = drawn("iid", frames, per_frame=1)
    wide = rows.astype(np.float32)

    def sklearn_loop() -> list[int]:
        picked, nearest = [0], np.full(len(wide), np.inf)
        while len(picked) < budget:
            np.minimum(nearest, pairwise_distances(wide, wide[picked[-1:]])[:, 0], out=nearest)
            picked.append(int(nearest.argmax()))
        return picked

    ways: dict[str, Callable[[], object]] = {
        "geal-edge": lambda: order_of(rows, offsets, budget),
        "fpsample": lambda: fpsample.fps_sampling(wide, budget, start_idx=0),
        "scikit-learn loop": sklearn_loop,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with one_blas_thread():
        for _ in range(repeats):
            for name, way in ways.items():
                seconds[name].append(timed(way))
    table = {f"{name}, s": spread(values) for name, values in seconds.items()}
    for name in list(ways)[1:]:
        ratios = [a / b for a, b in zip(seconds[name], seconds["geal-edge"], strict=True)]
        table[f"times faster than {name}"] = spread(ratios)
    return table, {"frames": frames, "budget": budget, "repeats": repeats}


def real(bundle_path: Path, folder: Path) -> Pool:
    """The clusters of the frames whose features are stored in a folder."""
    from geal_edge.models.bundle import Bundle
    from geal_edge.runtime.backends.ort import OrtCpu
    from geal_edge.runtime.encoder import Encoder
    from geal_edge.runtime.features import Features, LateEncoder
    from geal_edge.runtime.observer import Silent
    from geal_edge.runtime.pool import read_pool

    bundle = Bundle.open(bundle_path)
    with (
        LateEncoder(Encoder(bundle, OrtCpu(bundle.graph))) as encoder,
        Features(folder, bundle.manifest, writable=False) as features,
    ):
        found = read_pool([], encoder=encoder, features=features, watch=Silent())
    units = [frame.clusters.rows for frame in found.frames]
    return np.concatenate(units), offsets_of(units)


def timed(way: Callable[[], object]) -> float:
    begin = time.perf_counter()
    way()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
