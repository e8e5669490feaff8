"""Tokens, ConfigMaps and EndpointSlices of the progress endpoint at a real API server."""

import asyncio
import time
from dataclasses import dataclass, field

import pytest
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_kube_config
from kubernetes.client import (
    AuthenticationV1TokenRequest,
    V1BoundObjectReference,
    V1Container,
    V1ObjectMeta,
    V1Pod,
    V1PodSpec,
    V1TokenRequestSpec,
)

from tests.support.progress_endpoint import PlayedDirectory
from trainyard_api.names import PROGRESS_AUDIENCE
from trainyard_operator.authentication import (
    ACCEPTED_SECONDS,
    Authenticator,
    ForeignTokenError,
    PodIdentity,
    RefusedTokenError,
)
from trainyard_operator.certificate_bundle import BUNDLE_KEY
from trainyard_operator.cluster import CONFIG_MAPS, KubernetesCluster
from trainyard_operator.progress_server import ProgressEndpoint
from trainyard_operator.progress_service import ENDPOINT_SLICES, ProgressAddress, ProgressService
from trainyard_operator.progress_store import ProgressStore
from trainyard_operator.settings import Settings

pytestmark = pytest.mark.control_plane


@dataclass
class Clock:
    """Real time, and what a test adds."""

    added: float = 0.0
    results: list[str] = field(default_factory=list)

    def __call__(self) -> float:
        return time.time() + self.added


@pytest.fixture
def operate(cluster):
    """Runs a coroutine function with the operator's own client."""

    def run(function):
        async def connected():
            configuration = Configuration()
            await load_kube_config(str(cluster.kubeconfig), client_configuration=configuration)
            client = KubernetesCluster(ApiClient(configuration), Settings(), lambda *_: None)
            try:
                return await function(client)
            finally:
                await client.close()

        return asyncio.run(connected())

    return run


@pytest.fixture
def pod(core_api, namespace):
    """A pod; whether it runs does not matter to tokens."""
    body = V1Pod(
        metadata=V1ObjectMeta(name="rank-0"),
        spec=V1PodSpec(containers=[V1Container(name="trainer", image="trainer")], restart_policy="Never"),
    )
    return core_api.create_namespaced_pod(namespace, body)


def token_for(core_api, namespace, pod=None, audience=PROGRESS_AUDIENCE):
    """A service account token, bound to a pod as the kubelet projects it."""
    bound = (
        V1BoundObjectReference(api_version="v1", kind="Pod", name=pod.metadata.name, uid=pod.metadata.uid)
        if pod is not None
        else None
    )
    spec = V1TokenRequestSpec(audiences=[audience], expiration_seconds=7200, bound_object_ref=bound)
    request = AuthenticationV1TokenRequest(spec=spec)
    return core_api.create_namespaced_service_account_token("default", namespace, request).status.token


async def identify_for_ever(authenticator, token, clock):
    """Ask until there is an error: the API server itself remembers a good token for ten seconds."""
    async with asyncio.timeout(60):
        while True:
            clock.added += ACCEPTED_SECONDS + 1
            await authenticator.identify(token, "address")
            await asyncio.sleep(0.5)


def test_the_api_server_vouches_for_a_pods_token_until_the_pod_is_gone(core_api, namespace, pod, operate):
    token = token_for(core_api, namespace, pod)

    async def identify(client):
        clock = Clock()
        authenticator = Authenticator(client, clock, clock.results.append)
        identity = await authenticator.identify(token, "address")
        core_api.delete_namespaced_pod(pod.metadata.name, namespace, grace_period_seconds=0)
        with pytest.raises(RefusedTokenError):
            await identify_for_ever(authenticator, token, clock)
        return identity, clock.results

    identity, results = operate(identify)
    assert identity == PodIdentity(namespace, "rank-0", pod.metadata.uid)
    assert (results[0], results[-1]) == ("authenticated", "refused")


def test_the_api_server_refuses_other_tokens(core_api, namespace, pod, operate):
    good = token_for(core_api, namespace, pod)
    header, payload, _ = good.split(".")
    unbound = token_for(core_api, namespace)
    other_audience = token_for(core_api, namespace, pod, audience="https://kubernetes.default.svc")

    async def identify(client):
        authenticator = Authenticator(client, time.time, lambda result: None)
        with pytest.raises(ForeignTokenError):
            await authenticator.identify(unbound, "address")
        for refused in (other_audience, f"{header}.{payload}.AAAA", f"{header}.{payload}."):
            with pytest.raises(RefusedTokenError):
                await authenticator.identify(refused, "address")

    operate(identify)


def test_the_service_publishes_its_authority_and_its_address(namespace, operate):
    address = ProgressAddress(
        namespace=namespace, service="progress", pod_address="10.1.2.3", host="127.0.0.1", port=0
    )

    async def serve(client):
        endpoint = ProgressEndpoint(
            store=ProgressStore(),
            directory=PlayedDirectory(),
            authenticator=Authenticator(client, time.time, lambda result: None),
            is_leading=lambda: True,
            observe=lambda protocol, outcome, seconds: None,
        )
        first = ProgressService(address, endpoint, client, client, clock=time.time)
        second = ProgressService(address, endpoint, client, client, clock=time.time)
        await asyncio.gather(first.start(), second.start())
        for leader in (first, second):
            await leader.lead()
            await leader.refresh()
        await second.bundle.ensure("default")
        ports = [service.server.port for service in (first, second)]
        await asyncio.gather(first.stop(), second.stop())
        published = await client.get(CONFIG_MAPS, "default", address.ca_config_map)
        slices = await client.get(ENDPOINT_SLICES, namespace, "progress-leader")
        return published["data"][BUNDLE_KEY], (first, second), slices, ports

    bundle, services, slices, ports = operate(serve)
    assert all(service.certificate.authority_pem in bundle for service in services)
    assert [endpoint["addresses"] for endpoint in slices["endpoints"]] == [["10.1.2.3"]]
    assert [port["port"] for port in slices["ports"]] == ports[1:]
