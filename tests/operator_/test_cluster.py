"""Calls to the API server over real HTTP: paths, bodies, pages, errors, the fence and the clock."""

import asyncio
import json
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web

from tests.support.api_server import ApiServer
from trainyard_operator.cluster import (
    LEASES,
    PODS,
    RUNS,
    SERVICES,
    Deletion,
    connect,
    error_of,
)
from trainyard_operator.errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    NotLeadingError,
    ThrottledError,
    UnavailableError,
)
from trainyard_operator.settings import Settings

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}
PODS_PATH = "/api/v1/namespaces/ns/pods"


def call(tmp_path, monkeypatch, answers, use, **settings):
    """Run `use(cluster)` against a server with answers; its result, the requests and what was counted."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    counted = []

    async def scenario():
        server = ApiServer()
        server.answers = answers
        await server.start()
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        cluster = await connect(Settings(**settings), lambda *request: counted.append(request[:3]))
        try:
            return await use(cluster), server.bodies
        finally:
            await cluster.close()
            await server.stop()

    result, bodies = asyncio.run(scenario())
    return result, bodies, counted


def answer(body, status=200, **headers):
    return web.Response(status=status, body=json.dumps(body).encode(), headers=headers)


def test_a_pod_is_created_with_our_field_manager_and_the_token(tmp_path, monkeypatch):
    answers = {("POST", PODS_PATH): answer({"metadata": {"uid": "1"}}, 201)}
    created, requests, counted = call(tmp_path, monkeypatch, answers, lambda c: c.create(PODS, "ns", POD))
    assert created == {"metadata": {"uid": "1"}}
    ((method, url, headers, body),) = requests
    assert (method, url, body) == ("POST", f"{PODS_PATH}?fieldManager=trainyard", POD)
    assert headers["Authorization"] == "Bearer not-a-secret"
    assert counted == [("POST", "pods", 201)]


def test_status_is_merged_on_its_subresource(tmp_path, monkeypatch):
    path = "/apis/trainyard.dev/v1alpha1/namespaces/ns/trainingruns/r/status"
    patch = {"metadata": {"resourceVersion": "7", "uid": "u"}, "status": {"phase": "Running"}}
    _, requests, _ = call(
        tmp_path, monkeypatch, {("PATCH", path): answer({})}, lambda c: c.patch_status(RUNS, "ns", "r", patch)
    )
    assert requests[0][2]["Content-Type"] == "application/merge-patch+json"
    assert requests[0][3] == patch


def test_apply_is_server_side_and_takes_its_fields_back(tmp_path, monkeypatch):
    path = "/api/v1/namespaces/ns/services/s"
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}
    _, requests, _ = call(
        tmp_path, monkeypatch, {("PATCH", path): answer({})}, lambda c: c.apply(SERVICES, "ns", body)
    )
    assert requests[0][1] == f"{path}?fieldManager=trainyard&force=true"
    assert requests[0][2]["Content-Type"] == "application/apply-patch+yaml"


def test_a_deletion_carries_its_precondition_and_grace(tmp_path, monkeypatch):
    answers = {("DELETE", f"{PODS_PATH}/p"): answer({})}
    _, requests, _ = call(
        tmp_path,
        monkeypatch,
        answers,
        lambda c: c.delete(PODS, "ns", "p", Deletion(uid="u", grace_seconds=5)),
    )
    assert requests[0][3]["preconditions"] == {"uid": "u"}
    assert requests[0][3]["gracePeriodSeconds"] == 5
    assert requests[0][3]["propagationPolicy"] == "Background"


def test_several_objects_are_deleted_by_labels_and_never_without_any(tmp_path, monkeypatch):
    async def use(cluster):
        await cluster.delete_all(PODS, "ns", "a=b,c in (d,e)", Deletion())
        with pytest.raises(ValueError, match="selector"):
            await cluster.delete_all(PODS, "ns", "", Deletion())

    _, requests, counted = call(tmp_path, monkeypatch, {("DELETE", PODS_PATH): answer({})}, use)
    assert parse_qs(urlsplit(requests[0][1]).query) == {"labelSelector": ["a=b,c in (d,e)"]}
    assert counted == [("DELETECOLLECTION", "pods", 200)]


def test_lists_are_read_page_by_page(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    queries = []

    async def pods(request):
        queries.append(dict(request.query))
        following = {"": "one", "one": "two", "two": ""}[request.query.get("continue", "")]
        return web.json_response({"metadata": {"continue": following}, "items": [{"n": len(queries)}]})

    async def scenario():
        server = ApiServer()
        server._runner.app.router._resources.clear()
        server._runner.app.router.add_get("/api/v1/pods", pods)
        await server.start()
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        cluster = await connect(Settings(), lambda *_: None)
        try:
            return [item async for page in cluster.pages(PODS, None, "x=y") for item in page]
        finally:
            await cluster.close()
            await server.stop()

    assert asyncio.run(scenario()) == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert [query.get("continue") for query in queries] == [None, "one", "two"]
    assert all(query["limit"] == "500" and query["labelSelector"] == "x=y" for query in queries)


def test_a_replica_that_does_not_lead_reads_but_writes_nothing_behind_the_fence(tmp_path, monkeypatch):
    def refuse():
        raise NotLeadingError("not me")

    async def use(cluster):
        fenced = cluster.fenced(refuse)
        await fenced.get(PODS, "ns", "p")
        with pytest.raises(NotLeadingError):
            await fenced.create(PODS, "ns", POD)
        with pytest.raises(NotLeadingError):
            await fenced.delete(PODS, "ns", "p", Deletion())
        await cluster.replace(LEASES, "ns", {"metadata": {"name": "l"}})

    lease = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/l"
    answers = {("GET", f"{PODS_PATH}/p"): answer(POD), ("PUT", lease): answer({})}
    _, requests, _ = call(tmp_path, monkeypatch, answers, use)
    assert [request[0] for request in requests] == ["GET", "PUT"]


def test_an_urgent_request_waits_for_no_other(tmp_path, monkeypatch):
    async def use(cluster):
        await cluster.get(PODS, "ns", "p")
        waiting = asyncio.create_task(cluster.get(PODS, "ns", "p"))
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await cluster.urgent().get(LEASES, "ns", "l")
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait({waiting})

    lease = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/l"
    answers = {("GET", f"{PODS_PATH}/p"): answer(POD), ("GET", lease): answer({})}
    pace = {"requests_per_second": 0.001, "request_burst": 1, "request_concurrency": 1}
    _, requests, _ = call(tmp_path, monkeypatch, answers, use, **pace)
    assert [urlsplit(url).path for _, url, *_ in requests] == [f"{PODS_PATH}/p", lease]


def test_a_server_that_is_away_is_unavailable_and_counted(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    counted = []

    async def scenario():
        server = ApiServer()
        await server.start()
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        await server.stop()
        cluster = await connect(Settings(), lambda *request: counted.append(request[:3]))
        try:
            with pytest.raises(UnavailableError, match="no answer"):
                await cluster.get(PODS, "ns", "p")
        finally:
            await cluster.close()

    asyncio.run(scenario())
    assert counted == [("GET", "pods", 0)]


def test_without_credentials_the_remedy_is_told(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    with pytest.raises(UnavailableError, match="set KUBECONFIG"):
        asyncio.run(connect(Settings(), lambda *_: None))


@pytest.mark.parametrize(
    ("code", "reason", "is_create", "kind"),
    [
        (400, "BadRequest", False, InvalidError),
        (403, "Forbidden", True, ForbiddenError),
        (404, "NotFound", False, NotFoundError),
        (409, "AlreadyExists", True, AlreadyExistsError),
        (409, "Conflict", False, ConflictError),
        (410, "Expired", False, NotFoundError),
        (422, "Invalid", True, InvalidError),
        (429, "TooManyRequests", False, ThrottledError),
        (500, "InternalError", False, UnavailableError),
        (503, "", False, UnavailableError),
        (504, "Timeout", True, UnavailableError),
    ],
)
def test_each_answer_has_its_error(code, reason, is_create, kind):
    body = json.dumps({"kind": "Status", "message": "what it said", "reason": reason}).encode()
    error = error_of(code, body, is_create=is_create)
    assert type(error) is kind
    assert error.message == "what it said"


def test_an_answer_that_is_no_json_keeps_its_text():
    assert error_of(502, b"<html>bad gateway</html>").message == "<html>bad gateway</html>"
    assert error_of(500, b"").message == "HTTP status 500"


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("", 1.0), ("soon", 1.0)])
def test_a_pause_that_the_server_asks_for_is_kept(header, seconds):
    error = error_of(429, b"{}", header)
    assert isinstance(error, ThrottledError)
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    ("message", "is_quota"),
    [
        (
            'pods "p" is forbidden: exceeded quota: team, requested: pods=1, used: pods=4, limited: pods=4',
            True,
        ),
        ('pods "p" is forbidden: failed quota: team: must specify limits.cpu', True),
        ('pods "p" is forbidden: violates PodSecurity "restricted:latest"', False),
    ],
)
def test_a_quota_is_told_from_other_refusals(message, is_quota):
    assert ForbiddenError(message).is_quota is is_quota
