"""The recipes: functions that return one complete `Recipe` each.

| recipe              | denoiser                | text             | VAE           | objective               | command                                        |
|---------------------|-------------------------|------------------|---------------|-------------------------|------------------------------------------------|
| tiny                | UNet, a few M           | word-level CLIP  | shapes KL     | flow                    | make demo                                      |
| tiny-dit            | PixArt-class DiT        | word-level CLIP  | shapes KL     | flow                    | ccray run --recipe tiny-dit                    |
| commoncanvas-s-c    | SD2 UNet, 866 M         | OpenCLIP-H, 1024 | SD2           | epsilon                 | ray job submit ... --recipe commoncanvas-s-c   |
| commoncanvas-s-nc   | the same                | the same         | the same      | epsilon                 | the same, BY-NC and BY-NC-SA admitted          |
| commoncanvas-l-nc   | SDXL UNet, cross 1024   | the same         | SDXL fp16-fix | epsilon                 |                                                |
| commonart-beta      | PixArt-Sigma XL/2, 0.6 B| calm2-7b, 4096   | SDXL fp16-fix | epsilon + learned sigma |                                                |

Published recipes say where each setting comes from: `ORIGINS`, printed by `ccray show --origins`.
"""

from collections.abc import Callable
from typing import Any

from ccray.config import Recipe, flatten
from ccray.interfaces import Refused
from ccray.recipes.commonart import COMMONART_IMAGES, COMMONART_ORIGINS, commonart_beta
from ccray.recipes.commoncanvas import (
    COMMERCIAL_IMAGES,
    COMMONCANVAS_L_ORIGINS,
    COMMONCANVAS_ORIGINS,
    NONCOMMERCIAL_IMAGES,
    SCORES,
    commoncanvas_l_nc,
    commoncanvas_s_c,
    commoncanvas_s_nc,
)
from ccray.recipes.origins import Origin, origin_in
from ccray.recipes.shapes import tiny, tiny_dit

__all__ = [
    "IMAGES",
    "ORIGINS",
    "RECIPES",
    "SCORES",
    "Origin",
    "commonart_beta",
    "commoncanvas_l_nc",
    "commoncanvas_s_c",
    "commoncanvas_s_nc",
    "named",
    "origins",
    "tiny",
    "tiny_dit",
]

RECIPES: dict[str, Callable[[], Recipe]] = {
    "tiny": tiny,
    "tiny-dit": tiny_dit,
    "commoncanvas-s-c": commoncanvas_s_c,
    "commoncanvas-s-nc": commoncanvas_s_nc,
    "commoncanvas-l-nc": commoncanvas_l_nc,
    "commonart-beta": commonart_beta,
}
ORIGINS: dict[str, dict[str, Origin]] = {
    "commoncanvas-s-c": COMMONCANVAS_ORIGINS,
    "commoncanvas-s-nc": COMMONCANVAS_ORIGINS,
    "commoncanvas-l-nc": COMMONCANVAS_ORIGINS | COMMONCANVAS_L_ORIGINS,
    "commonart-beta": COMMONART_ORIGINS,
}
# How many images the published model was trained on.
IMAGES: dict[str, int] = {
    "commoncanvas-s-c": COMMERCIAL_IMAGES,
    "commoncanvas-s-nc": NONCOMMERCIAL_IMAGES,
    "commoncanvas-l-nc": NONCOMMERCIAL_IMAGES,
    "commonart-beta": COMMONART_IMAGES,
}


def named(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        Refused: when there is none.
    """
    if name not in RECIPES:
        raise Refused(f"--recipe {name!r} is not a recipe: expected one of {', '.join(RECIPES)}")
    return RECIPES[name]()


def origins(recipe: Recipe) -> dict[str, Origin]:
    """Dotted setting -> where its value comes from; a recipe of ours, or a value changed from the published one, is `ours`."""
    table = ORIGINS.get(recipe.name, {})
    published = flatten(RECIPES[recipe.name]().model_dump(mode="json"))
    settings: dict[str, Any] = flatten(recipe.model_dump(mode="json"))
    return {key: origin_in(table, key) if settings[key] == published.get(key) else "ours" for key in settings}
