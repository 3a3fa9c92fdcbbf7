"""A model in evaluation mode without switching it: a view that shares its weights and leaves its modes alone.

`model.eval()` before a prediction and `model.train()` after it would be seen by every other thread: one that predicts
too would run half in training mode (dropout, running statistics that move), one that trains would train in evaluation
mode. A lock or a count of predictions under way helps the first and not the second. So a model that is in training mode
is looked at through copies of its module objects, in evaluation mode, that hold the very same parameters, buffers and
hooks. They are made anew for each prediction, so nothing can be stale: whatever was replaced, hooked or set meanwhile
is there. That takes some microseconds a module, about a percent of a forward pass; a model in evaluation mode, which is
how models are served, is its own view.
"""

from __future__ import annotations

import copy
import functools
import operator
import types
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, TypeVar, cast

import torch
from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def evaluation_view(model: ModuleT) -> ModuleT:
    """`model` as it would be after `model.eval()`; the model itself where every module of it is in that mode already.

    Weights, buffers and hooks are those of the model, in both directions: accelerate may bring offloaded weights to
    either. Attributes set on the view stay on it. TorchScript modules, which cannot be looked at in two modes, are
    copied with their weights.
    """
    modules = list(model.modules())
    if not any(module.training for module in modules):
        return model
    plain = [module for module in modules if not isinstance(module, torch.jit.ScriptModule)]
    views: dict[int, object] = {id(module): object.__new__(type(module)) for module in plain}
    for module in modules:
        if isinstance(module, torch.jit.ScriptModule):
            views[id(module)] = copy.deepcopy(module).eval()
        elif (compiled := module._modules.get("_orig_mod")) is not None:
            views[id(module)] = views[id(compiled)]  # torch.compile's wrapper runs a function made of what it wraps
    for module in plain:
        if "_orig_mod" in module._modules:
            continue
        attributes = module.__dict__.copy()  # copied at once: another thread may be adding one
        for name, value in attributes.items():
            if name not in ("_parameters", "_buffers") and "_hooks" not in name:
                attributes[name] = _rebound(value, views)
        attributes["training"] = False
        attributes["_compiled_call_impl"] = None  # of `module.compile()`; bound to the module
        views[id(module)].__dict__.update(attributes)
    return cast(ModuleT, views[id(model)])


def _rebound(value: object, views: dict[int, object]) -> object:
    """`value` with every module in it replaced by its view.

    Modules may be in lists, tuples and dictionaries beside `_modules`, and in functions that took the place of
    `forward`: methods, partial functions (accelerate's hooks) and closures over a module or its method.

    Args:
        value: an attribute of a module.
        views: {id of a module, or of a value looked at before: what stands for it}.
    """
    if id(value) in views:
        return views[id(value)]
    if type(value) not in (types.MethodType, types.FunctionType, functools.partial, list, tuple, dict, OrderedDict):
        return value
    views[id(value)] = value  # for a value that contains itself
    views[id(value)] = result = _remade(value, views)
    return result


def _remade(value: object, views: dict[int, object]) -> object:
    """`_rebound` of something that holds other values; itself where they all stay."""

    def changed(parts: Iterable[object]) -> list[Any] | None:
        before = list(parts)
        after = [_rebound(part, views) for part in before]
        return None if all(map(operator.is_, before, after)) else after

    if isinstance(value, types.MethodType):
        parts = changed((value.__func__, value.__self__))
        return value if parts is None else types.MethodType(*parts)
    if isinstance(value, functools.partial):
        parts = changed((value.func, *value.args, *value.keywords.values()))
        if parts is None:
            return value
        count = len(value.args) + 1
        made = functools.partial(parts[0], *parts[1:count], **dict(zip(value.keywords, parts[count:], strict=True)))
        made.__dict__.update(value.__dict__)
        return made
    if isinstance(value, types.FunctionType):
        cells = [_rebound_cell(cell, views) for cell in value.__closure__ or ()]
        if all(map(operator.is_, cells, value.__closure__ or ())):
            return value
        function = types.FunctionType(
            value.__code__, value.__globals__, value.__name__, value.__defaults__, tuple(cells)
        )
        function.__kwdefaults__ = value.__kwdefaults__
        function.__dict__.update(value.__dict__)
        return function
    if isinstance(value, dict):
        items = value.copy()
        parts = changed(items.values())
        return value if parts is None else type(value)(zip(items, parts, strict=True))
    sequence = cast("list[object] | tuple[object, ...]", value)
    parts = changed(sequence)
    return value if parts is None else type(sequence)(parts)


def _rebound_cell(cell: types.CellType, views: dict[int, object]) -> types.CellType:
    """A cell of a closure, likewise; a cell that stays is shared, so that what the function writes there is seen."""
    try:
        content = cell.cell_contents
    except ValueError:  # nothing was put into it yet
        return cell
    rebound = _rebound(content, views)
    return cell if rebound is content else types.CellType(rebound)
