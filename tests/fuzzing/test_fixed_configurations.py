"""Configurations that the fuzzer found: all are refused as documented."""

from pathlib import Path
from unittest.mock import Mock

import pytest
from omegaconf import OmegaConf

from sam2fast.config import ConfigError, load_config
from sam2fast.training.config import load_training_config


def bomb(first: str, again: str, levels: int) -> str:
    """Lines that each stand for twice the previous one."""
    lines = [f"x0: {first}"]
    lines += [f"x{i}: " + again.replace("@", str(i)).replace("#", str(i - 1)) for i in range(1, levels)]
    return "\n".join(["model: {a: 1}", *lines])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(bomb("&x0 [1, 1]", "&x@ [*x#, *x#]", 40), id="references"),
        pytest.param(bomb("&x0 {a: 1}", "&x@ {<<: [*x#, *x#], b: 1}", 40), id="merged references"),
        pytest.param("model: &a [*a]", id="itself"),
        pytest.param(bomb("{a: 1}", '{a: "${x#}", b: "${x#}"}', 40), id="interpolations"),
        pytest.param(bomb("abc", '"${x#}${x#}"', 40), id="text"),
        pytest.param(bomb("abc", '{a: "${..x#}", b: "${..x#}"}', 40), id="relative"),
        pytest.param("n: 1\n" + bomb("abc", '"${x${n}}${oc.select:x#}${oc.select:x#}"', 40), id="resolvers"),
        pytest.param("model: " + "[" * 700, id="deep lists"),
        pytest.param("model: " + "{a: " * 700 + "1" + "}" * 700, id="deep mappings"),
        pytest.param("model: " + "9" * 6000, id="long number"),
        pytest.param("model: !!timestamp x", id="no time"),
        pytest.param("model: !!int ''", id="no number"),
        pytest.param("model: {a: 1}\nbase_config: " + "x" * 5000, id="long name"),
    ],
)
def test_configurations(tmp_path: Path, text: str) -> None:
    file = tmp_path / "model.yaml"
    file.write_text(text)
    with pytest.raises((ConfigError, FileNotFoundError), match="model.yaml|xxx") as refusal:
        load_config(file)
    assert refusal.type is (FileNotFoundError if "base_config" in text else ConfigError)


def test_references_that_are_few_are_filled_in(tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    file.write_text("x: &x {a: 1}\nmodel: {b: *x, c: '${x.a}', d: '${.c}', e: '${model.b}'}")
    assert load_config(file).model == {"b": {"a": 1}, "c": 1, "d": 1, "e": {"a": 1}}
    file.write_text("model: {l: [{a: 1}], c: '${model.l[0].a}', d: '${model.l.0.a}'}")
    assert load_config(file).model == {"l": [{"a": 1}], "c": 1, "d": 1}


@pytest.mark.parametrize("levels", [200, 2000])
def test_references_that_refer_to_each_other_too_deeply(tmp_path: Path, levels: int) -> None:
    """Limits of OmegaConf and of our own counting."""
    file = tmp_path / "model.yaml"
    file.write_text("\n".join(["model: {a: 1}", *(f"x{i}: ${{x{i + 1}}}" for i in range(levels)), f"x{levels}: 1"]))
    with pytest.raises(ConfigError, match="model.yaml"):
        load_config(file)


def test_depth_that_only_omegaconf_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.yaml"
    file.write_text("model: {a: 1}")
    plain = OmegaConf.to_container
    resolving = Mock(side_effect=RecursionError)
    monkeypatch.setattr(OmegaConf, "to_container", lambda config, resolve: (resolving if resolve else plain)(config))
    with pytest.raises(ConfigError, match="model.yaml: its values are nested, or refer to each other, too deeply"):
        load_config(file)


@pytest.mark.parametrize("name", ["model.l.7", "model.l.a", "model.n.a.b"])
def test_references_that_lead_nowhere(tmp_path: Path, name: str) -> None:
    file = tmp_path / "model.yaml"
    file.write_text(f"model: {{l: [1], n: 1, c: '${{{name}}}'}}")
    with pytest.raises(ConfigError, match="model.yaml"):
        load_config(file)


THEIRS = "trainer: {{_target_: training.trainer.Trainer, max_epochs: {}}}"


@pytest.mark.parametrize("call", ["range:900000000", "pow:9,99999999", "times:a,900000000", "pow:1e400,2"])
def test_functions_of_the_original_trainer(tmp_path: Path, call: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(THEIRS.format(f'"${{{call}}}"'))
    with pytest.raises(ConfigError, match="expected a number"):
        load_training_config(file)


def test_functions_of_the_original_trainer_still_compute(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(THEIRS.format('"${times:2,${pow:3,2}}"'))
    assert load_training_config(file, report=lambda note: None).trainer.max_epochs == 18


@pytest.mark.parametrize(
    "trainer",
    [
        "{model: [1]}\nmodel_config: sam2_hiera_t",
        "{model: text}\nmodel_config: sam2_hiera_t",
        "{optim: {param_group_modifiers: [1]}}",
        "{_target_: training.trainer.Trainer, logging: {tensorboard_writer: text}}",
        "{_target_: training.trainer.Trainer, model: [1]}",
        "{_target_: training.trainer.Trainer, loss: 1}",
    ],
)
def test_training_configurations_of_other_shapes(tmp_path: Path, trainer: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"trainer: {trainer}\n")
    with pytest.raises(ConfigError):
        load_training_config(file, report=lambda note: None)
