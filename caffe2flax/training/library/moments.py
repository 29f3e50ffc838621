"""The moments that the state of an optimizer holds, by the paths of the variables."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def place_in(path: Sequence[Any]) -> tuple[str, str]:
    """A leaf of an optimizer's state: the field it is in, and its variable."""
    names = [getattr(key, "name", "") for key in path]
    field = max((i for i, name in enumerate(names) if name not in ("", "value")))
    keys = [getattr(key, "key", getattr(key, "idx", "")) for key in path[field + 1 :]]
    return names[field], ".".join(str(key) for key in keys if key != "")


def get_moments(opt_state: Any, fields: Sequence[str]) -> list[dict[str, Any]]:
    """What the state of an optimizer holds in these fields, by variables."""
    found: dict[str, dict[str, Any]] = {field: {} for field in fields}
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state):
        field, variable = place_in(path)
        if field in found:
            found[field][variable] = leaf
    return list(found.values())


def last_update(optimizer: Any) -> dict[str, Any]:
    """What was subtracted last, by variable; the state has it from keep_last_update."""
    (updates,) = get_moments(optimizer.opt_state, ("diff",))
    return {name: 0 - np.asarray(update) for name, update in updates.items()}


def set_moments(
    opt_state: Any,
    fields: Sequence[str],
    moments: Sequence[Mapping[str, Any]],
    updates: int,
) -> Any:
    """The state of an optimizer with these moments, after so many updates. Raises
    ValueError where it has more or fewer."""
    if len(moments) != len(fields):
        text = f"the history has {len(moments)} moments, the solver {len(fields)}"
        raise ValueError(f"{text}: it is the state of another solver")
    given = dict(zip(fields, moments, strict=True))

    def leaf(path: Sequence[Any], old: Any) -> Any:
        field, variable = place_in(path)
        if field in ("count", "gradient_step"):
            return jnp.asarray(updates, old.dtype)
        return jnp.asarray(given[field][variable]) if field in given else old

    return jax.tree_util.tree_map_with_path(leaf, opt_state)
