"""What every section is made of."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$", max_length=100)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["fp32", "bf16", "fp16", "fp64"]


class Config(BaseModel):
    """Frozen, keyword-only, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
