"""Receipts: which of them are news, and when a relay tries again."""

from __future__ import annotations

from datetime import timedelta
from itertools import permutations

import pytest

from services.mailer.rules.receipt import MOST_TOLD, TRUST, Backoff, News, Receipt, Source, Told, news_of
from tests.fakes.clock import NOON

SECOND = timedelta(seconds=1)
LOG, DSN = Source.RELAY_LOG, Source.DSN


def receipt(told: Told, source: Source = LOG, second: int = 0) -> Receipt:
    return Receipt(told, source, NOON + second * SECOND)


def told_on(*receipts: Receipt) -> list[News]:
    """Take in receipts one after the other, as the verb does."""
    known: list[str] = []
    said = []
    for each in receipts:
        said.append(news_of(each, known))
        known += [each.key] if said[-1] is News.NEWS else []
    return said


def test_every_source_has_its_place_in_the_order_of_trust() -> None:
    assert TRUST == (LOG, DSN)
    assert set(TRUST) == set(Source)


def test_the_same_twice_is_news_once() -> None:
    assert told_on(receipt(Told.DEFERRED), receipt(Told.DEFERRED)) == [News.NEWS, News.REPEATED]
    assert told_on(receipt(Told.DEFERRED), receipt(Told.DEFERRED, second=1)) == [News.NEWS] * 2


@pytest.mark.parametrize("end", [Told.DELIVERED, Told.BOUNCED])
def test_a_deferral_after_the_end_is_no_news_whenever_it_happened(end: Told) -> None:
    for source in Source:
        late = [receipt(Told.DEFERRED, source, second) for second in (0, 9)]
        assert told_on(receipt(end, source, 5), *late) == [News.NEWS, News.OUTRANKED, News.OUTRANKED]


@pytest.mark.parametrize("end", [Told.DELIVERED, Told.BOUNCED])
@pytest.mark.parametrize("told", list(Told))
def test_a_dsn_tells_nothing_of_a_letter_whose_end_the_log_has_told(end: Told, told: Told) -> None:
    assert told_on(receipt(end, LOG), receipt(told, DSN, 5)) == [News.NEWS, News.OUTRANKED]
    assert told_on(receipt(Told.DEFERRED, LOG), receipt(told, DSN, 5)) == [News.NEWS, News.NEWS]


@pytest.mark.parametrize("told", list(Told))
def test_the_log_is_heard_whatever_a_dsn_has_said(told: Told) -> None:
    assert told_on(receipt(Told.BOUNCED, DSN), receipt(told, LOG, 5)) == [News.NEWS, News.NEWS]


def test_two_copies_may_end_in_two_ways() -> None:
    assert told_on(receipt(Told.BOUNCED), receipt(Told.DELIVERED)) == [News.NEWS, News.NEWS]


def test_in_any_order_the_most_trusted_end_is_told_on() -> None:
    heard = [receipt(Told.DEFERRED, LOG), receipt(Told.DELIVERED, LOG, 9), receipt(Told.BOUNCED, DSN, 4)]

    for order in permutations(heard):
        assert told_on(*order)[order.index(heard[1])] is News.NEWS


def test_of_one_letter_so_many_are_told_on_and_no_more() -> None:
    said = told_on(*(receipt(Told.DEFERRED, DSN, second) for second in range(MOST_TOLD + 2)))

    assert said == [News.NEWS] * MOST_TOLD + [News.TOO_MANY] * 2


@pytest.mark.parametrize(("age", "pause"), [(0, 300), (299, 300), (700, 700), (4000, 4000), (90_000, 4000)])
def test_a_relay_waits_as_long_as_the_mail_is_old_within_bounds(age: int, pause: int) -> None:
    backoff = Backoff(timedelta(seconds=300), timedelta(seconds=4000))

    assert backoff.next_try_at(NOON, age * SECOND) == NOON + pause * SECOND
