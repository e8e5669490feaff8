"""Certificates that OpenSSL accepts, their renewal, and how pods learn whom to trust."""

import asyncio
import socket
import ssl
import threading
import time
from contextlib import nullcontext

import pytest
from cryptography import x509

from tests.support.config_maps import PlayedConfigMaps
from trainyard_operator import certificate_bundle
from trainyard_operator.certificate_bundle import BUNDLE_KEY, BundlePublisher, merged_bundle
from trainyard_operator.certificates import (
    AUTHORITY_VALIDITY,
    SERVING_VALIDITY,
    CertificateFiles,
    ServingCertificate,
    create_authority,
    issue,
)
from trainyard_operator.errors import ForbiddenError, NotFoundError

DAY = 86_400.0


class Clock:
    def __init__(self):
        self.now = time.time()

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def handshake(server_context, bundle, name):
    """The certificate that a strict client got from the server, as DER."""
    client = ssl.create_default_context(cadata=bundle)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    left, right = socket.socketpair()

    def serve():
        try:
            server_context.wrap_socket(left, server_side=True).close()
        except OSError:
            left.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(right, server_hostname=name) as connection:
            return connection.getpeercert(binary_form=True)
    finally:
        thread.join()
        left.close()
        right.close()


@pytest.mark.parametrize("name", ["operator.trainyard.svc", "10.0.0.7", "fd00::7"])
def test_a_strict_client_accepts_the_certificate_under_each_of_its_names(clock, name):
    certificate = ServingCertificate(["operator.trainyard.svc", "10.0.0.7", "fd00::7"], clock)
    assert handshake(certificate.context, certificate.authority_pem, name)


def test_a_client_refuses_another_name_and_another_authority(clock):
    certificate = ServingCertificate(["operator.trainyard.svc"], clock)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(certificate.context, certificate.authority_pem, "evil.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(certificate.context, create_authority(clock()).pem, "operator.trainyard.svc")


def test_a_client_finds_the_right_authority_among_those_of_several_replicas(clock):
    replicas = [ServingCertificate(["operator"], clock) for _ in range(3)]
    bundle = ""
    for replica in replicas:
        bundle = merged_bundle(bundle, replica.authority_pem, clock())
    for replica in replicas:
        assert handshake(replica.context, bundle, "operator")


def test_a_certificate_cannot_sign_others_and_an_authority_signs_no_authorities(clock):
    authority = create_authority(clock())
    pem, key, _ = issue(authority, ["operator"], clock())
    basic = x509.load_pem_x509_certificate(pem.encode()).extensions.get_extension_for_class(
        x509.BasicConstraints
    )
    of_authority = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca) == (True, False)
    assert (of_authority.value.ca, of_authority.value.path_length) == (True, 0)
    assert "PRIVATE KEY" in key
    assert "PRIVATE KEY" not in pem + authority.pem


def test_the_certificate_is_renewed_in_the_second_half_of_its_life_under_the_same_authority(clock):
    clock.now -= SERVING_VALIDITY.total_seconds() * 0.6  # a client looks at the real clock
    certificate = ServingCertificate(["operator"], clock)
    before = handshake(certificate.context, certificate.authority_pem, "operator")
    authority, context, expiry = certificate.authority_pem, certificate.context, certificate.expires_at
    clock.now += SERVING_VALIDITY.total_seconds() * 0.49
    assert certificate.refresh() is False
    clock.now += SERVING_VALIDITY.total_seconds() * 0.02
    assert certificate.refresh() is True
    assert certificate.expires_at > expiry
    assert (certificate.authority_pem, certificate.context) == (authority, context)
    assert handshake(certificate.context, authority, "operator") != before
    assert certificate.refresh() is False


def test_certificates_are_valid_for_clients_whose_clock_is_behind(clock):
    authority = create_authority(clock())
    assert authority.certificate.not_valid_before_utc.timestamp() <= clock() - 3599
    assert authority.certificate.not_valid_after_utc.timestamp() >= clock() + 4 * 365 * DAY
    assert AUTHORITY_VALIDITY > 20 * SERVING_VALIDITY


def files_with(folder, authority, clock):
    pem, key, _ = issue(authority, ["operator"], clock())
    files = CertificateFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
    files.certificate.write_text(pem)
    files.key.write_text(key)
    files.authority.write_text(authority.pem)
    return files


def test_files_that_others_keep_are_used_and_loaded_again_when_they_change(tmp_path, clock):
    first, second = create_authority(clock()), create_authority(clock())
    files = files_with(tmp_path, first, clock)
    certificate = ServingCertificate(["operator"], clock, files)
    assert certificate.is_own is False
    assert handshake(certificate.context, first.pem, "operator")
    assert certificate.refresh() is False
    files_with(tmp_path, second, clock)
    assert certificate.refresh() is True
    assert certificate.authority_pem == second.pem
    assert handshake(certificate.context, second.pem, "operator")


def test_files_that_are_no_certificate_are_refused_at_the_start(tmp_path, clock):
    files = files_with(tmp_path, create_authority(clock()), clock)
    files.key.write_text("no key")
    with pytest.raises(ssl.SSLError):
        ServingCertificate(["operator"], clock, files)


def pems(number, clock):
    made = []
    for _ in range(number):
        made.append(create_authority(clock()).pem)
        clock.now += 60
    return made


def names_in(bundle):
    return {certificate.subject for certificate in x509.load_pem_x509_certificates(bundle.encode())}


def test_a_bundle_keeps_the_newest_authorities_and_always_the_own_one(clock):
    own, *others = pems(12, clock)
    bundle = ""
    for pem in others:
        bundle = merged_bundle(bundle, pem, clock())
    bundle = merged_bundle(bundle, own, clock())
    kept = [own, *others[-(certificate_bundle.MAXIMUM_AUTHORITIES - 1) :]]
    assert names_in(bundle) == names_in("".join(kept))


def test_merging_again_changes_nothing(clock):
    first, second = pems(2, clock)
    bundle = merged_bundle(merged_bundle("", first, clock()), second, clock())
    assert merged_bundle(bundle, first, clock()) == merged_bundle(bundle, second, clock()) == bundle


def test_authorities_that_have_ended_leave_the_bundle(clock):
    (old,) = pems(1, clock)
    clock.now += AUTHORITY_VALIDITY.total_seconds()
    (new,) = pems(1, clock)
    assert names_in(merged_bundle(old, new, clock())) == names_in(new)


def test_a_spoilt_bundle_is_written_anew(clock, caplog):
    (own,) = pems(1, clock)
    assert merged_bundle("-----BEGIN CERTIFICATE-----\nx\n", own, clock()) == own
    assert "unreadable" in caplog.text


@pytest.fixture
def config_maps():
    return PlayedConfigMaps()


def publisher(config_maps, clock):
    return BundlePublisher(config_maps, config_maps, namespace="operators", name="trust", clock=clock)


def test_every_replica_adds_its_authority_once(config_maps, clock):
    first, second = pems(2, clock)
    for _ in range(3):
        for pem in (first, second):
            asyncio.run(publisher(config_maps, clock).publish(pem))
    assert names_in(config_maps.bundle("operators")) == names_in(first + second)
    assert config_maps.writes == ["operators", "operators"]


def test_two_replicas_that_start_together_both_get_in(config_maps, clock):
    first, second = pems(2, clock)
    other = publisher(config_maps, clock)
    run_beside(config_maps, other, second)
    asyncio.run(publisher(config_maps, clock).publish(first))
    assert names_in(config_maps.bundle("operators")) == names_in(first + second)


def run_beside(config_maps, other, pem):
    """Let another replica publish, in a thread with a loop of its own, right before the next write."""

    def publish():
        thread = threading.Thread(target=lambda: asyncio.run(other.publish(pem)))
        thread.start()
        thread.join()

    config_maps.interfere = publish


def test_an_update_that_another_replica_makes_meanwhile_is_not_lost(config_maps, clock):
    first, second, third = pems(3, clock)
    asyncio.run(publisher(config_maps, clock).publish(first))
    run_beside(config_maps, publisher(config_maps, clock), second)
    asyncio.run(publisher(config_maps, clock).publish(third))
    assert names_in(config_maps.bundle("operators")) == names_in(first + second + third)


def test_a_namespace_gets_the_bundle_once_and_again_when_it_changes(config_maps, clock):
    first, second = pems(2, clock)
    leader = publisher(config_maps, clock)

    async def lead():
        await leader.publish(first)
        for _ in range(3):
            await leader.ensure("team")
        reads = config_maps.num_reads
        await publisher(config_maps, clock).publish(second)
        await leader.publish(first)
        await leader.ensure_everywhere()
        return reads

    assert asyncio.run(lead()) == 2
    assert config_maps.writes == ["operators", "team", "operators", "team"]
    assert config_maps.bundle("team") == config_maps.bundle("operators")


@pytest.mark.parametrize(
    ("refusal", "is_raised"),
    [(NotFoundError("no namespace gone"), False), (ForbiddenError("gone is being terminated"), True)],
)
def test_a_namespace_that_is_gone_keeps_the_bundle_from_no_other(config_maps, clock, refusal, is_raised):
    first, second = pems(2, clock)
    leader = publisher(config_maps, clock)
    create = config_maps.create

    async def refuse(resource, namespace, body):
        if namespace == "gone":
            raise refusal
        return await create(resource, namespace, body)

    async def lead():
        await leader.publish(first)
        for namespace in ("gone", "team"):
            await leader.ensure(namespace)
        del config_maps.objects["gone", "trust"]
        config_maps.create = refuse
        await publisher(config_maps, clock).publish(second)
        await leader.publish(first)
        with pytest.raises(ForbiddenError) if is_raised else nullcontext():
            await leader.ensure_everywhere()
        reads = config_maps.num_reads
        if not is_raised:
            clock.now += 1_000
            await leader.ensure_everywhere()
            assert config_maps.num_reads == reads + 1

    asyncio.run(lead())
    assert config_maps.bundle("team") == config_maps.bundle("operators")


def test_a_bundle_that_somebody_changed_is_restored_within_minutes(config_maps, clock):
    (pem,) = pems(1, clock)
    leader = publisher(config_maps, clock)

    async def lead():
        await leader.publish(pem)
        await leader.ensure("team")
        config_maps.objects["team", "trust"]["data"][BUNDLE_KEY] = "spoilt"
        clock.now += certificate_bundle.CHECK_SECONDS
        await leader.ensure("team")

    asyncio.run(lead())
    assert config_maps.bundle("team") == pem


def test_the_operators_namespace_may_have_runs_too(config_maps, clock):
    (pem,) = pems(1, clock)
    leader = publisher(config_maps, clock)

    async def lead():
        await leader.publish(pem)
        await leader.ensure("operators")

    asyncio.run(lead())
    assert config_maps.writes == ["operators"]


def test_the_runs_of_a_burst_bring_the_bundle_to_their_namespace_once(config_maps, clock):
    (pem,) = pems(1, clock)
    leader = publisher(config_maps, clock)

    async def lead():
        await leader.publish(pem)
        reads = config_maps.num_reads
        await asyncio.gather(*(leader.ensure("team") for _ in range(20)))
        return config_maps.num_reads - reads

    assert asyncio.run(lead()) == 1
    assert config_maps.writes == ["operators", "team"]
