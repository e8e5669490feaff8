"""Progress reaches the real endpoint over TLS, and whatever goes wrong on the way never reaches training."""

import socket
import threading
import time

import pytest

from tests.support.progress_endpoint import RunningEndpoint
from trainyard_api.names import PodEnvironment, progress_path
from trainyard_api.progress import ProgressReport
from trainyard_api.status import Progress
from trainyard_operator.certificates import create_authority
from trainyard_operator.keys import RunKey
from trainyard_trainer import progress_push
from trainyard_trainer.checkpoint import TrainState
from trainyard_trainer.progress import read_progress
from trainyard_trainer.progress_push import ProgressPusher, PushError, PushTarget, post
from trainyard_trainer.recorder import Recorder, StepFigures
from trainyard_trainer.single_stages import PrepareReporter

RUN = RunKey("team", "speeches", "uid-1")
PATIENCE_SECONDS = 20


def report(step):
    progress = Progress(stage="Train", step=step, updated_at="2026-11-25T00:00:00Z", loss=2.5)
    return ProgressReport(attempt=0, progress=progress)


@pytest.fixture
def endpoint(tmp_path):
    with RunningEndpoint(tmp_path) as running:
        yield running


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    """The same behaviour in less time."""
    monkeypatch.setattr(progress_push, "INTERVAL_SECONDS", 0.2)
    monkeypatch.setattr(progress_push, "URGENT_INTERVAL_SECONDS", 0.02)
    monkeypatch.setattr(progress_push, "FIRST_BACKOFF_SECONDS", 0.05)
    monkeypatch.setattr(progress_push, "MAXIMUM_BACKOFF_SECONDS", 0.1)
    monkeypatch.setattr(progress_push, "TIMEOUT_SECONDS", 2.0)


@pytest.fixture
def pushers():
    """Makes pushers, and ends their threads after the test."""
    made = []

    def make(target):
        made.append(ProgressPusher(target))
        return made[-1]

    yield make
    for pusher in made:
        pusher.close(0.0)
        if pusher._thread is not None:
            pusher._thread.join(PATIENCE_SECONDS)
            assert not pusher._thread.is_alive()


def target_of(endpoint, port=None):
    token = endpoint.add_pod("pod-0", RUN)
    url = f"https://127.0.0.1:{port or endpoint.port}{progress_path('team', 'speeches')}"
    return PushTarget(url=url, token_file=endpoint.token_file(token), ca_file=endpoint.ca_file)


def eventually(condition):
    """Wait until something holds; it does within milliseconds when all is well."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    tick = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        tick.wait(0.005)


def arrived_step(endpoint):
    received = endpoint.store.newest(RUN)
    return received.report.progress.step if received is not None else None


def test_a_report_arrives(endpoint, pushers):
    pusher = pushers(target_of(endpoint))
    pusher(report(7))
    eventually(lambda: arrived_step(endpoint) == 7)
    assert endpoint.store.newest(RUN).report == report(7)


def test_of_many_reports_the_newest_arrive_and_the_endpoint_is_spared(endpoint, pushers, monkeypatch):
    monkeypatch.setattr(progress_push, "INTERVAL_SECONDS", 3600.0)
    pusher = pushers(target_of(endpoint))
    for step in range(500):
        pusher(report(step))
    pusher.close(PATIENCE_SECONDS)
    assert arrived_step(endpoint) == 499
    assert len(endpoint.outcomes) <= 3


def test_an_urgent_report_does_not_wait_for_the_interval(endpoint, pushers, monkeypatch):
    monkeypatch.setattr(progress_push, "INTERVAL_SECONDS", 3600.0)
    pusher = pushers(target_of(endpoint))
    pusher(report(1))
    eventually(lambda: arrived_step(endpoint) == 1)
    pusher(report(2))
    pusher(report(3), urgent=True)
    eventually(lambda: arrived_step(endpoint) == 3)
    assert len(endpoint.outcomes) == 2


def test_closing_sends_what_is_still_to_be_sent(endpoint, pushers, monkeypatch):
    monkeypatch.setattr(progress_push, "INTERVAL_SECONDS", 3600.0)
    pusher = pushers(target_of(endpoint))
    pusher(report(1))
    eventually(lambda: arrived_step(endpoint) == 1)
    pusher(report(2))
    pusher.close(PATIENCE_SECONDS)
    assert arrived_step(endpoint) == 2


def test_training_goes_on_while_the_operator_is_down_and_catches_up_after(tmp_path, pushers, capsys):
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    endpoint = RunningEndpoint(tmp_path, port)
    pusher = pushers(target_of(endpoint, port))
    for step in range(3):
        pusher(report(step))
        eventually(lambda step=step: pusher._num_failures > step)
    with endpoint:
        eventually(lambda: arrived_step(endpoint) == 2)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith("progress cannot be reported to the operator (ConnectionRefusedError")
    assert said[1].startswith("progress is reported to the operator again, after")


def test_offering_a_report_does_not_wait_for_an_endpoint_that_never_answers(endpoint, pushers):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pusher = pushers(target_of(endpoint, silent.getsockname()[1]))
        started = time.perf_counter()
        for step in range(1000):
            pusher(report(step))
        offered = time.perf_counter() - started
        accepted, _ = silent.accept()
        pusher.close(0.05)
        closed = time.perf_counter() - started
        accepted.close()
    assert offered < 1.0
    assert closed < progress_push.TIMEOUT_SECONDS


def test_a_certificate_of_another_authority_is_refused_and_the_token_stays_here(endpoint, pushers, capsys):
    target = target_of(endpoint)
    endpoint.ca_file.write_text(create_authority(time.time()).pem)
    pusher = pushers(target)
    pusher(report(1))
    eventually(lambda: pusher._num_failures > 0)
    assert "CERTIFICATE_VERIFY_FAILED" in capsys.readouterr().err
    assert endpoint.outcomes == []
    # The kubelet replaces the file once the operator has published its authority.
    endpoint.ca_file.write_text(endpoint.certificate.authority_pem)
    eventually(lambda: arrived_step(endpoint) == 1)


def test_a_replaced_token_is_used_at_once(endpoint, pushers):
    target = target_of(endpoint)
    good = target.token_file.read_text()
    target.token_file.write_text("old.token.here")
    pusher = pushers(target)
    pusher(report(1))
    eventually(lambda: ("trainyard", "unauthenticated") in endpoint.outcomes)
    target.token_file.write_text(good)
    eventually(lambda: arrived_step(endpoint) == 1)


def test_a_failed_report_does_not_replace_a_newer_one(endpoint, pushers):
    endpoint.is_leading = False
    pusher = pushers(target_of(endpoint))
    pusher(report(1))
    eventually(lambda: endpoint.outcomes)
    pusher(report(2))
    endpoint.is_leading = True
    eventually(lambda: arrived_step(endpoint) is not None)
    assert arrived_step(endpoint) == 2


def test_a_refusal_is_told_with_the_operators_words_and_its_pause(endpoint):
    target = target_of(endpoint)
    endpoint.is_leading = False
    with pytest.raises(PushError, match=r"^503 this replica is not the leader$") as raised:
        post(target, report(1))
    assert raised.value.retry_after == pytest.approx(min(2.0, progress_push.MAXIMUM_BACKOFF_SECONDS))


@pytest.mark.parametrize("token", ["", "two lines\nX-Header: 1", "sp ace", "\u00e9"])
def test_a_file_without_a_token_sends_nothing_and_is_not_repeated(endpoint, token):
    target = target_of(endpoint)
    target.token_file.write_text(token)
    with pytest.raises(PushError, match=r"holds no token$"):
        post(target, report(1))
    assert endpoint.outcomes == []


def test_a_token_file_that_is_not_there_yet_is_an_outage_like_others(endpoint, pushers):
    target = target_of(endpoint)
    token = target.token_file.read_text()
    target.token_file.unlink()
    pusher = pushers(target)
    pusher(report(1))
    eventually(lambda: pusher._num_failures > 0)
    target.token_file.write_text(token)
    eventually(lambda: arrived_step(endpoint) == 1)


def test_an_error_that_nobody_foresaw_ends_neither_thread_nor_training(endpoint, pushers, monkeypatch):
    real, calls = progress_push.post, []

    def broken_once(target, newest):
        calls.append(newest)
        if len(calls) == 1:
            raise RecursionError("odd")
        real(target, newest)

    monkeypatch.setattr(progress_push, "post", broken_once)
    pusher = pushers(target_of(endpoint))
    pusher(report(1))
    eventually(lambda: arrived_step(endpoint) == 1)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("url", "is_target"),
    [("", False), ("http://operator/x", False), ("https:///x", False), ("https://operator:8443/x", True)],
)
def test_progress_goes_only_to_https_addresses(url, is_target):
    environment = {PodEnvironment.PROGRESS_URL: url, PodEnvironment.PROGRESS_TOKEN_FILE: "/t"}
    assert (PushTarget.of(environment) is not None) is is_target


def test_without_a_target_publishing_does_nothing(monkeypatch):
    monkeypatch.delenv(PodEnvironment.PROGRESS_URL, raising=False)
    progress_push._process_pusher.cache_clear()
    num_threads = threading.active_count()
    progress_push.publish(report(1))
    progress_push.finish_publishing(1.0)
    assert threading.active_count() == num_threads
    progress_push._process_pusher.cache_clear()


def test_the_environment_of_a_pod_is_enough(endpoint, monkeypatch):
    target = target_of(endpoint)
    monkeypatch.setenv(PodEnvironment.PROGRESS_URL, target.url)
    monkeypatch.setenv(PodEnvironment.PROGRESS_TOKEN_FILE, str(target.token_file))
    monkeypatch.setenv(PodEnvironment.PROGRESS_CA_FILE, str(target.ca_file))
    progress_push._process_pusher.cache_clear()
    progress_push.publish(report(9))
    progress_push.finish_publishing(PATIENCE_SECONDS)
    progress_push._process_pusher.cache_clear()
    assert arrived_step(endpoint) == 9


class Sink:
    """Keeps what it gets."""

    def __init__(self):
        self.reports = []

    def __call__(self, report, *, urgent=False):
        self.reports.append((report, urgent))


def figures(loss):
    return StepFigures(
        loss_terms={},
        loss=loss,
        gradient_norm=0.5,
        learning_rate=1e-3,
        num_tokens=90,
        num_positions=100,
        step_seconds=0.5,
        data_seconds=0.0,
    )


def test_evaluations_and_checkpoints_are_told_at_once_and_steps_in_their_time(tmp_path):
    now = [1000.0]
    sink = Sink()
    recorder = Recorder(tmp_path, 0, lambda: now[0], sink)
    recorder.step_done(TrainState(step=1, tokens=90), figures(3.0), 10)
    recorder.step_done(TrainState(step=2, tokens=180), figures(2.0), 10)
    recorder.evaluated(TrainState(step=2, tokens=180, evaluation_loss=2.5), 10)
    recorder.checkpoint_committed(tmp_path / "step-2", TrainState(step=2, tokens=180), 0.1)

    told = [
        (report.progress.step, report.progress.evaluation_loss, urgent) for report, urgent in sink.reports
    ]
    assert told == [(1, None, False), (2, 2.5, True), (2, 2.5, True)]
    newest = sink.reports[-1][0]
    assert newest.checkpoint.step == 2
    assert newest == read_progress(tmp_path)


def test_ranks_that_write_nothing_tell_nothing(tmp_path):
    sink = Sink()
    recorder = Recorder(None, 0, lambda: 1000.0, sink)
    recorder.step_done(TrainState(step=1, tokens=90), figures(3.0), 10)
    recorder.evaluated(TrainState(step=1, tokens=90, evaluation_loss=2.5), 10)
    recorder.checkpoint_committed(tmp_path / "step-1", TrainState(step=1, tokens=90), 0.1)
    assert sink.reports == []


def test_preparation_tells_what_it_writes(tmp_path):
    sink = Sink()
    reporter = PrepareReporter(tmp_path, 2, sink)
    reporter("tokenize", 50, 200, "documents")
    assert sink.reports == [(read_progress(tmp_path), False)]
    told = sink.reports[0][0]
    assert (told.attempt, told.progress.stage, told.progress.percent) == (2, "Prepare", 25.0)
