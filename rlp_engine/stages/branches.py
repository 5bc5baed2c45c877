"""The branches of a run: what their policies, reward models and pairs are called in the results, and who makes them."""

from __future__ import annotations

from decimal import Decimal

from rlp_engine.config.schema import SYNTHESIS, RunConfig


def curve_points(config: RunConfig, method: str) -> dict[str, float]:
    """What a branch's name gains at each further weight of the KL penalty: {"-kl0.05": 0.05}."""
    if config.curve.methods and method not in config.curve.methods:
        return {}
    points = sorted(set(config.curve.kl_coefficients) - {config.ppo.kl_coefficient})
    return {f"-kl{_decimal(point)}": point for point in points}


def is_curve_point(name: str) -> bool:
    """Is this policy of the results one at another weight of the KL penalty?"""
    return "-kl" in name.rpartition("/")[2]


def _decimal(number: float) -> str:
    """Shortest digits, never an exponent: 0.05, 2, 0.00001."""
    return f"{Decimal(repr(number)).normalize():f}"


def synthesis_of(method: str, round_number: int) -> str:
    """The stage that makes a method's pairs. Round 1's samples are shared, so like methods share it."""
    owner = SYNTHESIS[method] if round_number == 1 else method
    return f"round-{round_number}/{owner}/synthesize"


def policies(config: RunConfig) -> dict[str, str]:
    """Name of each trained policy in the results -> the stage that made it, in the order of the pipeline."""
    branches = {"ppo": ("ppo", "ppo")}  # name -> method, stage
    for round_number in range(1, config.rounds + 1):
        branches |= {f"round-{round_number}/{m}": (m, f"round-{round_number}/{m}/ppo") for m in config.methods}
    return {
        f"{name}{suffix}": f"{stage}{suffix}"
        for name, (method, stage) in branches.items()
        for suffix in ("", *curve_points(config, method))
    }


def reward_models(config: RunConfig) -> dict[str, str]:
    """Name of each reward model in the results -> the stage that made it."""
    names = {"train-rm": "train-rm"}
    for round_number in range(1, config.rounds + 1):
        names |= {f"round-{round_number}/{m}": f"round-{round_number}/{m}/refine-rm" for m in config.methods}
    return names


def synthetic_pairs(config: RunConfig) -> dict[str, str]:
    """Name of each branch that synthesizes -> the stage that made its pairs."""
    return {
        f"round-{round_number}/{method}": synthesis_of(method, round_number)
        for round_number in range(1, config.rounds + 1)
        for method in config.methods
        if method in SYNTHESIS
    }
