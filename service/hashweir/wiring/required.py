"""The check that a configuration names what a part is made of."""

from __future__ import annotations

from hashweir.config import Config
from hashweir.errors import ConfigError


def require(config: Config, *names: str) -> None:
    """Raises ConfigError naming every key (`section.key`) of `names` that has no value, and how to set it."""
    missing = [name for name in names if not getattr(getattr(config, name.split(".")[0]), name.split(".")[1])]
    if missing:
        listed = " and ".join(f"{name} (HASHWEIR_{name.upper().replace('.', '__')})" for name in missing)
        raise ConfigError(f"{listed} must be configured; to try hashweir without, run `hashweir demo`")
