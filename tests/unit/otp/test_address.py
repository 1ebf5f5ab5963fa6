"""Mailboxes and networks, as limits know them."""

from __future__ import annotations

import pytest

from services.otp.rules.address import Folding, mailbox_of, network_of

GMAIL = Folding("gmail.com", ignores_dots=True, tag="")
YAHOO = Folding("yahoo.com", ignores_dots=False, tag="-")
FOLDINGS = {"gmail.com": GMAIL, "googlemail.com": GMAIL, "yahoo.com": YAHOO}


@pytest.mark.parametrize(
    ("address", "mailbox"),
    [
        ("lan@example.vn", "lan@example.vn"),
        ("Lan@Example.VN", "lan@example.vn"),
        ("lan+a@example.vn", "lan@example.vn"),
        ("lan+a+b@example.vn", "lan@example.vn"),
        ("l.an@example.vn", "l.an@example.vn"),
        ("lan-a@example.vn", "lan-a@example.vn"),
        ("L.a.n+x@gmail.com", "lan@gmail.com"),
        ("l.an@googlemail.com", "lan@gmail.com"),
        ("lan-a@gmail.com", "lan-a@gmail.com"),
        ("lan-a@yahoo.com", "lan@yahoo.com"),
        ("l.an-a+b@yahoo.com", "l.an@yahoo.com"),
        ("+lan@example.vn", "+lan@example.vn"),
        ("lan@xn--i-kia818t.vn", "lan@xn--i-kia818t.vn"),
        ('"a@b"@example.vn', '"a@b"@example.vn'),
    ],
)
def test_the_spellings_of_a_mailbox_are_one(address: str, mailbox: str) -> None:
    assert mailbox_of(address, FOLDINGS) == mailbox
    assert mailbox_of(mailbox, FOLDINGS) == mailbox


@pytest.mark.parametrize(
    ("ip", "network"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_ip_address_is_known_by_its_network(ip: str, network: str) -> None:
    assert network_of(ip) == network


@pytest.mark.parametrize("ip", ["", "lan", "203.0.113", "203.0.113.07", "203.0.113.7%eth0", "2001:db8::/64", "1" * 65])
def test_what_is_no_ip_address_is_refused(ip: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
        network_of(ip)
