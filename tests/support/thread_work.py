"""Work for tests of threads, and its results as comparable values."""

from typing import Any

from comparable import plain
from disturbed_calls import make_images


def segment(predictor: Any, number: int) -> Any:
    predictor.set_image(make_images(4)[number][: 30 + number])
    return plain(predictor.predict([[20, 15]], [1], box=[5, 5, 40, 28]))


def track(predictor: Any, number: int) -> Any:
    state = predictor.init_state(make_images(3), async_loading_frames=True)
    predictor.add_new_points_or_box(state, number, "a", [[15, 18]], [1])
    predictor.add_new_points_or_box(state, 0, "b", box=[30, 5, 55, 35])
    return [plain([t, list(ids), masks]) for t, ids, masks in predictor.propagate_in_video(state, 0, progress=False)]


def stream(predictor: Any, number: int) -> Any:
    answers = []
    with predictor.open_stream() as opened:
        for t, image in enumerate(make_images(3)):
            answers.append(plain(opened.step(image)))
            if t == number:
                answers.append(plain(opened.add_new_points_or_box("a", [[15, 18]], [1])))
    return answers


def find_masks(generator: Any, number: int) -> Any:
    return plain(generator.generate(make_images(4)[number]))


def session(predictor: Any) -> Any:
    state = predictor.init_state(make_images(5))
    predictor.add_new_points_or_box(state, 0, "a", [[15, 18]], [1])
    return state


def answers(predictor: Any, state: Any, start: int | None = None) -> list[Any]:
    return [plain(answer) for answer in predictor.propagate_in_video(state, start, progress=False)]
