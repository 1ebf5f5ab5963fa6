"""Whoever looks at lagwatch sees letters wait, in messages and in seconds: on both lanes, and in a tier."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deploy.dev.inbox.client import InboxClient
from tests.conditions import wait_until
from tests.e2e.mailbox import mail_to
from tests.e2e.metrics_page import page_of, total
from tests.e2e.portal import Citizen, Portal
from tests.e2e.stacks import Running

SEEN_WITHIN_S = 60.0  # lagwatch looks every few seconds
HELD_S = 8.0  # by a slow relay: several looks long
LANES: dict[str, Callable[[Portal, Citizen], object]] = {
    "mailer-otp": Portal.request,
    "mailer-notice": Portal.open_dossier,
}
TIERS = [f"mailer-retry-otp-{delay}" for delay in ("1s", "3s", "10s", "30s", "1m")]


def seen(running: Running, metric: str, *groups: str) -> float:
    """Add up what lagwatch shows of these groups."""
    page = page_of(running.stack.address("lagwatch.http"))
    return sum(total(page, metric, group=group) for group in groups)


@pytest.mark.parametrize("group", LANES)
def test_a_letter_that_waits_is_seen_and_so_is_its_age(
    peaceful: Running, portal: Portal, inbox: InboxClient, group: str
) -> None:
    citizen = Citizen("lan")
    slow = {"stage": "rcpt", "action": "delay", "to": citizen.email, "delay_s": HELD_S, "times": 1}
    inbox.set_behaviour(slow)
    LANES[group](portal, citizen)

    def shown(metric: str) -> float:
        return seen(peaceful, metric, group)

    wait_until(lambda: shown("lagwatch_group_lag_messages") == 1, within_s=SEEN_WITHIN_S, what="one letter waits")
    wait_until(lambda: shown("lagwatch_group_lag_seconds") >= 1, within_s=SEEN_WITHIN_S, what="it has waited a second")
    mail_to(inbox, citizen.email)

    wait_until(lambda: shown("lagwatch_group_lag_messages") == 0, within_s=SEEN_WITHIN_S, what="nothing waits")
    wait_until(lambda: shown("lagwatch_group_lag_seconds") == 0, within_s=SEEN_WITHIN_S, what="nothing has waited")


def test_a_letter_that_waits_in_a_tier_is_seen_there_and_its_lane_is_empty(
    peaceful: Running, portal: Portal, inbox: InboxClient
) -> None:
    citizen = Citizen("lan")
    inbox.set_behaviour({"stage": "rcpt", "action": "reply", "to": citizen.email, "code": 450})
    handle = portal.request(citizen).handle

    portal.wait_for_fate(handle, "DEFERRED")
    wait_until(
        lambda: seen(peaceful, "lagwatch_group_lag_messages", *TIERS) >= 1, within_s=SEEN_WITHIN_S, what="it waits"
    )
    page = page_of(peaceful.stack.address("lagwatch.http"))
    assert total(page, "lagwatch_lane_backlog_messages", lane="otp") >= 1
    assert total(page, "lagwatch_lane_age_seconds", lane="otp") > 0
    wait_until(
        lambda: seen(peaceful, "lagwatch_group_lag_messages", "mailer-otp") == 0, within_s=SEEN_WITHIN_S, what="a lane"
    )
    inbox.set_behaviour()
    portal.wait_for_fate(handle, "HANDED_OVER")

    wait_until(
        lambda: seen(peaceful, "lagwatch_group_lag_messages", *TIERS) == 0, within_s=SEEN_WITHIN_S, what="empty tiers"
    )
