"""Work in processes that are forked or spawned, with the parent's objects or with copies."""

import multiprocessing
import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from disturbed_calls import make_images
from mini_model import mini_model, mini_of, mini_predictor
from torch.utils.data import DataLoader, Dataset

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.transforms import SAM2Transforms

LONGEST = 60  # seconds


def in_child(work: Callable[[], Any]) -> Any:
    """Returns the result or exception of the work in a forked process. Fails after :data:`LONGEST` seconds."""
    context: Any = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(theirs, work), daemon=True)
    child.start()
    theirs.close()
    try:
        assert ours.poll(LONGEST), "the child hangs"
        return ours.recv()
    finally:
        child.kill()
        child.join()


def _answer(connection: Any, work: Callable[[], Any]) -> None:
    try:
        connection.send(work())
    except Exception as error:
        connection.send(error)


def masks_of(predictor: SAM2ImagePredictor) -> Any:
    """The answer to one prompt, on the image that was set."""
    return predictor.predict([[20, 15]], [1])


def image_predictor() -> SAM2ImagePredictor:
    predictor = SAM2ImagePredictor(mini_model())
    predictor.set_image(make_images(1)[0])
    return predictor


def tracked_by(predictor: Any) -> list[np.ndarray]:
    """Masks of a short video."""
    state = predictor.init_state(make_images(2))
    predictor.add_new_points_or_box(state, 0, 1, [[15, 18]], [1])
    return [masks.numpy() for _, _, masks in predictor.propagate_in_video(state, progress=False)]


class Images(Dataset):
    """A data set of model inputs, created in the loading process."""

    def __init__(self) -> None:
        self.transforms = SAM2Transforms(128, 0.0)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transforms(make_images(4)[index])


def loaded(workers: int, method: str | None = None) -> list[np.ndarray]:
    """All images, loaded by so many workers."""
    return [batch.numpy() for batch in DataLoader(Images(), 2, num_workers=workers, multiprocessing_context=method)]


def main() -> None:
    """With two live torch threads when the process forks: children give the parent's results."""
    torch.set_num_threads(2)
    images, videos = image_predictor(), mini_predictor()
    image_bytes = pickle.dumps(images)
    wide = torch.randn(1000, 1000)
    (wide @ wide).sum()  # all threads have worked
    works: list[Callable[[], Any]] = [
        lambda: masks_of(images)[1],
        lambda: np.stack(tracked_by(videos)),
        # Made in the child, which their guards have known from the beginning.
        lambda: masks_of(pickle.loads(image_bytes))[1],
        lambda: np.stack(tracked_by(mini_of(build_sam2_video_predictor))),  # to copy a model is work of torch's threads
    ]
    for work in works:
        expected, found = work(), in_child(work)
        assert not isinstance(found, Exception), found
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert torch.get_num_threads() == 2
    print(f"children of {os.getpid()} answered")


if __name__ == "__main__":
    main()
