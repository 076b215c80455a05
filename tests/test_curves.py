"""The curves over objects and history: what is filled in is what would have been tracked."""

import json
import sys

import curves
import pytest
import torch
from video import float32_memory

SIZE = 64
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def predictors():
    return curves.build(SIZE, CPU)


@pytest.fixture
def film(tmp_path):
    return curves.write_film(tmp_path, 40)


@pytest.mark.parametrize("name", curves.SUBJECTS)
def test_a_history_has_its_own_copies_of_tracked_results(predictors, film, name):
    predictor = predictors[name]
    state = curves.start(name, predictor, film, objects=2)
    state = curves.fill(name, predictor, state, 20, film)
    for i in range(2):
        if name == "official":
            tracked = state["output_dict_per_obj"][i]["non_cond_frame_outputs"]
            memories = {t: result["maskmem_features"] for t, result in tracked.items()}
            visited = state["frames_tracked_per_obj"][i]
        else:
            tracked = list(state.objects.values())[i].tracked
            memories = {t: state.bank.read_memory(result.memory) for t, result in tracked.items()}
            visited = list(state.objects.values())[i].reverse
            assert len({id(result.memory) for result in tracked.values()}) == 20
        assert sorted(tracked) == list(range(1, 21)) and set(range(1, 21)) <= set(visited)
        for t, memory in memories.items():
            assert torch.equal(memory, memories[curves.repeated_frame(t)])
        assert len({memory.data_ptr() for memory in memories.values()}) == 20
        assert not torch.equal(memories[1], memories[2])


def test_a_point_of_a_curve(predictors, film, monkeypatch):
    with float32_memory():
        row = curves.measure(predictors, film, objects=2, history=20, runs=3)
        assert (row["objects"], row["history"], row["image_size"]) == (2, 20, SIZE)
        for subject in row["subjects"].values():
            samples = subject["samples_s"]
            assert len(samples) == 3 and [subject["min_s"], subject["max_s"]] == [min(samples), max(samples)]
        assert 0 < row["difference"]["sam2fast"] <= curves.ALLOWED
        # Frames after the history attend to it: another history, other masks.
        monkeypatch.setattr(curves, "repeated_frame", lambda t: 1)
        assert curves.measure(predictors, film, 2, 20, 2)["difference"]["sam2fast"] <= curves.ALLOWED
        official = curves.fill_official
        monkeypatch.setattr(curves, "fill_official", lambda state, history: official(state, history - 3))
        with pytest.raises(SystemExit, match="2 objects after 20 frames: logits differ by"):
            curves.measure(predictors, film, 2, 20, 2)


def test_the_film_is_a_few_pictures_over_and_over(predictors, film):
    state = curves.start("official", predictors["official"], film, 1)
    ours = predictors["sam2fast"].init_state(str(film))
    assert state["num_frames"] == ours.num_frames == len(state["images"]) == 40
    assert torch.equal(state["images"][1], state["images"][1 + curves.PICTURES])
    assert not torch.equal(state["images"][1], state["images"][2])


@pytest.mark.slow
def test_memory_grows_with_the_history(predictors, monkeypatch):
    monkeypatch.setattr(curves, "build", lambda image_size, device: predictors)
    for name in curves.SUBJECTS:
        with float32_memory():
            grown = curves.growth(name, [10, 2000], SIZE, CPU)
        # 16 tokens of 64 fp32 values, and a mask of 16x16, for each frame.
        expected = 1990 * (16 * 64 + 16 * 16) * 4 / 2**20
        assert grown[2000]["resident"] - grown[10]["resident"] > 0.8 * expected and grown[10]["device"] is None


@pytest.mark.long
def test_the_command(predictors, tmp_path, monkeypatch, capsys):
    """In this process, the part for other processes too."""

    def growth_here(name, arguments):
        return curves.growth(name, arguments.history, arguments.image_size, torch.device(arguments.device))

    monkeypatch.setattr(curves, "build", lambda image_size, device: predictors)
    monkeypatch.setattr(curves, "growth_in_own_process", growth_here)
    command = ["curves.py", "--objects", "1", "--history", "40", "--runs", "2", "--image-size", f"{SIZE}"]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(tmp_path)])
    curves.main()
    (path,) = tmp_path.glob("curves-cpu-*.json")
    report = json.loads(path.read_text())
    assert [(row["curve"], row["objects"], row["history"]) for row in report["rows"]] == [
        ("objects", 1, curves.STEADY),
        ("history", 1, 40),
    ]
    assert set(report["rows"][1]["growth_mib"]) == set(curves.SUBJECTS) and report["machine"]["torch"]
    monkeypatch.setattr(sys, "argv", [*command, "--history", "1"])
    with pytest.raises(SystemExit) as refused:
        curves.main()
    assert refused.value.code == 2 and "are really tracked" in capsys.readouterr().err
