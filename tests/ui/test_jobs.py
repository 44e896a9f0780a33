"""Work that takes seconds: its steps, its result, and how it ends early."""

import threading

import pytest

from brain_xai import explain, load_checkpoint
from brain_xai.explanation import Cancelled
from brain_xai.ui.jobs import BackgroundJob


def test_a_job_reports_its_steps_and_its_result():
    def count(progress):
        for done in range(3):
            progress(done, 3)
        return "done"

    job = BackgroundJob(count, threading.Event())
    assert list(job) == [(0, 3, None), (1, 3, None), (2, 3, None)]
    assert job.result() == "done"


def test_a_job_passes_on_what_is_raised():
    job = BackgroundJob(lambda progress: 1 / 0, threading.Event())
    assert list(job) == []
    with pytest.raises(ZeroDivisionError):
        job.result()


def test_a_stopped_job_ends_at_its_next_step():
    first_step, go_on, stop_event = threading.Event(), threading.Event(), threading.Event()
    steps = []

    def count(progress):
        for step in range(3):
            steps.append(step)
            progress(step, 3)
            first_step.set()
            assert go_on.wait(60)

    job = BackgroundJob(count, stop_event)
    assert first_step.wait(60)
    stop_event.set()
    go_on.set()
    with pytest.raises(Cancelled):
        job.result()
    assert steps == [0, 1]


def test_a_stopped_occlusion_computes_no_further_batch(scan, slow):
    stop_event = threading.Event()
    classifier = load_checkpoint(slow)

    def work(progress):
        def stop_after_the_first(done, total, preview=None):
            progress(done, total)
            stop_event.set()

        return explain(classifier, scan, "occlusion", "low_grade", progress=stop_after_the_first)

    job = BackgroundJob(work, stop_event)
    [(done, total, _)] = list(job)
    assert done < total
    with pytest.raises(Cancelled):
        job.result()
