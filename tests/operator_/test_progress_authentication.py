"""How often the API server is asked about tokens, and what is remembered."""

import asyncio

import pytest

from tests.support.progress_endpoint import PlayedReviewer, review_status, token_of
from trainyard_operator import authentication
from trainyard_operator.authentication import (
    Authenticator,
    PodIdentity,
    RefusedTokenError,
    ReviewUnavailableError,
    TooManyRefusalsError,
    pod_of,
    token_expiry,
)
from trainyard_operator.post_limits import RateLimiter


class Clock:
    def __init__(self):
        import time

        self.now = time.time()

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def reviewer():
    return PlayedReviewer()


def authenticator(reviewer, clock):
    return Authenticator(reviewer, clock, lambda result: None)


def known(reviewer, pod, **claims):
    token = token_of(pod, **claims)
    reviewer.known[token] = review_status("team", pod)
    return token


def test_a_good_verdict_is_kept_for_a_minute(reviewer, clock):
    token = known(reviewer, "pod-0")
    asked = authenticator(reviewer, clock)
    expected = PodIdentity("team", "pod-0", "uid-of-pod-0")
    assert asyncio.run(asked.identify(token, "a")) == expected
    clock.now += 59
    assert asyncio.run(asked.identify(token, "a")) == expected
    assert reviewer.num_reviews == 1
    clock.now += 2
    asyncio.run(asked.identify(token, "a"))
    assert reviewer.num_reviews == 2


def test_a_good_verdict_ends_with_the_token(reviewer, clock):
    token = known(reviewer, "pod-0", expires_in=30)
    asked = authenticator(reviewer, clock)
    asyncio.run(asked.identify(token, "a"))
    clock.now += 31
    with pytest.raises(RefusedTokenError):
        asyncio.run(asked.identify(token, "a"))
    assert reviewer.num_reviews == 1


def test_a_bad_verdict_is_kept_for_ten_seconds(reviewer, clock):
    token = token_of("pod-0")
    asked = authenticator(reviewer, clock)
    for _ in range(3):
        with pytest.raises(RefusedTokenError):
            asyncio.run(asked.identify(token, "a"))
    assert reviewer.num_reviews == 1
    reviewer.known[token] = review_status("team", "pod-0")
    clock.now += 11
    assert asyncio.run(asked.identify(token, "a")).pod_name == "pod-0"


def test_a_failed_review_is_not_remembered(reviewer, clock):
    token = known(reviewer, "pod-0")
    asked = authenticator(reviewer, clock)
    reviewer.is_down = True
    with pytest.raises(ReviewUnavailableError):
        asyncio.run(asked.identify(token, "a"))
    reviewer.is_down = False
    assert asyncio.run(asked.identify(token, "a")).pod_name == "pod-0"


def test_posts_with_one_token_share_a_review(reviewer, clock):
    token = known(reviewer, "pod-0")
    asked = authenticator(reviewer, clock)

    async def many():
        return await asyncio.gather(*(asked.identify(token, "a") for _ in range(50)))

    assert len(asyncio.run(many())) == 50
    assert reviewer.num_reviews == 1


def test_a_client_that_hangs_up_does_not_cancel_the_review_for_others(reviewer, clock):
    token = known(reviewer, "pod-0")
    asked = authenticator(reviewer, clock)

    async def one_hangs_up():
        first = asyncio.create_task(asked.identify(token, "a"))
        second = asyncio.create_task(asked.identify(token, "a"))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert asyncio.run(one_hangs_up()).pod_name == "pod-0"
    assert reviewer.num_reviews == 1


class SlowReviewer(PlayedReviewer):
    """Answers only once it is let; counts how many ask at the same time."""

    def __init__(self):
        super().__init__()
        self.gate = asyncio.Event()
        self.at_once = 0

    async def review_token(self, token, audience):
        self.at_once += 1
        await self.gate.wait()
        return await super().review_token(token, audience)


def test_reviews_at_the_same_time_and_waiting_ones_are_bounded(clock, monkeypatch):
    monkeypatch.setattr(authentication, "MAXIMUM_WAITING", 20)

    async def flood():
        slow = SlowReviewer()
        asked = authenticator(slow, clock)
        tokens = [known(slow, f"pod-{number}") for number in range(25)]
        posts = [asyncio.create_task(asked.identify(token, token)) for token in tokens]
        for _ in range(5):
            await asyncio.sleep(0)
        at_once = slow.at_once
        slow.gate.set()
        results = await asyncio.gather(*posts, return_exceptions=True)
        return at_once, results

    at_once, results = asyncio.run(flood())
    assert at_once == authentication.MAXIMUM_REVIEWS
    refused = [result for result in results if isinstance(result, ReviewUnavailableError)]
    assert len(refused) == 5
    assert sum(isinstance(result, PodIdentity) for result in results) == 20


def test_the_number_of_remembered_verdicts_is_bounded(reviewer, clock, monkeypatch):
    monkeypatch.setattr(authentication, "MAXIMUM_VERDICTS", 3)
    asked = authenticator(reviewer, clock)
    tokens = [known(reviewer, f"pod-{number}") for number in range(4)]
    for token in [*tokens, tokens[3], tokens[0]]:
        asyncio.run(asked.identify(token, "a"))
    assert reviewer.num_reviews == 5


def test_bad_tokens_slow_down_only_their_own_address(reviewer, clock):
    asked = authenticator(reviewer, clock)
    for number in range(authentication.REFUSALS_BURST):
        with pytest.raises(RefusedTokenError):
            asyncio.run(asked.identify(token_of(f"guess-{number}"), "attacker"))
    with pytest.raises(TooManyRefusalsError) as raised:
        asyncio.run(asked.identify(known(reviewer, "pod-0"), "attacker"))
    assert 0 < raised.value.seconds <= 1
    assert asyncio.run(asked.identify(known(reviewer, "pod-0"), "honest")).pod_name == "pod-0"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a.b",
        "a.b.c",
        "a.e30.c",
        "a.bnVsbA.c",
        "a.W10.c",
        "a.eyJhdWQiOjEsImV4cCI6MX0.c",
        "\u00e9.\u00e9.\u00e9",
    ],
)
def test_what_is_no_token_for_us_has_no_expiry(token):
    assert token_expiry(token, "x") is None


def test_an_audience_may_be_a_text_or_a_list():
    assert token_expiry("a.eyJhdWQiOiJ4IiwiZXhwIjo1fQ.c", "x") == 5.0
    assert token_expiry("a.eyJhdWQiOlsieSIsIngiXSwiZXhwIjo1fQ.c", "x") == 5.0


@pytest.mark.parametrize(
    "user",
    [
        {},
        {"username": "system:serviceaccount:team:default"},
        {"username": "system:serviceaccount:team:default", "extra": None},
        {**review_status("team", "p")["user"], "username": "system:serviceaccount:team"},
        {**review_status("team", "p")["user"], "username": "alice"},
    ],
)
def test_a_user_without_a_pod_is_no_pod(user):
    assert pod_of(user) is None


def test_a_bucket_gives_its_burst_and_then_its_rate():
    limiter = RateLimiter(rate_per_second=2.0, burst=3)
    assert [limiter.take("a", 0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert limiter.take("b", 0.0) == 0.0
    assert limiter.take("a", 0.25) == pytest.approx(0.25)
    assert limiter.take("a", 0.5) == 0.0
    assert [limiter.take("a", 100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_a_clock_that_goes_back_gives_no_tokens():
    limiter = RateLimiter(rate_per_second=1.0, burst=1)
    assert limiter.take("a", 100.0) == 0.0
    assert limiter.take("a", 50.0) == 1.0


def test_a_limiter_forgets_keys_that_were_not_seen_for_long():
    limiter = RateLimiter(rate_per_second=1.0, burst=1, maximum_keys=2)
    for key in ("a", "b", "c"):
        assert limiter.take(key, 0.0) == 0.0
    assert limiter.take("a", 0.0) == 0.0
    assert limiter.take("c", 0.0) > 0.0
