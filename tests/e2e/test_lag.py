"""Whoever looks at lagwatch sees letters wait, in messages and in seconds, on both lanes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deploy.dev.inbox.client import InboxClient
from tests.conditions import wait_until
from tests.e2e.mailbox import mail_to
from tests.e2e.metrics_page import page_of, total
from tests.e2e.portal import Citizen, Portal
from tests.e2e.stacks import Running

SEEN_WITHIN_S = 60.0  # lagwatch looks every two seconds
LANES: dict[str, Callable[[Portal, Citizen], object]] = {
    "mailer-otp": Portal.request,
    "mailer-notice": Portal.open_dossier,
}


@pytest.mark.parametrize("group", LANES)
def test_a_letter_that_waits_is_seen_and_so_is_its_age(
    peaceful: Running, portal: Portal, inbox: InboxClient, group: str
) -> None:
    def seen(metric: str) -> float:
        return total(page_of(peaceful.stack.address("lagwatch.http")), metric, group=group)

    citizen = Citizen("lan")
    inbox.set_behaviour({"stage": "rcpt", "action": "reply", "to": citizen.email, "code": 450})
    LANES[group](portal, citizen)

    wait_until(lambda: seen("lagwatch_group_lag_messages") == 1, within_s=SEEN_WITHIN_S, what="one letter waits")
    wait_until(lambda: seen("lagwatch_group_lag_seconds") >= 1, within_s=SEEN_WITHIN_S, what="it has waited a second")
    inbox.set_behaviour()
    mail_to(inbox, citizen.email)

    wait_until(lambda: seen("lagwatch_group_lag_messages") == 0, within_s=SEEN_WITHIN_S, what="nothing waits")
    wait_until(lambda: seen("lagwatch_group_lag_seconds") == 0, within_s=SEEN_WITHIN_S, what="nothing has waited")
