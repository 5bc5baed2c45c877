"""What every section of run.toml is made of: ranges of numbers, and a frozen model that refuses unknown keys.

In a section's module a key has its type, default, range, unit and source. `Field(description=...)` is the help that
`rlp config show` prints. METHOD sources: [P] the paper, [AF] AlpacaFarm, [MIB] Multi-View Information Bottleneck,
[we] our choice.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

SAFE = {"safe": True}
"""Of keys that cannot change a result (logging, saving), so that changing them does not make finished stages stale. Sizes
of micro-batches and the device are safe too: they move the last digits of a float and nothing else, and an
out-of-memory run must be able to go on with a smaller one."""

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """Immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
