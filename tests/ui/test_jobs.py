"""Work that takes seconds: its steps, its result, and how it ends early."""

import threading

import pytest

from brain_xai import explain, load_checkpoint
from brain_xai.explanation import Cancelled
from brain_xai.ui.jobs import BackgroundJob, Lane, Waiting


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


def test_jobs_wait_for_each_other_and_know_their_place():
    lane, begun, go_on = Lane(), threading.Event(), threading.Event()
    order = []

    def hold(progress):
        begun.set()
        assert go_on.wait(60)
        order.append("first")

    first = BackgroundJob(hold, threading.Event(), 4.0, lane)
    assert begun.wait(60)
    second = BackgroundJob(lambda progress: order.append("second"), threading.Event(), 2.0, lane)
    third = BackgroundJob(lambda progress: order.append("third"), threading.Event(), 1.0, lane)
    steps = iter(third)
    assert next(steps) == Waiting(2, 6.0)
    go_on.set()
    for job in (first, second, third):
        job.result()
    assert order == ["first", "second", "third"]


def test_a_job_that_is_stopped_while_it_waits_leaves_the_lane():
    lane, go_on, stop_event = Lane(), threading.Event(), threading.Event()
    first = BackgroundJob(lambda progress: go_on.wait(60), threading.Event(), lane=lane)
    second = BackgroundJob(lambda progress: "never", stop_event, lane=lane)
    stop_event.set()
    with pytest.raises(Cancelled):
        second.result()
    go_on.set()
    assert first.result()


def test_a_long_job_lets_others_pass():
    lane, waits, order = Lane(), threading.Event(), []

    def long(progress):
        order.append("long begins")
        assert waits.wait(60)
        lane.give_way()
        order.append("long ends")

    first = BackgroundJob(long, threading.Event(), lane=lane)
    second = BackgroundJob(lambda progress: order.append("short"), threading.Event(), lane=lane)
    waits.set()
    second.result()
    first.result()
    assert order == ["long begins", "short", "long ends"]


def test_a_lane_that_is_closed_ends_all_work():
    """So that an app that is told to stop does not compute on for minutes."""
    lane, begun = Lane(), threading.Event()

    def forever(progress):
        while True:
            begun.set()
            progress(0, 1)

    jobs = [BackgroundJob(forever, threading.Event(), lane=lane) for _ in range(2)]
    assert begun.wait(60)
    lane.close()
    jobs.append(BackgroundJob(forever, threading.Event(), lane=lane))
    for job in jobs:
        with pytest.raises(Cancelled):
            job.result()
