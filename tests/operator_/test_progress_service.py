"""The endpoint as the operator runs it: pods reach the leader, and trust it before it leads."""

import asyncio
import http.client
import logging
import ssl
import time

import pytest

from tests.support.config_maps import PlayedConfigMaps
from tests.support.progress_endpoint import PlayedDirectory, PlayedReviewer
from trainyard_operator import progress_service
from trainyard_operator.authentication import Authenticator
from trainyard_operator.certificate_bundle import BUNDLE_KEY
from trainyard_operator.certificates import CertificateFiles, create_authority, issue
from trainyard_operator.errors import NotLeadingError, UnavailableError
from trainyard_operator.progress_server import ProgressEndpoint
from trainyard_operator.progress_service import ProgressAddress, ProgressService, build_endpoint_slice
from trainyard_operator.progress_store import ProgressStore

ADDRESS = ProgressAddress(
    namespace="operators",
    service="progress",
    pod_address="127.0.0.1",
    host="127.0.0.1",
    port=0,
    ca_config_map="trust",
)


class PlayedCluster(PlayedConfigMaps):
    """ConfigMaps, and what was applied."""

    def __init__(self):
        super().__init__()
        self.applied = []
        self.is_down = False

    async def get(self, resource, namespace, name):
        if self.is_down:
            raise UnavailableError("no answer")
        return await super().get(resource, namespace, name)

    async def apply(self, resource, namespace, body):
        self.applied.append((resource.plural, namespace, body))
        return body


@pytest.fixture
def cluster():
    return PlayedCluster()


def service_of(cluster, files=None, fenced=None, on_expiry=None):
    endpoint = ProgressEndpoint(
        store=ProgressStore(),
        directory=PlayedDirectory(),
        authenticator=Authenticator(PlayedReviewer(), time.time, lambda result: None),
        is_leading=lambda: True,
        observe=lambda protocol, outcome, seconds: None,
    )
    return ProgressService(
        ADDRESS, endpoint, cluster, fenced or cluster, clock=time.time, files=files, on_expiry=on_expiry
    )


def answer_under(bundle, port):
    """Status code of an unauthenticated POST by a client that trusts a bundle."""
    connection = http.client.HTTPSConnection(
        "127.0.0.1", port, timeout=10, context=ssl.create_default_context(cadata=bundle)
    )
    try:
        connection.request("POST", "/v1alpha1/namespaces/a/trainingruns/b/progress", body=b"{}")
        return connection.getresponse().status
    finally:
        connection.close()


def test_pods_trust_a_follower_before_it_leads(cluster):
    async def takeover():
        leader, follower = service_of(cluster), service_of(cluster)
        await leader.start()
        await leader.lead()
        await leader.bundle.ensure("team")
        await follower.start()
        await leader.refresh()
        in_pods = cluster.objects["team", "trust"]["data"][BUNDLE_KEY]
        answers = [
            await asyncio.to_thread(answer_under, in_pods, service.server.port)
            for service in (leader, follower)
        ]
        await leader.stop()
        await follower.stop()
        return answers

    assert asyncio.run(takeover()) == [401, 401]


def test_only_the_leader_copies_the_bundle(cluster):
    async def run():
        service = service_of(cluster)
        await service.start()
        await service.bundle.ensure("team")
        cluster.objects["team", "trust"]["data"][BUNDLE_KEY] = "old"
        service.bundle.use("new")
        service.follow()
        await service.refresh()
        as_follower = cluster.objects["team", "trust"]["data"][BUNDLE_KEY]
        await service.lead()
        await service.refresh()
        await service.stop()
        return as_follower, cluster.objects["team", "trust"]["data"][BUNDLE_KEY], service

    as_follower, as_leader, service = asyncio.run(run())
    assert as_follower == "old"
    assert as_leader == service.certificate.authority_pem


class Fence(PlayedCluster):
    """Lets nothing be written, as for a replica that does not lead."""

    def _before_write(self):
        raise NotLeadingError("another replica leads")

    async def apply(self, resource, namespace, body):
        raise NotLeadingError("another replica leads")


def test_a_follower_publishes_its_authority_and_writes_nothing_else(cluster):
    async def follow():
        service = service_of(cluster, fenced=Fence())
        await service.start()
        with pytest.raises(NotLeadingError):
            await service.lead()
        with pytest.raises(NotLeadingError):
            await service.bundle.ensure("team")
        await service.stop()

    asyncio.run(follow())
    assert cluster.writes == ["operators"]


def test_the_leader_sends_the_clients_of_the_service_to_itself(cluster):
    async def lead():
        service = service_of(cluster)
        await service.start()
        await service.lead()
        port = service.server.port
        await service.stop()
        return port

    port = asyncio.run(lead())
    ((plural, namespace, body),) = cluster.applied
    assert (plural, namespace) == ("endpointslices", "operators")
    assert body == build_endpoint_slice(ADDRESS, port)


def test_an_endpoint_slice_names_its_service_and_the_leaders_address():
    body = build_endpoint_slice(
        ProgressAddress(namespace="operators", service="progress", pod_address="fd00::7"), 8443
    )
    assert body == {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "progress-leader",
            "namespace": "operators",
            "labels": {
                "app.kubernetes.io/managed-by": "trainyard",
                "kubernetes.io/service-name": "progress",
                "endpointslice.kubernetes.io/managed-by": "trainyard",
            },
        },
        "addressType": "IPv6",
        "endpoints": [{"addresses": ["fd00::7"], "conditions": {"ready": True}}],
        "ports": [{"name": "progress", "port": 8443, "protocol": "TCP"}],
    }


def test_the_endpoint_listens_while_the_api_server_is_away_and_publishes_later(cluster, caplog, monkeypatch):
    monkeypatch.setattr(progress_service, "REFRESH_SECONDS", 0.01)
    caplog.set_level(logging.WARNING)
    cluster.is_down = True

    async def run():
        service = service_of(cluster)
        await service.start()
        code = await asyncio.to_thread(answer_under, service.certificate.authority_pem, service.server.port)
        cluster.is_down = False
        async with asyncio.timeout(20):
            while not cluster.writes:  # noqa: ASYNC110 - the keeper tells nobody
                await asyncio.sleep(0.01)
        await service.stop()
        return code

    assert asyncio.run(run()) == 401
    assert "not published yet" in caplog.text


def test_a_certificate_that_others_keep_is_published_to_runs_only(cluster, tmp_path):
    authority = create_authority(time.time())
    pem, key, _ = issue(authority, ["127.0.0.1"], time.time())
    files = CertificateFiles(tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt")
    for file, text in ((files.certificate, pem), (files.key, key), (files.authority, authority.pem)):
        file.write_text(text)

    async def run():
        service = service_of(cluster, files)
        await service.start()
        await service.bundle.ensure("team")
        code = await asyncio.to_thread(answer_under, authority.pem, service.server.port)
        await service.stop()
        return code

    assert asyncio.run(run()) == 401
    assert cluster.writes == ["team"]
    assert cluster.objects["team", "trust"]["data"][BUNDLE_KEY] == authority.pem


def test_the_end_of_the_certificate_is_told(cluster):
    told = []

    async def run():
        service = service_of(cluster, on_expiry=told.append)
        await service.start()
        await service.stop()
        return service.certificate.expires_at

    assert asyncio.run(run()) == told[0]


def test_the_certificate_is_for_every_name_of_the_service():
    assert ADDRESS.names == (
        "progress.operators.svc",
        "progress.operators.svc.cluster.local",
        "progress.operators",
        "127.0.0.1",
    )
