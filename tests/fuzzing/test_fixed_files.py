"""Files that the fuzzer found: each is refused as its reader documents."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import seeds_weights
import torch
from companion_files import put
from pickles import saved
from saved_states import put_together, taken_apart
from targets import TARGETS

from sam2fast.checkpoints import CheckpointError, read_checkpoint
from sam2fast.checkpoints.converting import convert_checkpoint
from sam2fast.config import load_config
from sam2fast.training.checkpointing import load as load_training_checkpoint
from sam2fast.training.config import load_training_config

PLAIN = torch.arange(6.0).reshape(2, 3)
DEEP = "[" * 100_000
POSITIONS = "shared_image_embedding.positional_embedding"


def refuse(reader: str, content: str | bytes, folder: Path) -> None:
    target = TARGETS[reader]
    target.prepare(folder / "work")
    put(folder, "x", b"")  # what lies outside
    put(folder / "work", target.file, content.encode() if isinstance(content, str) else content)
    with pytest.raises(target.allowed) as caught:
        target.read(folder / "work" / target.file)
    assert str(caught.value) or getattr(caught.value, "message", "")
    assert not target.is_named or Path(target.file).name in str(caught.value)


def bomb(first: str, again: str) -> str:
    """Lines that each stand for twice the previous one."""
    lines = [f"x0: {first}"]
    lines += [f"x{i}: " + again.replace("@", str(i)).replace("#", str(i - 1)) for i in range(1, 40)]
    return "\n".join(["model: {a: 1}", *lines])


def chain(levels: int) -> str:
    """References that refer to each other: too deeply for OmegaConf."""
    return "\n".join(["model: {a: 1}", *(f"x{i}: ${{x{i + 1}}}" for i in range(levels)), f"x{levels}: 1"])


CONFIGURATIONS = {
    "references": bomb("&x0 [1, 1]", "&x@ [*x#, *x#]"),
    "merged references": bomb("&x0 {a: 1}", "&x@ {<<: [*x#, *x#], b: 1}"),
    "itself": "model: &a [*a]",
    "deep lists": "model: " + "[" * 700,
    "deep mappings": "model: " + "{a: " * 700 + "1" + "}" * 700,
    "long number": "model: " + "9" * 6000,
    "no time": "model: !!timestamp x",
    "no number": "model: !!int ''",
    "long name": "model: {a: 1}\nbase_config: " + "x" * 5000,
    "deep references": chain(200),
    "deeper references": chain(2000),
    **{name: f"model: {{l: [1], n: 1, c: '${{{name}}}'}}" for name in ("model.l.7", "model.l.a", "model.n.a.b")},
}
THEIRS = "trainer: {{_target_: training.trainer.Trainer, max_epochs: {}}}"
RECIPES = [
    *(THEIRS.format(f'"${{{call}}}"') for call in ("range:900000000", "pow:9,99999999", "times:a,900000000")),
    THEIRS.format('"${pow:1e400,2}"'),
    "trainer: {model: [1]}\nmodel_config: sam2_hiera_t",
    "trainer: {model: text}\nmodel_config: sam2_hiera_t",
    "trainer: {optim: {param_group_modifiers: [1]}}",
    "trainer: {_target_: training.trainer.Trainer, logging: {tensorboard_writer: text}}",
    "trainer: {_target_: training.trainer.Trainer, model: [1]}",
    "trainer: {_target_: training.trainer.Trainer, loss: 1}",
]


def changed(base: dict[str, Any], changes: list[dict[str, Any]]) -> list[str]:
    return [json.dumps(base | change) for change in changes]


RUNS = changed(
    {"made_from": {"video": "v", "prompts": [], "range": {"start": 0}}, "done": 2, "complete": False, "files": {}},
    [
        *({"state": True}, {"state": "../x"}, {"state": None, "done": -1}, {"state": None, "done": 1e400}),
        *({"state": None, "done": "2"}, {"state": None, "made_from": []}, {"state": None, "files": []}),
        {"state": None, "files": [["masks", "x"]]},
    ],
)
FACTS = changed(
    {"size": [4, 6], "frames": ["00000"], "objects": [1], "facts": {}}, [{k: [1e400, 6]} for k in ("size", "objects")]
)
ENTRY = {"id": "ID", "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 2, 2, 3, 1]], "area": 1}
LISTED = {"images": [{"id": 1, "file_name": "image.png"}], "categories": [{"id": 1, "name": "thing"}]}
COCO = [json.dumps({**LISTED, "annotations": [ENTRY]}).replace('"ID"', number) for number in ("[]", "{}")]


def program(text: bytes) -> bytes:
    """A checkpoint in the format before 1.6 with a program for the pickle machine."""
    return pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + b"\x80\x02" + text


# A storage that is a number, an end during a length, a call of nothing, and nesting.
PROGRAMS = [program(text) for text in (b"K\x01Q.", b"X\x04", b"R.", b"(" * 3000 + b"t" * 3000 + b".")]
WEIGHTS = [
    {1: PLAIN},
    {"model": {("a", "b"): PLAIN}},
    {"weight": PLAIN.to_sparse()},
    {"weight": torch.empty(2, 3, device="meta")},
    {"weight": PLAIN.to(torch.complex64)},
    {"weight": torch.zeros(1).expand(1 << 40)},  # 4 TiB of one number
    {POSITIONS: PLAIN, f"prompt_encoder.{POSITIONS.replace('_image', '')}": PLAIN + 1},  # which have to be equal
]
FOUND: dict[str, list[Any]] = {
    "load_config": list(CONFIGURATIONS.values()),
    "training configuration": RECIPES,
    "read_checkpoint": [*PROGRAMS, *map(saved, WEIGHTS)],
    "choose_config": list(map(saved, WEIGHTS)),
    "training checkpoint": PROGRAMS,
    "index": [DEEP, *(json.dumps({"weight_map": {"weight": name}}) for name in ("", "x" * 5000))],
    "prompts": [DEEP],
    "masks.jsonl": [DEEP + "\n"],
    "JSON lines": [DEEP + "\n"],
    "track.json": [DEEP, *RUNS],
    "facts": FACTS,
    "COCO": COCO,
    "load_state": [put_together(text, {}) for text in ("9" * 6000, DEEP, "[1]", "x")],
}


@pytest.mark.parametrize(
    ("reader", "number"), [(reader, number) for reader, files in FOUND.items() for number in range(len(files))]
)
def test_a_file_is_refused(reader: str, number: int, tmp_path: Path) -> None:
    refuse(reader, FOUND[reader][number], tmp_path)


@pytest.fixture(scope="module")
def states() -> dict[str, bytes]:
    """A saved session, and a saved stream."""
    return dict(zip(("load_state", "restore_stream"), seeds_weights.states(), strict=True))


Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]


def fact(*path: Any, value: Any) -> Change:
    def change(facts: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        node: Any = facts
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value

    return change


def cut(name: str) -> Change:
    return lambda facts, tensors: tensors.update({name: tensors[name][..., :1].contiguous()})


@pytest.mark.parametrize(
    ("reader", "change"),
    [
        ("load_state", fact("model", value=[])),
        ("load_state", fact("video", value={})),
        ("load_state", fact("memory_dtype", value="load")),
        ("load_state", fact("memory_dtype", value=[1])),
        ("load_state", fact("offload", value=[])),
        ("load_state", fact("max_history", value="x")),
        ("load_state", fact("approximations", value={"nothing": 1})),
        ("load_state", fact("objects", value={"id": 1})),
        ("load_state", fact("objects", 0, "id", value=[1])),
        ("load_state", fact("objects", 0, "points", value=[7])),
        ("load_state", fact("objects", 0, "reverse", value=[[0]])),
        ("load_state", fact("objects", 0, "results", value=[])),
        ("load_state", fact("objects", 0, "results", "tracked", value=[5])),
        ("load_state", cut("0.conditioning.mask")),
        ("load_state", cut("0.conditioning.memory")),
        ("load_state", cut("0.tracked.pointer")),
        ("load_state", cut("0.points.0.point_coords")),
        ("load_state", lambda facts, tensors: tensors.pop("0.tracked.iou")),
        ("restore_stream", fact("video", value=1)),
        ("restore_stream", fact("video", "height", value="x")),
        ("restore_stream", fact("stream_frame", value=None)),
        ("restore_stream", lambda facts, tensors: facts.update(stream_frame=facts["video"]["frames"])),
        ("restore_stream", fact("max_cond_frames", value=1)),
        ("restore_stream", cut("square")),
    ],
)
def test_a_saved_session_is_refused(states: dict[str, bytes], reader: str, change: Change, tmp_path: Path) -> None:
    """With a correct digest; unchanged it is accepted."""
    facts, tensors = taken_apart(states[reader])
    (tmp_path / "same").write_bytes(put_together(json.dumps(facts), tensors))
    TARGETS[reader].read(tmp_path / "same")
    change(facts, tensors)
    refuse(reader, put_together(json.dumps(facts), tensors), tmp_path)


def test_references_and_functions_that_are_small_are_resolved(tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    file.write_text("x: &x {a: 1}\nmodel: {b: *x, c: '${x.a}', d: '${.c}', e: '${model.b}'}")
    assert load_config(file).model == {"b": {"a": 1}, "c": 1, "d": 1, "e": {"a": 1}}
    file.write_text("model: {l: [{a: 1}], c: '${model.l[0].a}', d: '${model.l.0.a}'}")
    assert load_config(file).model == {"l": [{"a": 1}], "c": 1, "d": 1}
    file.write_text(THEIRS.format('"${times:2,${pow:3,2}}"'))
    assert load_training_config(file, report=lambda note: None).trainer.max_epochs == 18


def test_weights_of_eight_bits_are_converted(tmp_path: Path) -> None:
    torch.save({"weight": PLAIN.to(torch.float8_e4m3fn)}, tmp_path / "weights.pt")
    convert_checkpoint(tmp_path / "weights.pt", tmp_path / "out.safetensors", "safetensors", dtype=torch.float16)
    assert torch.equal(read_checkpoint(tmp_path / "out.safetensors")["weight"], PLAIN.half())


@pytest.mark.parametrize(
    ("read", "error", "raised"),
    [
        (read_checkpoint, MemoryError(), MemoryError),
        (load_training_checkpoint, OSError(22, "injected"), CheckpointError),
        (load_training_checkpoint, OSError(5, "injected"), OSError),
    ],
)
def test_errors_that_are_not_damage(read: Any, error: Exception, raised: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """A damaged archive makes torch seek to negative offsets; other errors are not blamed on the checkpoint."""
    torch.save({"weight": PLAIN}, tmp_path / "weights.pt")
    monkeypatch.setattr(torch, "load", Mock(side_effect=error))
    with pytest.raises(raised):
        read(tmp_path / "weights.pt")
