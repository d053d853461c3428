"""Which engine runs a bundle here, and which ones stand behind it: decided by the records of `geal-edge verify` alone."""

from dataclasses import dataclass
from typing import get_args

from geal_edge.errors import EngineNotVerified
from geal_edge.models.bundle import Bundle
from geal_edge.runtime.backends.choice import BackendName, BackendOrAuto
from geal_edge.runtime.records import REFERENCE_BACKEND, standing
from geal_edge.runtime.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """names: the engine to run on, then those to fall back to, the last of them ONNX Runtime on the CPU; why: in a sentence."""

    names: tuple[BackendName, ...]
    why: str


def choose(wanted: BackendOrAuto, bundle: Bundle, state: State) -> Engines:
    """The engine that was asked for, or with "auto" the fastest verified one; behind it the other verified ones by speed.

    Nothing is measured or started. ONNX Runtime on the CPU needs no record: it is what export checked the graph with.
    """
    standings = [standing(state, bundle, name) for name in get_args(BackendName)]
    verified = sorted((each for each in standings if each.verdict == "verified"), key=lambda each: each.frame_ms)
    if wanted != "auto":
        first, why = wanted, f"{wanted}: as asked for"
    elif verified:
        first = verified[0].backend
        why = f"{first}: {verified[0].why}; the fastest of {len(verified)} verified"
    else:
        first = REFERENCE_BACKEND
        why = (
            f"{first}: no engine was verified for this bundle on this machine. To have another one: "
            f"geal-edge verify {bundle.path} --backend NAME"
        )
    if wanted == "auto":
        # Of the others only what a person may be surprised by: an engine that was never tried is no news.
        others = [each for each in standings if each.verdict in ("failed", "void")]
        why += "".join(f"; not {each.backend}: {each.why.removeprefix(f'{each.backend}: ')}" for each in others)
    names = dict.fromkeys([first, *(each.backend for each in verified), REFERENCE_BACKEND])
    return Engines(names=tuple(names), why=why)


def require_verified(name: BackendName, bundle: Bundle, state: State) -> None:
    """Raise EngineNotVerified for an engine that has not answered for itself, here and on this bundle."""
    found = standing(state, bundle, name)
    if name != REFERENCE_BACKEND and found.verdict != "verified":
        raise EngineNotVerified(
            f"{name}: {found.why}. Let it answer for itself first: geal-edge verify {bundle.path} --backend {name}; "
            "or take it as it is: --unverified."
        )
