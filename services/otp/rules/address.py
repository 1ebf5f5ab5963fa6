"""Which mailbox an address leads to, and which network an IP address is of: for limits only, never for sending.

One mailbox has many spellings, and each would have limits of its own. What follows a `+` is a tag at so many providers,
company domains that they host included, that it is left out everywhere: two people whose mailboxes differ in it share
limits, and nothing else. Dots and other tags are left out only where the policy says that the provider does so.

An IPv6 network of a home or an office has 64 bits and all its addresses; of IPv4 people have one, often shared.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

IPV6_PREFIX = 64  # RFC 4291 §2.5.1, RFC 6177: who has one address has this many


@dataclass(frozen=True, slots=True)
class Folding:
    """How a provider spells a mailbox."""

    domain: str
    """The first of its domains, which stands for all of them."""
    ignores_dots: bool
    tag: str
    """What begins a tag, besides `+`; empty when nothing does."""


def mailbox_of(address: str, foldings: Mapping[str, Folding]) -> str:
    """Return the mailbox of an address with an ASCII domain, in one spelling.

    Case is folded: hardly any mail server tells mailboxes apart by it (RFC 5321 §2.4 lets it).
    """
    local, _, domain = address.casefold().rpartition("@")
    folding = foldings.get(domain)
    name = _untagged(local, "+")
    if folding is not None:
        name = _untagged(name, folding.tag)
        if folding.ignores_dots:
            name = name.replace(".", "") or name
        domain = folding.domain
    return f"{name}@{domain}"


def network_of(ip: str) -> str:
    """Return the network that an IP address is of: IPv4 itself, also where IPv6 only wraps it; else IPv6 by /64.

    Raises:
        ValueError: it is no IP address.
    """
    address = ipaddress.ip_address(ip)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.IPv6Network((int(address), IPV6_PREFIX), strict=False))  # without a zone (RFC 4007)
        address = address.ipv4_mapped
    return str(address)


def _untagged(local: str, mark: str) -> str:
    """Return a local part up to the mark of its tag; one that begins with the mark is no tag."""
    return (local.partition(mark)[0] or local) if mark else local
