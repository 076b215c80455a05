"""Optimizers with scheduled options. Parameter groups are selected by parameter names or module classes."""

import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from sam2fast.config import official_to_ours

# Function of ``where``, the completed fraction of the training, and optionally of ``step``, the number of updates.
Scheduler = Callable[..., float]


@dataclass(frozen=True)
class ScheduledOption:
    """Schedule of one optimizer option for some parameters. If ``scheduler`` is None, the default value is kept."""

    option: str
    parameter_names: frozenset[str]
    scheduler: Scheduler | None = None


# Function of the keywords ``scheduler_cfgs`` and ``model`` that returns a changed copy of ``scheduler_cfgs``.
ParamGroupModifier = Callable[..., list[list[ScheduledOption]]]


class ValueScaler:
    """Multiplies the value of ``scheduler`` by ``mult_val``. Source: ``training.optimizer.ValueScaler``."""

    def __init__(self, scheduler: Scheduler, mult_val: float) -> None:
        self.scheduler = scheduler
        self.mult_val = mult_val

    def __call__(self, *args: Any, **kwargs: Any) -> float:
        return self.scheduler(*args, **kwargs) * self.mult_val


class Optimizer:
    """Torch optimizer with schedulers for the options of each group.

    The constructor sets options to their values at ``where = 0``. Source: ``training.optimizer.Optimizer``.

    Args:
        optimizer: torch optimizer.
        schedulers: mapping from options to schedulers, for each parameter group. If ``schedulers`` is None, no options
            are scheduled.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, schedulers: Sequence[Mapping[str, Scheduler]] | None = None
    ) -> None:
        self.optimizer = optimizer
        self.schedulers = [{} for _ in optimizer.param_groups] if schedulers is None else [dict(s) for s in schedulers]
        if len(self.schedulers) != len(optimizer.param_groups):
            raise ValueError(f"{len(self.schedulers)} sets of schedulers for {len(optimizer.param_groups)} groups")
        if unknown := set().union(*self.schedulers) - set(optimizer.defaults):
            raise ValueError(
                f"{type(optimizer).__name__} has no option {', '.join(sorted(unknown))}; "
                f"its options are {', '.join(optimizer.defaults)}"
            )
        self.step_schedulers(0.0, 0)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the torch optimizer."""
        return self.optimizer.param_groups

    def step_schedulers(self, where: float, step: int | None = None) -> None:
        """Sets all scheduled options to their values at ``where``, the completed fraction of the training.

        Schedulers with a parameter ``step`` get the number of updates as a second argument.
        """
        for group, schedulers in zip(self.param_groups, self.schedulers, strict=True):
            for option, scheduler in schedulers.items():
                inner = scheduler
                while isinstance(inner, ValueScaler):
                    inner = inner.scheduler
                takes_step = "step" in inspect.signature(inner).parameters
                group[option] = scheduler(step=step, where=where) if takes_step else scheduler(where)

    def zero_grad(self) -> None:
        """Clears the gradients."""
        self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the torch optimizer. Schedulers have no state."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state that :meth:`state_dict` returned. Options without a scheduler keep their configured values.

        Raises ``ValueError`` if the groups of ``state_dict`` do not match the optimizer's groups.
        """
        options = [{name: value for name, value in group.items() if name != "params"} for group in self.param_groups]
        self.optimizer.load_state_dict(state_dict)
        for group, configured, scheduled in zip(self.param_groups, options, self.schedulers, strict=True):
            group.update({name: value for name, value in configured.items() if name not in scheduled})


def construct_optimizer(
    model: nn.Module,
    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
    options: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    param_group_modifiers: Sequence[ParamGroupModifier] = (),
    companions: Mapping[str, nn.Module] | None = None,
) -> Optimizer:
    """Makes an optimizer of all parameters of a model, including frozen parameters.

    Each parameter group is a non-empty combination of one entry per option. Groups have the order of
    ``itertools.product``. Parameters of a group keep the order of the model.

    Args:
        model: model to train.
        optimizer: function from parameter groups to a torch optimizer, such as ``functools.partial(torch.optim.AdamW,
            eps=1e-6)``.
        options: list of entries for each optimizer option, such as ``lr``. Each entry has a ``scheduler`` and may have
            ``param_names`` (name patterns such as ``*bias*``) and ``module_cls_names`` (classes such as
            ``torch.nn.LayerNorm``). ``module_cls_names`` selects direct parameters of modules of the named classes and
            of subclasses. Official class names select sam2fast's classes. An entry without ``param_names`` and
            ``module_cls_names`` selects all remaining parameters. If no entry selects the remaining parameters, these
            parameters get the optimizer's default.
        param_group_modifiers: functions that change the entries of ``options`` before groups are made, such as
            ``functools.partial(layer_decay_param_modifier, layer_decay_value=0.9, apply_to="image_encoder.trunk")``.
        companions: other modules to train, by name. The names of a module's parameters get the module's name as a
            prefix.

    Raises:
        ValueError: If a pattern or class matches no parameter, several entries of an option select the same parameters,
            the optimizer has no such option, or parameters of companion and model have the same name.

    Source: ``training.optimizer.construct_optimizer``.
    """
    roots = [("", model), *((f"{name}.", companion) for name, companion in (companions or {}).items())]
    modules = [(f"{start}{n}." if n else start, m) for start, root in roots for n, m in root.named_modules()]
    parameters = _own_parameters(modules)
    if not options:
        return Optimizer(optimizer([{"params": list(parameters.values())}]))
    entries = [_resolve_option(option, configs, modules, parameters) for option, configs in options.items()]
    for modifier in param_group_modifiers:
        entries = modifier(scheduler_cfgs=entries, model=model)
    groups, schedulers = [], []
    for combination in itertools.product(*entries):
        names = frozenset.intersection(*(entry.parameter_names for entry in combination))
        if names:
            groups.append({"params": [value for name, value in parameters.items() if name in names]})
            schedulers.append({entry.option: entry.scheduler for entry in combination if entry.scheduler is not None})
    count = Counter(value for group in groups for value in group["params"])
    if wrong := [name for name, value in parameters.items() if count[value] != 1]:
        raise ValueError(f"modifiers left these parameters in no group or in several: {', '.join(wrong)}")
    return Optimizer(optimizer(groups), schedulers)


def layer_decay_param_modifier(
    scheduler_cfgs: list[list[ScheduledOption]],
    model: nn.Module,
    layer_decay_value: float,
    layer_decay_min: float | None = None,
    apply_to: str = "",
    overrides: Sequence[Mapping[str, Any]] = (),
) -> list[list[ScheduledOption]]:
    """Decays learning rates layer by layer, towards the input of a part of the model.

    The learning rate of layer i of n is multiplied by ``layer_decay_value ** (n + 1 - i)``. Learning rates of other
    parameters of the model are unchanged.

    Args:
        scheduler_cfgs: list of scheduled options for each option name; only ``lr`` is changed.
        model: model whose part ``apply_to`` has ``get_num_layers()`` and ``get_layer_id(parameter_name)``.
        layer_decay_value: ratio between the learning rates of consecutive layers.
        layer_decay_min: minimum factor.
        apply_to: name of the model's part; by default, the whole model.
        overrides: mappings with ``pattern`` and ``value``. Learning rates of the part's parameters whose names match
            ``pattern`` are multiplied by ``value``; the first match counts.

    Source: ``training.optimizer.layer_decay_param_modifier``.
    """
    try:
        part: Any = model.get_submodule(apply_to)
    except AttributeError:
        raise ValueError(f"apply_to names {apply_to!r}, but the model has no such module") from None
    if not (hasattr(part, "get_num_layers") and hasattr(part, "get_layer_id")):
        raise ValueError(f"{type(part).__name__}, which apply_to names, has no get_num_layers and get_layer_id")
    last = part.get_num_layers() + 1

    def layer_and_scale(name: str) -> tuple[Any, float]:
        is_inside = name.startswith(apply_to)
        for override in overrides if is_inside else ():
            if fnmatchcase(name, override["pattern"]):
                return override["pattern"], float(override["value"])
        layer = part.get_layer_id(name) if is_inside else last
        scale = layer_decay_value ** (last - layer)
        return layer, scale if layer_decay_min is None else max(scale, layer_decay_min)

    def split(entry: ScheduledOption) -> list[ScheduledOption]:
        if entry.option != "lr" or entry.scheduler is None:
            return [entry]
        names_of_layer: dict[Any, set[str]] = {}
        scales: dict[Any, float] = {}
        # Sorts names, so that groups have the same order in every run and saved states fit.
        for name in sorted(entry.parameter_names):
            layer, scale = layer_and_scale(name)
            names_of_layer.setdefault(layer, set()).add(name)
            scales.setdefault(layer, scale)
        return [
            replace(entry, parameter_names=frozenset(names), scheduler=ValueScaler(entry.scheduler, scales[layer]))
            for layer, names in names_of_layer.items()
        ]

    return [[piece for entry in entries for piece in split(entry)] for entries in scheduler_cfgs]


class GradientClipper:
    """Clips gradients to a total norm of ``max_norm``. If ``max_norm`` is None, gradients are not clipped.

    Source: ``training.optimizer.GradientClipper``. Unlike the official class, this class returns the gradient norm.
    """

    def __init__(self, max_norm: float | None = 1.0, norm_type: float = 2) -> None:
        self.max_norm = None if max_norm is None else float(max_norm)
        self.norm_type = norm_type

    def __call__(self, model: nn.Module | Iterable[Tensor]) -> Tensor:
        """Clips the gradients of a module or of parameters. Returns the total gradient norm before clipping."""
        parameters = list(model.parameters() if isinstance(model, nn.Module) else model)
        if self.max_norm is None:
            norms = [torch.linalg.vector_norm(p.grad, self.norm_type) for p in parameters if p.grad is not None]
            return torch.linalg.vector_norm(torch.stack(norms), self.norm_type) if norms else torch.tensor(0.0)
        return nn.utils.clip_grad_norm_(parameters, self.max_norm, self.norm_type)


def _own_parameters(modules: list[tuple[str, nn.Module]]) -> dict[str, nn.Parameter]:
    """Returns all parameters by name in the order of ``named_parameters``. Shared parameters occur only once."""
    named: dict[str, nn.Parameter] = {}
    seen: set[nn.Parameter] = set()
    for prefix, module in modules:
        for name, value in module.named_parameters(recurse=False):
            if value in seen:
                continue
            if prefix + name in named:
                raise ValueError(f"two parameters have the name {prefix}{name}; give the companion another prefix")
            seen.add(value)
            named[prefix + name] = value
    return named


def _resolve_option(
    option: str,
    configs: Sequence[Mapping[str, Any]],
    modules: list[tuple[str, nn.Module]],
    parameters: Mapping[str, nn.Parameter],
) -> list[ScheduledOption]:
    """Converts the entries of an option to :class:`ScheduledOption` with the names of selected parameters."""
    owner: dict[str, str] = {}
    taken: list[frozenset[str] | None] = []
    for config in configs:
        names: frozenset[str] | None = None
        if "param_names" in config or "module_cls_names" in config:
            patterns = config.get("param_names") or ()
            matches = {p: {name for name in parameters if fnmatchcase(name, p)} for p in patterns}
            for name in config.get("module_cls_names") or ():
                cls = _find_class(name, modules)
                owners = [(prefix, module) for prefix, module in modules if isinstance(module, cls)]
                owned = {prefix + n for prefix, m in owners for n, _ in m.named_parameters(recurse=False)}
                matches[name] = owned & parameters.keys()
            if empty := [pattern for pattern, matched in matches.items() if not matched]:
                raise ValueError(f"{option}: {', '.join(map(repr, empty))} matches no parameter of the model")
            names = frozenset().union(*matches.values())
            for name in sorted(names & set(owner)):
                raise ValueError(f"{option}: both {owner[name]} and {', '.join(matches)} take {name}")
            owner.update(dict.fromkeys(names, ", ".join(matches)))
        taken.append(names)
    if taken.count(None) > 1:
        raise ValueError(f"{option}: {taken.count(None)} entries have neither param_names nor module_cls_names")
    rest = frozenset(parameters) - set(owner)
    entries = [
        ScheduledOption(option, rest if names is None else names, config["scheduler"])
        for config, names in zip(configs, taken, strict=True)
    ]
    return entries if None in taken else [*entries, ScheduledOption(option, rest)]


def _find_class(name: str, modules: list[tuple[str, nn.Module]]) -> type:
    """Returns the class called ``name`` in torch.nn or among the classes of ``modules``. Imports no other module."""
    ours = official_to_ours(name)
    package, _, attribute = ours.rpartition(".")
    result = getattr(nn, attribute, None) if package == "torch.nn" else None
    for _, module in modules:
        for cls in type(module).__mro__:
            if f"{cls.__module__}.{cls.__qualname__}" == ours:
                result = cls
    if not isinstance(result, type):
        raise ValueError(f"module_cls_names: no module of the model is a {name!r}")
    return result
