"""Which engine gives a stage its answers: our own loop, or servers ([generation] engine)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rlp_engine.data.templates import PromptTemplate
from rlp_engine.models.policy import Policy
from rlp_engine.randomness import KeyPart
from rlp_engine.stages.answering import Answerer, answerer
from rlp_engine.stages.server_answering import Connection, ServerAnswerer
from rlp_engine.stages.spec import StageContext, is_by_server


def stage_answerer(
    context: StageContext,
    policy: Policy,
    template: PromptTemplate,
    name: Path | str,
    *,
    temperature: float,
    top_p: float,
    key: tuple[KeyPart, ...],
) -> Answerer:
    """As `answerer`, by the engine that [generation] names; only stages that declare it may ask.

    Args:
        name: the policy's folder or hub id, which a server knows it by.
    """
    generation = context.config.generation
    native = answerer(policy, template, generation, temperature=temperature, top_p=top_p, key=key)
    if not is_by_server(context.spec):
        return native
    parts = {field.name: getattr(native, field.name) for field in dataclasses.fields(native)}
    return ServerAnswerer(**parts, connection=Connection(context, generation.server, str(name)))
