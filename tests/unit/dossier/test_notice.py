from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dossier.rules.notice import (
    Addressee,
    Fate,
    News,
    Notice,
    NoticeId,
    NoticeWish,
    letter_parameters,
    merge,
    notice_id_of,
    place,
)
from services.dossier.rules.procedure import Name, State
from tests.fakes.dossier import NOON

QUEUED = Notice(NoticeId("n"), NOON, Fate.QUEUED, NOON)
SECOND = timedelta(seconds=1)

instants = st.datetimes(
    min_value=datetime(2026, 11, 20),  # noqa: DTZ001 - Hypothesis adds the zone
    max_value=datetime(2026, 11, 30),  # noqa: DTZ001 - Hypothesis adds the zone
    timezones=st.just(UTC),
)
news = st.builds(News, st.sampled_from(list(Fate)), instants, instants, st.booleans())


def _merged(*heard: News) -> Notice:
    notice = QUEUED
    for one in heard:
        notice = merge(notice, one)
    return notice


def _news(fate: Fate, seconds: float = 1, *, is_hearsay: bool = False) -> News:
    at = NOON + seconds * SECOND
    return News(fate, at, at, is_hearsay)


@given(st.lists(news, max_size=8).flatmap(lambda heard: st.tuples(st.just(heard), st.permutations(heard))))
def test_the_order_of_the_news_does_not_matter(both: tuple[list[News], list[News]]) -> None:
    told, shuffled = both

    assert _merged(*told) == _merged(*shuffled)


@given(st.lists(news, max_size=8))
def test_hearing_everything_twice_changes_nothing(heard: list[News]) -> None:
    assert _merged(*heard, *heard) == _merged(*heard)


@given(st.lists(news, max_size=8), news)
def test_a_fate_never_goes_back(heard: list[News], late: News) -> None:
    before = _merged(*heard)

    after = merge(before, late)

    assert (place(after), after.at) >= (place(before), before.at)


@given(st.lists(news, min_size=1, max_size=8))
def test_no_time_is_before_the_wish(heard: list[News]) -> None:
    assert _merged(*heard).at >= QUEUED.asked_at


def test_a_delivery_that_overtakes_its_hand_over_stays() -> None:
    assert _merged(_news(Fate.DELIVERED, 5), _news(Fate.HANDED_OVER, 3)).fate is Fate.DELIVERED


def test_a_bounce_after_a_delivery_to_the_next_hop_is_believed() -> None:
    assert _merged(_news(Fate.DELIVERED), _news(Fate.BOUNCED)).fate is Fate.BOUNCED


def test_a_letter_that_went_out_was_not_dropped() -> None:
    assert _merged(_news(Fate.DROPPED, 9), _news(Fate.HANDED_OVER, 1)).fate is Fate.HANDED_OVER


def test_a_letter_that_went_out_by_another_route_was_not_refused() -> None:
    assert _merged(_news(Fate.HANDED_OVER, 1), _news(Fate.REFUSED, 9)).fate is Fate.HANDED_OVER


def test_of_two_deferrals_the_later_is_kept() -> None:
    assert _merged(_news(Fate.DEFERRED, 9), _news(Fate.DEFERRED, 3)).at == NOON + 9 * SECOND


def test_a_foreign_clock_that_runs_ahead_is_held_at_the_event() -> None:
    ahead = News(Fate.DELIVERED, at=NOON + timedelta(days=1), heard_at=NOON + SECOND)

    assert merge(QUEUED, ahead).at == NOON + SECOND


def test_a_foreign_clock_that_runs_behind_is_held_at_the_wish() -> None:
    behind = News(Fate.DELIVERED, at=NOON - timedelta(days=1), heard_at=NOON + SECOND)

    assert merge(QUEUED, behind).at == NOON


def test_a_notice_id_is_a_uuid_of_dossier_and_version() -> None:
    dossier_id = "6f6e1f4e-4c3b-4b8e-9d0a-0c4b5f0f7d11"

    notice_id = notice_id_of(dossier_id, 2)

    assert uuid.UUID(notice_id).version == 5
    assert notice_id == notice_id_of(dossier_id, 2)
    assert notice_id != notice_id_of(dossier_id, 3)
    assert notice_id != notice_id_of(str(uuid.uuid4()), 2)


def test_a_letter_says_number_procedure_state_remark_and_time() -> None:
    at = datetime(2026, 11, 25, 15, 30, 0, 999_999, tzinfo=timezone(timedelta(hours=7)))

    said = letter_parameters("K01-261125-7F3K2M", Name("Sổ", "Book"), State.PAPERS_NEEDED, "Thiếu CCCD", at)

    assert said == {
        "dossier_number": "K01-261125-7F3K2M",
        "procedure_vi": "Sổ",
        "procedure_en": "Book",
        "state_vi": "Yêu cầu bổ sung giấy tờ",
        "state_en": "More papers are needed",
        "remark": "Thiếu CCCD",
        "at": "2026-11-25T08:30:00Z",
    }


def test_a_letter_is_worth_sending_for_two_days() -> None:
    wish = NoticeWish(NoticeId("n"), "dossier-opened", {}, NOON)

    assert wish.deadline == NOON + timedelta(hours=48)


def test_printing_an_addressee_or_a_wish_shows_nothing_personal() -> None:
    addressee = Addressee("lan@example.vn", "Lan", "vi")
    wish = NoticeWish(NoticeId("n"), "dossier-opened", {"remark": "Lan"}, NOON)

    assert "lan" not in f"{addressee!r} {wish!r}".lower()


@pytest.mark.parametrize("said", [Fate.DELIVERED, Fate.BOUNCED])
@pytest.mark.parametrize("trusted", [Fate.DELIVERED, Fate.BOUNCED])
def test_what_a_dsn_says_of_the_end_never_outranks_who_is_trusted(said: Fate, trusted: Fate) -> None:
    heard = [_news(trusted, 2), _news(said, 9, is_hearsay=True)]

    for order in (heard, heard[::-1]):
        merged = _merged(_news(Fate.HANDED_OVER), *order)
        assert (merged.fate, merged.at, merged.is_hearsay) == (trusted, NOON + 2 * SECOND, False)


@pytest.mark.parametrize("said", [Fate.DELIVERED, Fate.BOUNCED])
def test_what_a_dsn_says_of_the_end_is_shown_while_nobody_else_knows_it(said: Fate) -> None:
    merged = _merged(_news(said, 9, is_hearsay=True), _news(Fate.HANDED_OVER, 1))

    assert (merged.fate, merged.is_hearsay) == (said, True)
