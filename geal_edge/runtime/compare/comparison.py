"""The way of a comparison: sources are encoded, pools grouped, cells worked out; what is stored already is taken."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from geal_edge.config import ClusterConfig
from geal_edge.errors import Interrupted, UsageError
from geal_edge.models.bundle import Bundle, feature_space
from geal_edge.runtime import durable
from geal_edge.runtime.compare.cells import Answer, Cell, read_answer, work_out
from geal_edge.runtime.compare.choice import Choice
from geal_edge.runtime.compare.cover import Cover
from geal_edge.runtime.compare.jobs import run_jobs
from geal_edge.runtime.compare.labels import evaluate
from geal_edge.runtime.compare.labels.probes import FEWEST_UNITS
from geal_edge.runtime.compare.labels.probes import hold_out as hold_out_stretches
from geal_edge.runtime.compare.labels.table import LabelTable
from geal_edge.runtime.compare.pools import (
    ComparedSource,
    FeaturesJob,
    PoolJob,
    digest_key,
    pool_key,
    read_stored_pool,
    store_features,
    store_pool,
    write_pool,
)
from geal_edge.runtime.compare.strategies import RECIPE, STRATEGIES, Strategy, named
from geal_edge.runtime.compare.sweep import Variant, variants
from geal_edge.runtime.features import Features, read_head
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.pool import Pool, require_names_apart
from geal_edge.runtime.poolframe import PoolFrame
from geal_edge.runtime.sources import Source
from geal_edge.runtime.stopping import Stop

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One draw of a strategy. seed: None where nothing is drawn; of each budget that is worked out, what was selected (frames
    of the measured pool, in order) and what it covers."""

    seed: int | None
    orders: dict[int, tuple[int, ...]]
    covers: dict[int, Cover]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One strategy. settings: what of it is swept, if anything; draws: those that are worked out."""

    name: str
    words: str
    settings: dict[str, str]
    draws: tuple[Draw, ...]

    def covers(self, budget: int) -> list[Cover]:
        return [draw.covers[budget] for draw in self.draws if budget in draw.covers]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What every strategy covers at every budget.

    bundle         path and digest of the first bundle, in whose clusters under `RECIPE` all covers are measured
    pool           all frames of all sources, one pool: a day's; without those held out
    held_out       frames that nothing was chosen from, for probes
    features       the folder that holds the features of all of them; None where they lie in several
    compared       those strategies of which something is worked out
    cut            stopped before all was
    stored_s       seconds of work that was found stored, over all processes
    run_s          seconds that this run took
    """

    bundle: Path
    bundle_digest: str
    feature_space: str
    grid: tuple[int, int]
    untrained: bool
    sources: tuple[ComparedSource, ...]
    pool: Pool
    held_out: tuple[PoolFrame, ...]
    features: Path | None
    budgets: tuple[int, ...]
    compared: tuple[Compared, ...]
    cut: bool
    stored_s: float
    run_s: float

    def choices(self) -> list[Choice]:
        """What every draw selects: one choice, or one for each budget, in their order, where the selection of a smaller one is
        not the beginning of that of a larger one. Draws of which a budget is not worked out are left out."""
        found = []
        for compared in self.compared:
            for draw in compared.draws:
                if len(draw.orders) == len(self.budgets):
                    orders = [draw.orders[budget] for budget in self.budgets]
                    grows = all(orders[-1][: len(order)] == order for order in orders)
                    found += [
                        Choice(strategy=compared.name, seed=draw.seed, order=order)
                        for order in (orders[-1:] if grows else orders)
                    ]
        return found


def compare(
    sources: Sequence[Source],
    *,
    bundle: Path,
    budgets: Sequence[int],
    strategies: Sequence[str] = (),
    sweeps: Sequence[str] = (),
    features: Path | None = None,
    out: Path,
    hold_out: bool = False,
    processes: int = 1,
    threads: int = 1,
    watch: Observer,
    stop: Stop | None = None,
) -> Comparison:
    """Set strategies side by side over all sources, as one pool in capture order: the budget is that of a day's data.

    budgets     frames
    strategies  names of `STRATEGIES`; default: all that the bundle can serve
    sweeps      `KEY=VALUE,VALUE` (sweep.py): GEAL over all frames with each combination, beside the strategies
    features    a folder that holds the sources' features; with no sources: all that is stored there. Default: sources are
                encoded into `out`, each once
    out         folder for what is worked out: the same call later takes from there what it can, whatever stopped this one
    hold_out    choose nothing from a quarter of the frames, in whole stretches, and measure no cover of them: for the probes of
                `label_table`, where the features of all sources lie in one folder and the frames are enough
    threads     that may encode at once, shared by the processes that do

    Once `stop` is asked, what is worked out so far is the result; Interrupted is raised where that is nothing. Raises UsageError
    for a call that cannot be meant, and as `read_pool` does.
    """
    stop, began = stop or Stop(), time.perf_counter()
    wanted = tuple(sorted(set(budgets)))
    if not wanted or wanted[0] < 1:
        raise UsageError(f"--budgets {','.join(map(str, budgets))}: must be numbers of at least 1")
    swept = variants(sweeps)
    first = Bundle.open(bundle)
    listed = tuple(_listed(sources, first, features))
    place = _Place(out=out, sources=listed, features=features, first=first, hold_out=hold_out)
    cells = list(_cells(place, _served(named(strategies), first, features, watch), swept, wanted))
    answers = {cell: answer for cell in cells if (answer := read_answer(cell)) is not None}
    stored_s = sum(answer.seconds for answer in answers.values())
    todo = [cell for cell in cells if cell not in answers]
    durable.make_folder(out / "cells")

    def worked(what: str, work: Callable[[Job, Stop], Result], jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        watch.begin(what, len(jobs))
        for done in run_jobs(work, jobs, processes=processes, stop=stop):
            watch.advance()
            yield done

    whole = place.pool(first, RECIPE)
    was_there = whole.exists()
    needed = {whole: (first, RECIPE)} | {c.pool: place.made_of[c.pool] for c in todo}
    absent = {path: made_of for path, made_of in needed.items() if not path.exists()}
    encoded_s: dict[str, float] = {}
    to_encode = place.features_jobs((bundle for bundle, _ in absent.values()), processes=processes, threads=threads)
    for job, seconds in worked("encoding drives", store_features, to_encode):
        digest = job.folder.parent.name
        encoded_s[digest] = encoded_s.get(digest, 0.0) + seconds
    if not stop():
        for _ in worked("grouping", store_pool, place.pool_jobs(absent, encoded_s)):
            pass
    if not whole.exists():
        raise Interrupted(
            f"Stopped before anything was compared; the features so far are in {out}. The same command goes on from there."
        )
    stored = read_stored_pool(whole)
    pool, held_out = stored.pool, tuple[PoolFrame, ...]()
    if place.measured != whole:
        if len(pool.units) < FEWEST_UNITS:
            watch.warn(
                f"no probes: of {len(pool.units)} frames none is held out to test them on. They need at least {FEWEST_UNITS}."
            )
        else:
            pool, held_out = hold_out_stretches(pool)
        if not place.measured.exists():
            write_pool(place.measured, pool, seconds=0.0)
    if not stop():
        answers.update(worked("comparing", work_out, todo))
    if not answers:
        raise Interrupted(f"Stopped before anything was compared. The same command goes on from {out}.")
    return Comparison(
        bundle=bundle,
        bundle_digest=first.digest,
        feature_space=feature_space(first.manifest, RECIPE),
        grid=first.manifest.grid,
        untrained=first.manifest.untrained,
        sources=listed,
        pool=pool,
        held_out=held_out,
        features=place.one_folder,
        budgets=wanted,
        compared=tuple(_compared(cells, answers, swept)),
        cut=len(answers) < len(cells),
        stored_s=stored_s + (stored.seconds if was_there else 0.0),
        run_s=time.perf_counter() - began,
    )


def label_table(comparison: Comparison, labels: Path, *, class_list: Path | None = None, watch: Observer) -> LabelTable:
    """What every selection holds of what is labelled (labels/), and what probes learn of it where frames were held out.

    Raises UsageError for labels that cannot be read or belong to no frame, MissingDependency without the extra `compare`.
    """
    with ExitStack() as stack:
        features = None
        if comparison.held_out and comparison.features is not None:
            manifest = Bundle.open(comparison.bundle).manifest
            features = stack.enter_context(Features(comparison.features, manifest, writable=False))
        return evaluate(
            comparison.pool,
            comparison.choices(),
            comparison.budgets,
            labels,
            class_list=class_list,
            features=features,
            held_out=comparison.held_out,
            watch=watch,
        )


def _listed(sources: Sequence[Source], bundle: Bundle, features: Path | None) -> Iterator[ComparedSource]:
    """The sources as they are named, or as they are stored. Raises UsageError where features are not complete."""
    require_names_apart(sources)
    if features is None:
        if not sources:
            raise UsageError("no SOURCE was named. Name one, or a --features folder in which some are stored.")
        for source in sources:
            yield ComparedSource(
                name=source.name, spec=source.spec, kind=source.kind, fps=source.fps, fingerprint=source.fingerprint()
            )
        return
    with Features(features, bundle.manifest, writable=False) as folder:
        for source in sources:
            if source.name not in folder.sources or not folder.begin(source).finished:
                raise UsageError(
                    f"{features}: does not hold all of {source.name}. Store it with `geal-edge select {source.spec} "
                    f"--features {features}`, or leave --features out."
                )
        for name in [source.name for source in sources] or list(folder.sources):
            stored = folder.sources[name]
            yield ComparedSource(
                name=name,
                spec=stored.spec,
                kind=stored.kind,
                fps=stored.fps,
                fingerprint=stored.fingerprint,
                frames=len(stored.rows),
            )


def _served(names: Sequence[str], bundle: Bundle, features: Path | None, watch: Observer) -> list[str]:
    """The strategies asked for, or all; without those that need CLS embeddings, where there are none."""
    lacks = _lacks_cls(bundle, features)
    served = [name for name in names or STRATEGIES if not (lacks and name.startswith("coreset"))]
    if len(served) < len(names or STRATEGIES):
        watch.warn(f"{lacks}, so Core-Set is not compared.")
    if not served:
        raise UsageError(f"--strategies {','.join(names)}: none is left to compare.")
    return served


def _lacks_cls(bundle: Bundle, features: Path | None) -> str:
    """Why there are no CLS embeddings; nothing where there are."""
    if "cls_embedding" not in bundle.manifest.outputs:
        return f"{bundle.path} was exported with --no-cls"
    if features is not None and "cls.f32" not in read_head(features)["arrays"]:
        return f"{features} was stored by a bundle that was exported with --no-cls"
    return ""


class _Place:
    """Where everything of a comparison is stored, and what makes it."""

    def __init__(
        self,
        *,
        out: Path,
        sources: tuple[ComparedSource, ...],
        features: Path | None,
        first: Bundle,
        hold_out: bool,
    ) -> None:
        self.out = out
        self.first = first
        self.made_of: dict[Path, tuple[Bundle, ClusterConfig]] = {}
        self._sources = sources
        self._features = features
        self._bundles: dict[Path, Bundle] = {}
        whole = self.pool(first, RECIPE)
        self.measured = whole.with_stem(f"{whole.stem}-chosen-from") if hold_out and self.one_folder else whole

    @property
    def one_folder(self) -> Path | None:
        """Where the features of all sources lie, if that is one folder."""
        if self._features is not None:
            return self._features
        return self._folder(self.first, self._sources[0]) if len(self._sources) == 1 else None

    def bundle(self, path: Path | None) -> Bundle:
        if path is None:
            return self.first
        if path not in self._bundles:
            self._bundles[path] = Bundle.open(path)
        return self._bundles[path]

    def pool(self, bundle: Bundle, recipe: ClusterConfig) -> Path:
        embedded = not _lacks_cls(bundle, self._features if self._given(bundle) else None)
        path = self.out / "pools" / f"{pool_key(bundle, self._sources, recipe, embedded=embedded)}.npz"
        self.made_of[path] = (bundle, recipe)
        return path

    def features_jobs(self, bundles: Iterable[Bundle], *, processes: int, threads: int) -> list[FeaturesJob]:
        """Each source by each bundle, where the user has not stored it."""
        distinct = {bundle.digest: bundle for bundle in bundles if not self._given(bundle)}
        drives = [(bundle, source) for bundle in distinct.values() for source in self._sources]
        each = max(1, threads // max(1, min(processes, len(drives))))
        return [
            FeaturesJob(bundle=bundle.path, source=source, folder=self._folder(bundle, source), threads=each)
            for bundle, source in drives
        ]

    def pool_jobs(self, absent: dict[Path, tuple[Bundle, ClusterConfig]], encoded_s: dict[str, float]) -> list[PoolJob]:
        return [
            PoolJob(
                bundle=bundle.path,
                sources=self._sources,
                folders=(self._features,)
                if self._given(bundle) and self._features is not None
                else tuple(self._folder(bundle, source) for source in self._sources),
                recipe=recipe,
                place=path,
                encoded_s=encoded_s.get(_short(bundle), 0.0),
            )
            for path, (bundle, recipe) in absent.items()
        ]

    def _given(self, bundle: Bundle) -> bool:
        return self._features is not None and bundle.digest == self.first.digest

    def _folder(self, bundle: Bundle, source: ComparedSource) -> Path:
        """Tells sources of one name apart, so that another drive never meets this one's features."""
        told = digest_key([source.name, source.kind, source.fps, source.fingerprint])
        name = re.sub(r"[^A-Za-z0-9._-]", "_", source.name)
        return self.out / "features" / _short(bundle) / f"{name}-{told[:8]}"


def _short(bundle: Bundle) -> str:
    return bundle.digest.removeprefix("sha256:")[:16]


def _cells(place: _Place, names: Sequence[str], swept: Sequence[Variant], budgets: tuple[int, ...]) -> Iterator[Cell]:
    """Everything to work out, the costliest kinds first, so that no process is left alone with one of them."""
    asked: list[tuple[str, Strategy, Path]] = []
    for name in names:
        strategy = STRATEGIES[name]
        asked.append((name, strategy, place.pool(place.first, strategy.recipe)))
    for variant in swept:
        strategy = Strategy(words=STRATEGIES["geal"].words, config=variant.config)
        asked.append((variant.name, strategy, place.pool(place.bundle(variant.bundle), variant.recipe)))
    asked.sort(key=lambda each: each[1].release is None)
    for name, strategy, pool in asked:
        for seed in range(strategy.draws):
            for each in [budgets] if strategy.prefixes else [(budget,) for budget in reversed(budgets)]:
                key = digest_key(
                    {
                        "cell": 1,
                        "strategy": strategy.as_dict(),
                        "seed": seed,
                        "budgets": each,
                        "pool": pool.stem,
                        "measured": place.measured.stem,
                    }
                )
                yield Cell(
                    name=name,
                    strategy=strategy,
                    seed=seed,
                    budgets=each,
                    pool=pool,
                    measured=place.measured,
                    place=place.out / "cells" / f"{key}.json",
                )


def _compared(cells: Sequence[Cell], answers: dict[Cell, Answer], swept: Sequence[Variant]) -> Iterator[Compared]:
    """What is worked out, in the order of `STRATEGIES`, then what is swept."""
    settings = {variant.name: dict(variant.settings) for variant in swept}
    for name in [*STRATEGIES, *settings]:
        draws: dict[int, list[Cell]] = {}
        for cell in cells:
            if cell.name == name and cell in answers:
                draws.setdefault(cell.seed, []).append(cell)
        if draws:
            yield Compared(
                name=name,
                words=next(iter(draws.values()))[0].strategy.words,
                settings=settings.get(name, {}),
                draws=tuple(_draw(seed, of, answers) for seed, of in sorted(draws.items())),
            )


def _draw(seed: int, cells: Sequence[Cell], answers: dict[Cell, Answer]) -> Draw:
    orders: dict[int, tuple[int, ...]] = {}
    covers: dict[int, Cover] = {}
    for cell in cells:
        answer = answers[cell]
        for budget, cover in zip(cell.budgets, answer.covers, strict=True):
            orders[budget], covers[budget] = answer.order[:budget], cover
    return Draw(seed=seed if cells[0].strategy.draws > 1 else None, orders=orders, covers=covers)
