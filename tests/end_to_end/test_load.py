"""Many callers at once over HTTP: each gets the answer of a lone one, and nothing of them stays.

`python -m tests.soak` does the same for as long as you like, in a process of its own.
"""

import gc
import os
import threading
from pathlib import Path
from random import Random

import pytest

from tests.helpers.caller import QUEUE_FULL, Caller, Refused
from tests.helpers.served import job_threads, save_tiny_checkpoint, served, wait_until
from tests.helpers.visits import Question, Visits, questions, scan_file, started

CALLERS = 10
VISITS = 5


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    tiny = save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), ("glioma", "meningioma", "notumor", "pituitary"))
    with served(tiny) as (_, address):
        yield address


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files as Linux does")
def test_callers_at_once_get_the_answers_of_a_lone_one(address):
    with Caller(address) as caller:
        visits = Visits(caller, [one for one in questions() if one.scan < 2])
    files, found = open_files(), []

    def visit(number: int) -> None:
        random = Random(number)
        with Caller(address) as caller:
            found.extend(visits.visit(caller, random) for _ in range(VISITS))

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == CALLERS * VISITS
    assert [one for one in found if one.error] == []
    assert len({one.action for one in found}) >= 5
    assert wait_until(lambda: not job_threads()), "what was cancelled or left goes on"
    # Sockets of the pool of connections and of the event loop come and go.
    assert wait_until(lambda: open_files() <= files + 4, seconds=30)


def test_a_full_queue_says_so(address):
    """Sixty calls at once; those that find no place are told, and all others are answered."""
    with Caller(address) as caller:
        waiting, refused = [], []
        for _ in range(60):
            try:
                waiting.append(started(caller, Question("explain", 0, "occlusion")))
            except Refused as refusal:
                refused.append(str(refusal))
        for one in waiting:
            caller.cancel(one)
        assert refused
        assert all(QUEUE_FULL in sentence for sentence in refused)
        assert wait_until(lambda: not job_threads())
        assert caller.call("predict", caller.upload(scan_file(0), "scan.png")).data
