"""The progress endpoint over real TLS: what it takes, what it refuses, and that a refusal changes nothing."""

import contextlib
import http.client
import json
import socket
import ssl
import time

import pytest

from tests.support.progress_endpoint import RunningEndpoint, review_status, token_of
from trainyard_api.names import kubeflow_status_path, progress_path
from trainyard_operator import authentication, progress_server
from trainyard_operator.keys import RunKey

RUN = RunKey("team", "speeches", "uid-1")
OTHER_RUN = RunKey("team", "other", "uid-2")
GONE_RUN = RunKey("team", "gone", "uid-3")
REPORT = {
    "attempt": 0,
    "progress": {
        "stage": "Train",
        "step": 5,
        "totalSteps": 10,
        "percent": 50.0,
        "loss": 2.5,
        "updatedAt": "2026-11-25T00:00:00Z",
    },
    "checkpoint": {"step": 4, "uri": "file:///data/runs/a/4", "committedAt": "2026-11-25T00:00:00Z"},
}
KUBEFLOW = {"trainerStatus": {"progressPercentage": 30, "lastUpdatedTime": "2026-11-25T00:00:00Z"}}


@pytest.fixture
def endpoint(tmp_path):
    with RunningEndpoint(tmp_path) as running:
        yield running


def post(endpoint, path, body, token, headers=None):
    """Status code, headers and decoded body of a POST."""
    connection = http.client.HTTPSConnection(
        "127.0.0.1", endpoint.port, timeout=10, context=endpoint.client_context()
    )
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json"} if headers is None else headers
    if token is not None:
        sent = {**sent, "Authorization": f"Bearer {token}"}
    try:
        connection.request("POST", path, body=data, headers=sent)
        response = connection.getresponse()
        return response.status, dict(response.headers), json.loads(response.read())
    finally:
        connection.close()


def test_a_report_of_a_runs_own_pod_is_taken(endpoint):
    token = endpoint.add_pod("pod-0", RUN)
    code, headers, body = post(endpoint, progress_path("team", "speeches"), REPORT, token)
    assert (code, body["status"]) == (200, "Success")
    assert headers["Connection"] == "close"
    received = endpoint.store.newest(RUN)
    assert received.report.progress.step == 5
    assert received.report.checkpoint.step == 4
    assert abs(received.received_at - time.time()) < 30
    assert endpoint.outcomes == [("trainyard", "accepted")]


def test_a_newer_trainer_may_send_fields_that_this_operator_does_not_know(endpoint):
    token = endpoint.add_pod("pod-0", RUN)
    report = {**REPORT, "new": 1, "progress": {**REPORT["progress"], "newer": {"a": 1}}}
    assert post(endpoint, progress_path("team", "speeches"), report, token)[0] == 200
    assert endpoint.store.newest(RUN).report.progress.step == 5


def test_the_protocol_of_kubeflow_trainer_is_taken_too(endpoint):
    token = endpoint.add_pod("pod-0", RUN, attempt=2)
    code, _, body = post(endpoint, kubeflow_status_path("team", "speeches"), KUBEFLOW, token)
    assert (code, body["kind"]) == (200, "Status")
    assert endpoint.store.newest(RUN).report.attempt == 2
    assert endpoint.store.newest(RUN).report.progress.percent == 30
    assert endpoint.outcomes == [("kubeflow", "accepted")]


def without(path):
    """REPORT without a field, or with another value at a dotted path."""
    report = json.loads(json.dumps(REPORT))
    *parents, last = path.split(".")
    place = report
    for parent in parents:
        place = place[parent]
    del place[last]
    return report


def with_value(path, value):
    report = json.loads(json.dumps(REPORT))
    *parents, last = path.split(".")
    place = report
    for parent in parents:
        place = place[parent]
    place[last] = value
    return report


BAD_BODIES = {
    "no JSON": b"step=5",
    "nothing": b"",
    "not UTF-8": b"\xff\xfe{}",
    "a list": [],
    "another shape": {"trainerStatus": {}},
    "no attempt": without("attempt"),
    "no stage": without("progress.stage"),
    "a step as text": with_value("progress.step", "5"),
    "a step with a fraction": with_value("progress.step", 5.5),
    "a step below 0": with_value("progress.step", -1),
    "a step that no reader keeps": with_value("progress.step", 2**60),
    "a percentage above 100": with_value("progress.percent", 101),
    "a loss that is not a number": json.dumps(with_value("progress.loss", float("nan"))).encode(),
    "an endless loss": json.dumps(with_value("progress.loss", float("inf"))).encode(),
    "an unknown stage": with_value("progress.stage", "Cook"),
    "a time that is none": with_value("progress.updatedAt", "yesterday"),
    "a checkpoint time that is none": with_value("checkpoint.committedAt", ""),
    "a long text": with_value("progress.detail", "x" * 5000),
    "another attempt than the pod's": with_value("attempt", 3),
    "a metric that is not a number": json.dumps(
        with_value("progress.metrics", {"F1": float("nan")})
    ).encode(),
    "more metrics than tasks have": with_value("progress.metrics", {f"m{n}": 1.0 for n in range(33)}),
    "a metric with a long name": with_value("progress.metrics", {"x" * 65: 1.0}),
    "deep nesting": b"[" * 20_000,
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_that_is_no_report_gets_422_and_changes_nothing(endpoint, name):
    token = endpoint.add_pod("pod-0", RUN)
    code, _, body = post(endpoint, progress_path("team", "speeches"), BAD_BODIES[name], token)
    assert (code, body["reason"], body["code"]) == (422, "Invalid", 422)
    assert endpoint.store.newest(RUN) is None
    assert endpoint.outcomes == [("trainyard", "invalid")]


def test_a_body_that_does_not_say_it_is_json_gets_422(endpoint):
    token = endpoint.add_pod("pod-0", RUN)
    headers = {"Content-Type": "text/plain"}
    code, _, body = post(endpoint, progress_path("team", "speeches"), REPORT, token, headers)
    assert (code, body["message"]) == (422, "Content-Type: must be application/json")


def test_what_was_sent_is_never_repeated(endpoint, caplog):
    token = endpoint.add_pod("pod-0", RUN)
    sent = "hunter2-hunter2"
    bodies = [with_value("progress.step", sent), {sent: 1}, f'{{"{sent}'.encode()]
    answers = [post(endpoint, progress_path("team", "speeches"), body, token)[2] for body in bodies]
    answers.append(post(endpoint, progress_path("team", "speeches"), REPORT, f"a.{sent}.c")[2])
    assert [answer["code"] for answer in answers] == [422, 422, 422, 401]
    assert sent not in json.dumps(answers)
    assert sent not in caplog.text
    assert token not in json.dumps(answers) + caplog.text


def foreign_tokens(endpoint):
    """Tokens that may not post to RUN, the code each gets and how it is counted."""
    endpoint.add_pod("own", RUN)
    other = endpoint.add_pod("other-pod", OTHER_RUN)
    without_pod, other_kind = token_of("no-pod"), token_of("person")
    endpoint.reviewer.known[without_pod] = review_status("team", None)
    endpoint.reviewer.known[other_kind] = {
        **review_status("team", "own"),
        "user": {"username": "alice", "extra": review_status("team", "own")["user"]["extra"]},
    }
    unseen = token_of("unseen")
    endpoint.reviewer.known[unseen] = review_status("team", "unseen")
    other_audience = token_of("own-other-audience")
    endpoint.reviewer.known[other_audience] = {**review_status("team", "own"), "audiences": ["api"]}
    return {
        "none": (None, 401, "unauthenticated"),
        "empty": ("", 401, "unauthenticated"),
        "no JWT": ("abc", 401, "unauthenticated"),
        "unknown": (token_of("nobody"), 401, "unauthenticated"),
        "expired": (token_of("own", expires_in=-1), 401, "unauthenticated"),
        "another audience by its own word": (token_of("own", audience="x"), 401, "unauthenticated"),
        "another audience by the review": (other_audience, 401, "unauthenticated"),
        "huge": ("a." + "b" * 7000 + ".c", 401, "unauthenticated"),
        "another run's pod": (other, 403, "forbidden"),
        "a service account without a pod": (without_pod, 403, "forbidden"),
        "a person": (other_kind, 403, "forbidden"),
        "a pod that the operator does not know": (unseen, 403, "forbidden"),
    }


def test_only_the_runs_own_pods_may_post(endpoint):
    for name, (token, expected, outcome) in foreign_tokens(endpoint).items():
        code, _, body = post(endpoint, progress_path("team", "speeches"), REPORT, token)
        assert (code, body["code"]) == (expected, expected), name
        assert endpoint.outcomes[-1] == ("trainyard", outcome), name
        assert endpoint.store.newest(RUN) is None, name


def test_a_foreign_pod_cannot_tell_whether_a_run_exists(endpoint):
    token = endpoint.add_pod("other-pod", OTHER_RUN)
    existing = post(endpoint, progress_path("team", "speeches"), REPORT, token)
    missing = post(endpoint, progress_path("team", "no-such-run"), REPORT, token)
    assert existing[0] == missing[0] == 403
    assert existing[2] == missing[2]


def test_a_run_of_the_same_name_in_another_namespace_is_another_run(endpoint):
    token = endpoint.add_pod("pod-0", RunKey("elsewhere", "speeches", "uid-9"))
    assert post(endpoint, progress_path("team", "speeches"), REPORT, token)[0] == 403


def test_a_run_that_is_gone_gets_404(endpoint):
    token = endpoint.add_pod("pod-0", GONE_RUN)
    endpoint.directory.runs.discard(GONE_RUN)
    assert post(endpoint, progress_path("team", "gone"), REPORT, token)[0] == 404
    assert endpoint.outcomes == [("trainyard", "not_found")]


@pytest.mark.parametrize("method_and_path", ["GET /", "GET /metrics", "POST /", "PUT {}", "GET {}"])
def test_nothing_else_is_served(endpoint, method_and_path):
    method, path = method_and_path.format(progress_path("team", "speeches")).split()
    connection = http.client.HTTPSConnection(
        "127.0.0.1", endpoint.port, timeout=10, context=endpoint.client_context()
    )
    connection.request(method, path)
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["kind"]) == (404, "Status")
    connection.close()


def test_a_body_over_64_kib_gets_413_before_it_is_read(endpoint):
    token = endpoint.add_pod("pod-0", RUN)
    code, _, _ = post(endpoint, progress_path("team", "speeches"), b" " * (64 * 1024 + 1), token)
    assert (code, endpoint.outcomes) == (413, [("trainyard", "too_large")])
    assert endpoint.reviewer.num_reviews == 0


def test_a_body_of_64_kib_is_read(endpoint):
    token = endpoint.add_pod("pod-0", RUN)
    body = json.dumps(REPORT).encode()
    assert post(endpoint, progress_path("team", "speeches"), body.ljust(64 * 1024), token)[0] == 200


def open_request(endpoint, head):
    """A TLS connection on which the head of a request was sent."""
    plain = socket.create_connection(("127.0.0.1", endpoint.port), timeout=10)
    connection = endpoint.client_context().wrap_socket(plain, server_hostname="127.0.0.1")
    connection.sendall(head.encode())
    return connection


def chunked_head(token):
    return (
        f"POST {progress_path('team', 'speeches')} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )


def test_a_chunked_body_is_bounded_too(endpoint):
    token = endpoint.add_pod("pod-0", RUN)
    with open_request(endpoint, chunked_head(token)) as connection:
        try:
            for _ in range(70):
                connection.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
        except OSError:
            # The endpoint answers and closes while the rest is still being sent.
            pass
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413")
    assert endpoint.store.newest(RUN) is None


def test_a_compressed_body_is_not_unpacked(endpoint):
    token = endpoint.add_pod("pod-0", RUN)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert post(endpoint, progress_path("team", "speeches"), b"\x1f\x8b" * 10, token, headers)[0] == 422


def test_a_slow_body_gets_408(endpoint, monkeypatch):
    monkeypatch.setattr(progress_server, "BODY_TIMEOUT_SECONDS", 0.1)
    token = endpoint.add_pod("pod-0", RUN)
    with open_request(endpoint, chunked_head(token) + "1\r\n{\r\n") as connection:
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408")
    assert endpoint.outcomes == [("trainyard", "timed_out")]


def test_a_client_that_hangs_up_in_the_middle_changes_nothing(endpoint):
    token = endpoint.add_pod("pod-0", RUN)
    with open_request(endpoint, chunked_head(token) + '5\r\n{"att\r\n'):
        pass
    assert post(endpoint, progress_path("team", "speeches"), REPORT, token)[0] == 200
    assert endpoint.store.newest(RUN).report.progress.step == 5


def test_a_pod_that_posts_too_often_gets_429_and_others_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(progress_server, "POSTS_PER_SECOND", 0.001)
    with RunningEndpoint(tmp_path) as endpoint:
        token, other = endpoint.add_pod("pod-0", RUN), endpoint.add_pod("pod-1", OTHER_RUN)
        path = progress_path("team", "speeches")
        answers = [post(endpoint, path, REPORT, token) for _ in range(progress_server.POSTS_BURST + 1)]
        assert [code for code, _, _ in answers] == [200] * progress_server.POSTS_BURST + [429]
        assert 900 <= int(answers[-1][1]["Retry-After"]) <= 1000
        assert post(endpoint, progress_path("team", "other"), REPORT, other)[0] == 200
        assert endpoint.outcomes.count(("trainyard", "rate_limited")) == 1


def test_an_address_that_guesses_tokens_is_told_to_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(authentication, "REFUSALS_PER_SECOND", 0.001)
    num_guesses = authentication.REFUSALS_BURST + 2
    with RunningEndpoint(tmp_path) as endpoint:
        codes = [
            post(endpoint, progress_path("team", "speeches"), b"{}", token_of(f"guess-{number}"))[0]
            for number in range(num_guesses)
        ]
        assert codes == [401] * authentication.REFUSALS_BURST + [429, 429]
        assert endpoint.reviewer.num_reviews == authentication.REFUSALS_BURST


def test_a_follower_sends_clients_away(endpoint):
    endpoint.is_leading = False
    token = endpoint.add_pod("pod-0", RUN)
    code, headers, _ = post(endpoint, progress_path("team", "speeches"), REPORT, token)
    assert (code, headers["Retry-After"]) == (503, "2")
    assert endpoint.outcomes == [("trainyard", "not_leader")]
    assert endpoint.reviewer.num_reviews == 0


def test_a_silent_api_server_means_try_again(endpoint):
    token = endpoint.add_pod("pod-0", RUN)
    endpoint.reviewer.is_down = True
    code, headers, _ = post(endpoint, progress_path("team", "speeches"), REPORT, token)
    assert (code, headers["Retry-After"]) == (503, "2")
    endpoint.reviewer.is_down = False
    assert post(endpoint, progress_path("team", "speeches"), REPORT, token)[0] == 200
    assert endpoint.outcomes == [("trainyard", "unavailable"), ("trainyard", "accepted")]


def test_a_late_report_of_an_earlier_attempt_gets_409(endpoint):
    old, new = endpoint.add_pod("pod-0", RUN, attempt=0), endpoint.add_pod("pod-1", RUN, attempt=1)
    later = with_value("attempt", 1)
    assert post(endpoint, progress_path("team", "speeches"), later, new)[0] == 200
    assert post(endpoint, progress_path("team", "speeches"), REPORT, old)[0] == 409
    assert endpoint.store.newest(RUN).report.attempt == 1


def test_plain_http_and_old_tls_get_no_answer(endpoint):
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert plain.recv(100)[:4] != b"HTTP"
    assert endpoint.certificate.context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_connection_without_a_request_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(progress_server, "IDLE_TIMEOUT_SECONDS", 0.2)
    with RunningEndpoint(tmp_path) as endpoint, open_request(endpoint, "POST / HT") as connection:
        assert connection.recv(100) == b""


def test_more_connections_than_the_bound_are_closed_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(progress_server, "MAXIMUM_CONNECTIONS", 2)
    with RunningEndpoint(tmp_path) as endpoint, contextlib.ExitStack() as held:

        def open_three():
            for _ in range(3):
                held.enter_context(open_request(endpoint, "POST /"))

        with pytest.raises((ssl.SSLError, ConnectionError)):
            open_three()


def test_a_client_that_trusts_another_authority_does_not_connect(endpoint):
    with (
        socket.create_connection(("127.0.0.1", endpoint.port), timeout=10) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        ssl.create_default_context().wrap_socket(plain, server_hostname="127.0.0.1")
