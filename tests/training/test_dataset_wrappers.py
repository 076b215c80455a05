"""Repeat factors, several data sets as one, epochs in phases, and all data sets mixed."""

import functools
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from official_data import load, sam2_datasets, utils, vos_dataset
from training_sets import masklet, write_coco, write_mask_folders, write_masklets, write_sa1b, write_video

from sam2fast.datasets.clip import Clip
from sam2fast.training.data.dataset_wrappers import ConcatDataset, FixedClips, RepeatFactorWrapper, Subset
from sam2fast.training.data.json_datasets import CocoRawDataset, JSONRawDataset, SA1BRawDataset
from sam2fast.training.data.loader import ClipLoader, ClipSource
from sam2fast.training.data.png_datasets import MaskFolderRawDataset
from sam2fast.training.data.sampling import EvalSampler, RandomUniformSampler
from sam2fast.training.data.transforms import RandomResizeAPI
from sam2fast.training.data.vos import VOSDataset


class Numbers:
    """Videos of two frames that show their number, with one object."""

    def __init__(self, count, first=0, name="numbers"):
        self.count, self.first, self.name = count, first, name

    def __len__(self):
        return self.count

    def get_video(self, idx):
        return Number(self.first + idx)


class Number:
    frame_indices = (0,)

    def __init__(self, number):
        self.number, self.name = number, str(number)

    def __len__(self):
        return 1

    def visible_objects(self, position):
        return (1,)

    def read_frames(self, positions):
        return [np.full((4, 4, 3), self.number, np.uint8) for _ in positions]

    def read_masks(self, position, object_ids, size):
        return np.ones((len(object_ids), *size), bool)


class Listed(list):
    """For the official loader."""

    def __getitem__(self, index):
        return super().__getitem__(int(index))


def vos(count, multiplier=1, first=0):
    return VOSDataset([], True, Numbers(count, first), EvalSampler(), multiplier)


def official(count, multiplier=1):
    return vos_dataset.VOSDataset([], False, Numbers(count), None, multiplier)


def number_of(clip):
    return int(clip.frames[0, 0, 0, 0])


def numbers_of(batches):
    return [number for batch in batches for number in batch.frames[0, :, 0, 0, 0].tolist()]


MULTIPLIERS = (1, 2.75, 0.3)


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize(
    ("ours", "theirs", "numbers"),
    [
        (
            ConcatDataset([vos(11, m, 50 * k) for k, m in enumerate(MULTIPLIERS)]),
            lambda: utils.ConcatDataset([official(11, m) for m in MULTIPLIERS]),
            {0: 0, 10: 10, 11: 50, 21: 60, 22: 100, 32: 110},
        ),
        (Subset(vos(6, 1.5), [4, 0, 4]), lambda: utils.Subset(official(6, 1.5), [4, 0, 4]), {0: 4, 1: 0, 2: 4}),
    ],
    ids=["several", "subset"],
)
def test_same_repetitions_as_the_official_wrapper(ours, theirs, numbers, seed):
    ours, theirs = RepeatFactorWrapper(ours, seed), utils.RepeatFactorWrapper(theirs(), seed)
    lengths = set()
    for epoch in range(60):
        theirs.set_epoch(epoch)
        assert ours.epoch_indices(epoch).tolist() == theirs.epoch_ids.tolist()
        lengths.add(len(theirs))
    assert len(lengths) > 1
    assert {i: number_of(ours.sample(i, np.random.default_rng(0))) for i in numbers} == numbers


def test_factors_of_single_videos():
    ours = RepeatFactorWrapper(vos(4, 9), factors=[0, 1, 2, 0.5])
    drawn = [Counter(ours.epoch_indices(epoch).tolist()) for epoch in range(40)]
    assert {c[0] for c in drawn} == {0} and {c[1] for c in drawn} == {1} and {c[2] for c in drawn} == {2}
    assert {c[3] for c in drawn} == {0, 1}
    named = vos(4, 1.5)
    named.video_dataset.video_names = ["a", "b", "c", "d"]
    assert RepeatFactorWrapper(named, factors={"c": 0, "a": 4}).repeat_factors.tolist() == [4, 1.5, 0, 1.5]
    assert (RepeatFactorWrapper(vos(4), factors=3).epoch_indices(0) == np.repeat(np.arange(4), 3)).all()


def test_an_epoch_is_what_its_factors_say():
    wrapped = RepeatFactorWrapper(vos(10), factors=[0] * 3 + [1.5] * 4 + [2] * 3)
    loader = ClipLoader([ClipSource(wrapped, 1)])
    lengths = set()
    for epoch in range(6):
        batches = list(loader.epoch(epoch))
        assert sorted(numbers_of(batches)) == wrapped.epoch_indices(epoch).tolist()
        assert len(batches) == loader.num_batches(epoch)
        lengths.add(len(batches))
    assert len(lengths) > 1 and len(loader) == loader.num_batches(0)


def official_epoch(mixed, epoch):
    """Batches of the official loader, without a process group."""
    return [batch.tolist() for batch in mixed.get_loader(epoch)]


def test_phases_go_through_everything_once(monkeypatch):
    """In three epochs of nearly the same size, as in the official package; the order differs."""
    sources = [ClipSource(vos(23), 2), ClipSource(RepeatFactorWrapper(vos(10, 2, 100)), 1)]
    loader = ClipLoader(sources, phases_per_epoch=3, drop_last=False)
    rounds = []
    for time in range(2):
        phases = [numbers_of(loader.epoch(3 * time + phase)) for phase in range(3)]
        assert [len(phase) for phase in phases] == [8 + 7, 8 + 7, 7 + 6]
        assert [loader.num_batches(3 * time + phase) for phase in range(3)] == [4 + 7, 4 + 7, 4 + 6]
        drawn = [number for phase in phases for number in phase]
        assert Counter(drawn) == Counter([*range(23), *range(100, 110), *range(100, 110)])
        rounds.append(sorted(phases[0]))
    assert rounds[0] != rounds[1]

    one_process = functools.partial(sam2_datasets.DistributedSampler, num_replicas=1, rank=0)
    monkeypatch.setattr(load("training.dataset.sam2_datasets"), "DistributedSampler", one_process)
    plain, repeated = Listed(range(23)), Listed(range(100, 110))
    repeated.repeat_factors = 2 * torch.ones(10)
    datasets = [plain, utils.RepeatFactorWrapper(repeated)]
    mixed = sam2_datasets.TorchTrainMixedDataset(datasets, [2, 1], 0, True, False, False, None, None, 3, [0.5, 0.5])
    theirs = [official_epoch(mixed, phase) for phase in range(3)]
    assert [len(batches) for batches in theirs] == [loader.num_batches(phase) for phase in range(3)]
    assert Counter(number for batches in theirs for batch in batches for number in batch) == Counter(drawn)


def test_unshuffled_phases_are_parts_in_order():
    loader = ClipLoader([ClipSource(vos(7), 1)], phases_per_epoch=2, shuffle=False)
    assert [numbers_of(loader.epoch(epoch)) for epoch in range(3)] == [[0, 1, 2, 3], [4, 5, 6], [0, 1, 2, 3]]


def test_ranks_share_phases_and_repetitions():
    sources = [ClipSource(RepeatFactorWrapper(vos(16), factors=1.5), 2)]
    wrapped = sources[0].dataset
    for epoch in range(4):
        loaders = [ClipLoader(sources, phases_per_epoch=2, rank=r, world_size=2) for r in range(2)]
        drawn = [numbers_of(loader.epoch(epoch)) for loader in loaders]
        assert len(drawn[0]) == len(drawn[1]) > 0
        assert Counter(drawn[0] + drawn[1]) <= Counter(wrapped.epoch_indices(epoch // 2).tolist())


THREE = ClipSource(vos(3), 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RepeatFactorWrapper(vos(3), factors=[1, 2]), r"one per video \(3\)"),
        (lambda: RepeatFactorWrapper(vos(3), factors=0), "not all 0"),
        (lambda: RepeatFactorWrapper(vos(3), factors={"e": 1}), "factors names e"),
        (lambda: Subset(vos(3), [3]), r"\[0, 3\)"),
        (lambda: FixedClips(vos(3), 4), r"count must be in \[1, 3\], got 4"),
        (lambda: ClipLoader([THREE], phases_per_epoch=2, batches_per_epoch=4), "phases"),
        (lambda: ClipLoader([THREE], phases_per_epoch=4), "less than one batch"),
        (lambda: ClipLoader([THREE]).epoch(1, 4), "start"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Noise(Numbers):
    """Clips that depend on the generator."""

    def sample(self, index, rng):
        return Clip(rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8), np.ones((2, 1, 8, 8), bool))


def test_fixed_clips_are_the_same_in_every_epoch():
    def epoch(number, seed=0):
        loader = ClipLoader([ClipSource(FixedClips(Noise(10), 4, seed), 2)], shuffle=False)
        return torch.stack([batch.frames for batch in loader.epoch(number)])

    assert torch.equal(epoch(0), epoch(1)) and not torch.equal(epoch(0), epoch(0, seed=1))
    kept, rng = FixedClips(Noise(10), 3, keep=True), np.random.default_rng(0)
    assert kept.sample(1, rng) is kept.sample(1, rng)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """Each kind of data set once: photographs, videos and images with masks."""
    root: Path = tmp_path_factory.mktemp("everything")
    write_sa1b(root / "sa", (1, 2, 3, 4, 5))
    for seed, name in enumerate(("cat", "dog", "eel")):
        write_video(root / "videos" / f"{name}.mp4")
        write_masklets(root / "videos", name, masklet(seed))
    write_masklets(root / "videos", "dog", "broken")
    write_mask_folders(root)
    (root / "coco").mkdir()
    write_coco(root / "coco")

    def clips(raw, num_frames, multiplier=1.0):
        sampler = RandomUniformSampler(num_frames, 2, reverse_time_prob=0.5)
        return VOSDataset(RandomResizeAPI(16, True, square=True), True, raw, sampler, multiplier)

    photographs = clips(SA1BRawDataset(root / "sa", root / "sa"), 1, 1.5)
    videos = clips(JSONRawDataset(root / "videos", root / "videos", ann_every=4), 3)
    masks = clips(MaskFolderRawDataset(root / "images", root / "masks"), 1)
    coco = clips(CocoRawDataset(root / "coco" / "images", root / "coco" / "instances.json"), 1)
    return [
        ClipSource(RepeatFactorWrapper(photographs), 2, key="image"),
        ClipSource(RepeatFactorWrapper(videos, factors=[2, 1, 1.5]), 1, key="video"),
        ClipSource(ConcatDataset([masks, Subset(coco, [2, 0])]), 2, key="image"),
    ]


def bytes_of(batch):
    return batch.frames.numpy().tobytes(), batch.masks.numpy().tobytes(), batch.seeds, batch.names, batch.key


def test_everything_mixed_with_any_workers_and_resumed(everything, caplog):
    """Batches of one frame and of three alternate; a video that cannot be read is replaced by the same one."""
    whole = {}
    loader = ClipLoader(everything, phases_per_epoch=2)
    for epoch in range(4):
        whole[epoch] = [bytes_of(batch) for batch in loader.epoch(epoch)]
        assert len(whole[epoch]) == loader.num_batches(epoch)
    keys = [batch[-1] for batch in whole[0] + whole[1]]
    assert sorted(keys) != keys != sorted(keys, reverse=True)
    assert loader.bad_samples == len(caplog.messages) > 0 and all("dog" in line for line in caplog.messages)
    names = {name for batches in whole.values() for batch in batches for name in batch[3]}
    assert "dog" not in names and {"cat", "eel", "a", "c.1", "sa_1", "000000000003"} <= names
    for epoch, start in ((1, 0), (2, 2)):
        again = ClipLoader(everything, phases_per_epoch=2, num_workers=2)
        assert [bytes_of(batch) for batch in again.epoch(epoch, start)] == whole[epoch][start:]


def test_data_sets_can_be_sent_to_workers(everything):
    """As with spawned workers."""
    for source in everything:
        copy = pickle.loads(pickle.dumps(source)).dataset
        a, b = (dataset.sample(0, np.random.default_rng(5)) for dataset in (source.dataset, copy))
        assert a.name == b.name and np.array_equal(a.frames, b.frames) and np.array_equal(a.masks, b.masks)
