"""The order of calls in the model's thread, and its end."""

import threading

import torch
from waiting import wait_until

from sam2fast.demo.server.demo_errors import BusyError
from sam2fast.demo.server.model_thread import ModelThread


def test_calls_go_before_the_frames_of_all_tracks_but_do_not_stop_them():
    thread, go_on, order = ModelThread(torch.device("cpu")), threading.Event(), []

    def start(send, name):
        threads.append(threading.Thread(target=send, args=(order.append, name)))
        threads[-1].start()
        count = len(threads) - 1
        assert wait_until(lambda: len(thread._calls) + len(thread._frames) == count)

    started = threading.Event()
    threads = [threading.Thread(target=thread.call, args=(lambda: (started.set(), go_on.wait(60)),))]
    threads[0].start()
    assert started.wait(60)  # what is counted below waits behind it
    for name in ("frame 1", "frame 2", "frame 3"):
        start(thread.track_frame, name)
    for name in ("click 1", "click 2", "click 3", "click 4"):
        start(thread.call, name)
    go_on.set()
    for one in threads:
        one.join(60)
    assert order == ["frame 1", "click 1", "frame 2", "click 2", "frame 3", "click 3", "click 4"]
    thread.close()


def test_closing_cancels_what_waits():
    thread, go_on, refused = ModelThread(torch.device("cpu")), threading.Event(), []

    def wait(send):
        try:
            send(lambda: None)
        except BusyError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=thread.call, args=(go_on.wait, 60))]
    threads += [threading.Thread(target=wait, args=(send,)) for send in (thread.call, thread.track_frame)]
    for one in threads:
        one.start()
    assert wait_until(lambda: thread._calls and thread._frames)
    thread.close()
    go_on.set()
    for one in threads:
        one.join(60)
    wait(thread.call)
    assert refused == ["the server is shutting down"] * 3
