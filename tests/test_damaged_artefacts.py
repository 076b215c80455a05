"""Exported programs and artefacts that are damaged, or say what is not so: all are refused as documented."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rewritten_programs import rewritten, with_graph
from small_artefact import SIZE, write_small_artefact

from sam2fast.exported import ArtifactError, load_predictor, load_program, loading, read_facts
from sam2fast.exported.artifact import DECODER, ENCODER, FACTS, check_usable

PICTURE = np.zeros((20, 30, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_small_artefact(tmp_path)
    return tmp_path


def told(folder: Path, **changes: Any) -> Path:
    content = json.loads((folder / FACTS).read_text())
    (folder / FACTS).write_text(json.dumps(content | changes))
    return folder


def test_a_sound_artefact(folder: Path) -> None:
    predictor = load_predictor(folder)
    predictor.set_image(PICTURE)
    assert predictor.predict([[5, 5]], [1])[0].shape == (3, 20, 30)


@pytest.mark.parametrize(
    "changes",
    [
        *({"kind": []}, {"kind": {}}, {"kind": "native"}, {"kind": None}, {"config": 1}, {"weights": None}),
        *({"device": []}, {"device": 1}, {"processor": []}, {"torch": 2.6}, {"sam2fast": []}, {"dtype": None}),
        *({"image_size": x} for x in ("32", 32.0, True, 0, -32, 40, 1 << 40, None, [])),
        *({"prompts": x} for x in ("1", 1.5, True, 0, -1, 1 << 40)),
        *({"points": x} for x in (0, None, 1e9, "4")),
        *({"sizes": x} for x in ([], None, 7, {}, {ENCODER: 5}, {ENCODER: "5", DECODER: 5}, {ENCODER: -1, DECODER: 5})),
        *({"sizes": {ENCODER: 5, DECODER: 5, "../outside": 5}}, {"format": []}, {"format": None}),
    ],
    ids=repr,
)
def test_facts_of_the_wrong_kind(folder: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="artifact.json"):
        read_facts(told(folder, **changes))


@pytest.mark.parametrize("text", ["", "[]", "7", "null", "[" * 100_000, "\ufeff{}", '{"format": 1}', "9" * 6000])
def test_files_of_facts_that_are_damaged(folder: Path, text: str) -> None:
    (folder / FACTS).write_text(text)
    with pytest.raises(ArtifactError, match="artifact.json is damaged"):
        read_facts(folder)


def test_files_of_facts_without_end(folder: Path) -> None:
    told(folder, config="x" * (1 << 20))
    with pytest.raises(ArtifactError, match="has more than"):
        read_facts(folder)


@pytest.mark.parametrize("changes", [{"image_size": 64}, {"image_size": 16}, {"prompts": 3}], ids=repr)
def test_facts_of_other_programs(folder: Path, changes: dict[str, int]) -> None:
    """Refused before anything is computed, for that would take memory for as much as is said."""
    with pytest.raises(ArtifactError, match="not .* as artifact.json says"):
        load_predictor(told(folder, **changes))


def test_programs_that_torch_cannot_load(folder: Path) -> None:
    def edit(node: dict[str, Any]) -> None:
        if "nodes" in node:
            node["outputs"] = [{"as_tensor": {"name": "nowhere"}}]

    with pytest.raises(ArtifactError, match="x.pt2 is damaged, or nothing that torch .* can load"):
        load_program(rewritten(folder / ENCODER, folder / "x.pt2", with_graph(edit)))


def test_programs_that_fail(folder: Path) -> None:
    """With an operator that has other arguments, and with one that makes no tensors of the right shapes."""
    size = {name: (folder / name).stat().st_size for name in (ENCODER, DECODER)}
    sound = folder / "sound.pt2"
    (folder / ENCODER).rename(sound)

    def with_strides(value: int) -> Any:
        def edit(node: dict[str, Any]) -> None:
            if node.get("name") == "stride":
                node["arg"] = {"as_ints": [value, value]}

        return with_graph(edit)

    for stride, message in ((0, "cannot be run"), (1, "gives tensors of shapes")):
        rewritten(sound, folder / ENCODER, with_strides(stride))
        told(folder, sizes=size | {ENCODER: (folder / ENCODER).stat().st_size})
        with pytest.raises(ArtifactError, match=f"encoder.pt2 {message}"):
            load_predictor(folder).set_image(PICTURE)


@pytest.mark.parametrize(
    "results",
    [
        *(None, 7, [None], (torch.zeros(3).long(),), [torch.zeros(3, device="meta")], [torch.zeros(3).to_sparse()]),
        *([], [torch.zeros(2)], [torch.zeros(1), torch.zeros(3)], [torch.zeros(2)] * 2, [torch.zeros(1, 1)]),
    ],
    ids=str,
)
def test_results_that_no_program_of_ours_has(results: Any) -> None:
    program = loading._Program(Path("x.pt2"), torch.device("cpu"), lambda: results)
    with pytest.raises(ArtifactError, match="x.pt2 gives"):
        program(shapes=[(None,), (None, 5), (3,)])
    sound = loading._Program(
        Path("x.pt2"), torch.device("cpu"), lambda: (torch.zeros(2), torch.zeros(2, 5), torch.zeros(3))
    )
    assert len(sound(shapes=[(None,), (None, 5), (3,)])) == 3


@pytest.mark.parametrize("device", ["nonsense", "cuda:-1", "", "7", "cpu:1"])
def test_devices_that_are_none(folder: Path, device: str) -> None:
    with pytest.raises(ArtifactError, match=f"no device '{device}'"):
        load_predictor(folder, device=device)
    with pytest.raises(ArtifactError, match="no device 'abacus'"):
        load_predictor(told(folder, device="abacus"))


def test_gpus_that_this_machine_does_not_have(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    facts = read_facts(told(folder, device="cuda"))
    for device in ("cuda:2", "cuda:7"):
        with pytest.raises(ArtifactError, match=f"no device '{device}'; it has 2 of them, counted from 0"):
            check_usable(facts, folder, device)
    for device in ("cuda", "cuda:0", "cuda:1"):
        assert str(check_usable(facts, folder, device)) == device


def test_a_machine_without_memory_is_not_a_damaged_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        loading._Program(Path("x.pt2"), torch.device("cpu"), fail)()
    monkeypatch.setattr(torch.export, "load", fail)
    with pytest.raises(MemoryError):
        load_predictor(folder)


def test_native_code_is_only_loaded_where_it_is_allowed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the file of facts says: it comes with the code."""
    opened: list[str] = []

    def load(path: Path, index: int | None) -> Any:
        opened.append(path.name)
        return lambda tensors: tensors

    monkeypatch.setattr(loading, "load_artifact", load)
    for given in ({}, {"allow_native": False}):
        with pytest.raises(ArtifactError, match="holds native code, .* allow it by allow_native=True"):
            load_predictor(told(folder, kind="aot"), **given)
    assert not opened
    load_predictor(folder, allow_native=True)
    assert opened == [ENCODER, DECODER]
    assert load_predictor(told(folder, kind="exported"), allow_native=True).model.image_size == SIZE
