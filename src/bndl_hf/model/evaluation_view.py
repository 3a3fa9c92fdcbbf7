"""A model in evaluation mode without switching it: a view that shares its weights and leaves its modes alone.

`model.eval()` before a prediction and `model.train()` after it would be seen by every other thread: one that predicts
too would run half in training mode (dropout, running statistics that move), one that trains would train in evaluation
mode. A lock or a count of predictions under way helps the first and not the second. So a model that is in training mode
is looked at through copies of its module objects, in evaluation mode, that hold the very same parameters, buffers and
hooks. They are made anew for each prediction, so nothing can be stale: whatever was replaced, hooked or set meanwhile
is there. That takes some microseconds a module, a fraction of a percent of a forward pass; a model in evaluation mode,
which is how models are served, is its own view.
"""

from __future__ import annotations

import functools
import types
from typing import Any, TypeVar, cast

from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def evaluation_view(model: ModuleT) -> ModuleT:
    """`model` as it would be after `model.eval()`; the model itself where every module of it is in that mode already.

    Weights, buffers and hooks are those of the model, in both directions: accelerate may bring offloaded weights to
    either. Attributes set on the view stay on it.
    """
    if not any(module.training for module in model.modules()):
        return model
    return cast(ModuleT, _view(model, {}))


def _view(module: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    """The view of `module`; `made` has those of modules met before, which may occur twice."""
    if id(module) in made:
        return made[id(module)]
    if compiled := module._modules.get("_orig_mod"):  # torch.compile's wrapper runs a function made of what it wraps
        return made.setdefault(id(module), _view(compiled, made))
    view = made[id(module)] = object.__new__(type(module))
    attributes = {name: _rebound(value, module, view) for name, value in module.__dict__.copy().items()}
    children = module._modules.copy()  # copied at once: another thread may be adding one
    attributes["_modules"] = {name: child if child is None else _view(child, made) for name, child in children.items()}
    attributes["training"] = False
    attributes["_compiled_call_impl"] = None  # of `module.compile()`; bound to the module
    view.__dict__.update(attributes)
    return view


def _rebound(value: Any, module: nn.Module, view: nn.Module) -> Any:
    """`value`; where it is a method bound to `module`, the same bound to `view`.

    accelerate's hooks replace `forward` by a partial function of the module, and keep the method they replaced.
    """
    if isinstance(value, types.MethodType) and value.__self__ is module:
        return types.MethodType(value.__func__, view)
    if isinstance(value, functools.partial) and any(argument is module for argument in value.args):
        arguments = [view if argument is module else argument for argument in value.args]
        rebound = functools.partial(value.func, *arguments, **value.keywords)
        rebound.__dict__.update(value.__dict__)
        return rebound
    return value
