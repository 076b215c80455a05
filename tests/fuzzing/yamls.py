"""Changes to YAML: tags and names that run code in an unsafe reader, and expansion bombs."""

from collections.abc import Sequence
from random import Random

import yaml
from documents import DEEP_LISTS, DEEP_MAPPINGS, LONG_NUMBER, changed_values, places_in
from pickles import COMMAND, PYTHON

HOSTILE = "hostileTag"  # placeholder for text that is not a serialized value
# Values that create objects or run code in an unsafe reader; inserted verbatim.
TAGS = (
    f'!!python/object/apply:os.system ["{COMMAND}"]',
    f'!!python/object/apply:builtins.exec ["{PYTHON}"]',
    f"!!python/object/new:type {{args: [x, !!python/tuple [], {{}}], state: {PYTHON!r}}}",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!binary 'AAA'",
    "!!set {a, b}",
    "!!timestamp 2001-99-99",
    "!!float x",
    "!!int 0x",
    "!!merge x",
    "!unknown x",
    "? [a]: b",
    "{? {a: b} : c}",
    "*nowhere",
    "&a [*a]",
    "0o9",
    "1:60:99",
    "2001-99-99",
    "0b",
    "0x",
    "-.inf",
    "'\\x'",
    '"\\uD800"',
    "|\n  text",
    "@",
    "%",
    "{",
    "]",
    "\t",
)
# Targets of references: other keys, functions, the text itself.
TEXTS = (
    *("${", "${}", "${x}", "${model}", "${.}", "${..a}", "${oc.env:HOME}", "${oc.env:NOT_SET}", "${oc.decode:${x}}"),
    *("${range:900000000}", "${pow:9,${pow:9,9}}", "${times:9,9}", "${divide:1,0}", "${int:x}", "${merge:1,2}"),
    *("${a:${a}}", "\\${x}", "???", "${model.image_size}", "${oc.create:{a: b}}", "${oc.select:x}", "${hydra:x}"),
    *("${trainer}", "${scratch}", "${oc.dict.keys:trainer}", "${oc.dict.values:scratch}", "${oc.deprecated:x}"),
)
FUNCTIONS = (
    *("os.system", "posix.system", "subprocess.call", "builtins.eval", "builtins.exec", "builtins.open", "torch.load"),
    *("hydra.utils.instantiate", "hydra.utils.get_method", "sam2fast.config.load_config", "sam2fast.modeling"),
    *("sam2.modeling.sam2_base.os.system", "sam2fast.modeling.hiera.Hiera.__init__", "sam2fast.config", "", ".", "x"),
    *("training.trainer.Trainer", "sam2fast.training.trainer.Trainer", "sam2.modeling.backbones.hieradet.Hiera", "os"),
)


def yaml_values(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Changes values of a YAML file, to tags, references and names of functions, too."""
    if BOMB in data:  # must not run here
        return data
    try:
        tree = changed_values(yaml.load(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)), rng)
    except Exception:  # damaged by an earlier change
        return data
    places = list(places_in(tree))
    if places and rng.random() < 0.6:
        holder, key = rng.choice(places)
        call = {"_target_": rng.choice(FUNCTIONS), "_args_": [rng.choice((COMMAND, PYTHON))]}
        holder[key] = rng.choice((HOSTILE, rng.choice(TEXTS), rng.choice(TEXTS), call, call["_target_"]))
    try:
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=rng.random() < 0.5)
    except RecursionError:  # nested deeply by an earlier change
        return data
    text = text.replace(DEEP_LISTS, "[" * 700 + "]" * 700).replace(DEEP_MAPPINGS, "{a: " * 700 + "1" + "}" * 700)
    text = text.replace(LONG_NUMBER, "9" * 6000).replace(HOSTILE, rng.choice(TAGS))
    return text.encode("utf-8", "surrogatepass")


BOMB = b"x1: &x1"


def yaml_bomb(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """A few lines that expand to 10^9 values, or to themselves."""
    levels, width = rng.choice(((9, 10), (30, 2), (300, 1)))
    kind = rng.choice(("list", "mapping", "merged"))
    first = "x0: &x0 {a: 1}" if kind == "merged" else f"x0: &x0 [{', '.join('1' * width)}]"
    lines = [first]
    for level in range(1, levels):
        before = [f"*x{level - 1}"] * width
        if kind == "list":
            value = f"[{', '.join(before)}]"
        elif kind == "mapping":
            value = "{" + ", ".join(f"a{i}: {name}" for i, name in enumerate(before)) + "}"
        else:
            value = f"{{<<: [{', '.join(before)}], b{level}: 1}}"
        lines.append(f"x{level}: &x{level} {value}")
    return data + b"\n" + "\n".join(lines).encode() + b"\n"
