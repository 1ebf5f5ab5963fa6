"""No dump of Redis or Kafka, no log, metric, process list or refusal holds a code, an address, a text or a token."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Any

import grpc
import pytest
import redis
from kafka import KafkaProducer
from kip.dossier.v1.dossier_service_pb2 import DOSSIER_STATE_ACCEPTED

from deploy.dev.inbox.client import InboxClient
from tests.conditions import wait_until
from tests.e2e.dumps import everything, places_of, ways_to_write
from tests.e2e.mailbox import ARRIVES_WITHIN_S, code_in, mail_to
from tests.e2e.portal import Citizen, Portal
from tests.e2e.stacks import LONG_CODES, Running

CITIZENS = 24
FLOWS = 200
HANDS = 4
SEED = 20261127  # the flows are random, and the same each time
DEAD_LETTERS = "otp.code-requested.v1.dead"

pytestmark = pytest.mark.timeout(300)


@dataclass
class Known:
    """What only the citizens, the callers and the key files may know; and what everybody may, to test the search."""

    secrets: dict[str, list[bytes]] = field(default_factory=dict)
    public_ids: list[str] = field(default_factory=list)
    refusals: list[bytes] = field(default_factory=list)
    """All that callers who were refused were told, in words and in details."""

    def add(self, what: str, *texts: str) -> None:
        """Remember texts that must not be found."""
        self.secrets.setdefault(what, []).extend(way for text in texts for way in ways_to_write(text))

    def add_handle(self, handle: str) -> None:
        """Remember the secret part of a handle, as it is written and as the octets that it stands for."""
        challenge_id, _, secret = handle.partition(".")
        self.public_ids.append(challenge_id)
        self.add("secret of a handle", secret)
        self.secrets["secret of a handle"].append(bytes.fromhex(secret))

    def add_refusal(self, error: Any) -> None:
        """Remember what a caller was told; gRPC's own class of the error says not what it has."""
        self.refusals.append(error.details().encode())
        self.refusals += [part if isinstance(part, bytes) else part.encode() for _, part in error.trailing_metadata()]


@pytest.fixture(scope="module")
def known(peaceful: Running) -> Iterator[Known]:
    """A few dozen stories of all kinds, told once; everything about them is written down when this returns."""
    known = Known()
    with peaceful.portal() as portal:
        for number in range(CITIZENS):
            tell_a_code(known, portal, peaceful.inbox, spoil=number % 4)
        for _ in range(4):
            tell_a_dossier(known, portal, peaceful.inbox)
        peaceful.inbox.set_behaviour()
        with ThreadPoolExecutor(HANDS) as hands:
            list(
                hands.map(
                    lambda number: tell_a_random_flow(known, portal, peaceful.inbox, Random(SEED + number)),
                    range(FLOWS),
                )
            )
    tell_of_strangers(known, peaceful)
    known.add("token", *peaceful.tokens, peaceful.operator_token)
    for ring in (peaceful.stack.directory / "secrets").glob("*-keys.json"):
        for key in json.loads(ring.read_text())["keys"]:
            known.add("key", key["secret"])
            known.secrets["key"].append(base64.b64decode(key["secret"]))
    yield known
    peaceful.inbox.set_behaviour()


def tell_a_code(known: Known, portal: Portal, inbox: InboxClient, *, spoil: int) -> None:
    """Let a citizen get a code over a relay with manners of its own, mistype it, and type it."""
    citizen = Citizen("lan", context="Xác nhận hồ sơ của ")
    context = citizen.context + citizen.mark
    rude = f"no <{citizen.email}> here, says {context}"  # relays like to quote what they were told
    behaviours: list[dict[str, object]] = [
        {"stage": "mail", "action": "reply", "code": 421, "text": "5.1.1 busy"},
        {"stage": "rcpt", "action": "reply", "code": 450, "text": rude.encode("ascii", "replace").decode()},
        {"stage": "data", "action": "cut"},
        {"stage": "reply", "action": "cut", "store": True},
    ]
    inbox.set_behaviour(behaviours[spoil] | {"times": 1})
    handle = portal.request(citizen, purpose=LONG_CODES, context=context).handle
    code = code_in(mail_to(inbox, citizen.email))
    assert portal.outcome(handle, code[:-1]) == "wrong"
    portal.wait_for_fate(handle, "HANDED_OVER")
    assert portal.outcome(handle, code) == "accepted"
    known.add("code", code)
    known.add("address", citizen.email)
    known.add("context", context)
    known.add_handle(handle)


def tell_a_random_flow(known: Known, portal: Portal, inbox: InboxClient, chance: Random) -> None:
    """Let a citizen and a portal do what people do, in any order: press again, watch, mistype, type, give up."""
    citizen = Citizen("hoa")
    context = f"Việc riêng {citizen.mark}"
    wish: dict[str, Any] = {"purpose": LONG_CODES, "context": context, "decoy": chance.random() < 0.1}
    handles = [portal.request(citizen, **wish).handle]
    known.add("address", citizen.email)
    known.add("context", context)
    steps: list[Callable[[], object]] = [
        lambda: handles.append(portal.request(citizen, **wish).handle),
        lambda: portal.resend(chance.choice(handles)),
        lambda: next(portal.watch(chance.choice(handles)), None),
        lambda: portal.verify(chance.choice(handles), str(chance.randrange(10**9, 10**10)), key=citizen.mark),
        lambda: portal.verify(chance.choice(handles), "not a code"),
        lambda: portal.look(chance.choice(handles)),
        lambda: portal.cancel(chance.choice(handles)),
        lambda: portal.unlock(citizen),
        lambda: portal.request(citizen, key=handles[0], **wish),  # a secret where a key should be
    ]
    for step in chance.choices(steps, k=5):
        try:
            step()
        except grpc.RpcError as error:
            known.add_refusal(error)
    for handle in set(handles):
        known.add_handle(handle)
    for mail in inbox.messages(to=citizen.email):
        code = code_in(inbox.mail(mail.id))
        known.add("code", code)
        portal.outcome(handles[0], code)


def tell_a_dossier(known: Known, portal: Portal, inbox: InboxClient) -> None:
    """Let a dossier move once and be told of twice."""
    citizen = Citizen("minh")
    name, remark = f"Nguyễn Thị {citizen.mark}", f"Thiếu giấy tờ {citizen.mark}"
    opened = portal.open_dossier(citizen, name=name)
    portal.advance(opened, DOSSIER_STATE_ACCEPTED, remark=remark)
    wait_until(lambda: len(inbox.messages(to=citizen.email)) == 2, within_s=ARRIVES_WITHIN_S, what="two notices")
    known.add("address", citizen.email)
    known.add("name", name)
    known.add("remark", remark)


def tell_of_strangers(known: Known, peaceful: Running) -> None:
    """Let callers be refused in every way: what they sent is no less private."""
    citizen, token = Citizen("lan"), "a-token-that-nobody-has-given-out"
    with peaceful.portal() as portal, peaceful.portal(token) as stranger:
        calls: list[Callable[[], object]] = [
            lambda: stranger.request(citizen),
            lambda: portal.request(citizen, purpose="unheard-of"),
            lambda: portal.request(citizen, email=f"{citizen.email} and more"),
            lambda: portal.request(citizen, context=f"two\nlines of {citizen.mark}"),
            lambda: portal.open_dossier(citizen, procedure="unheard-of"),
        ]
        for call in calls:
            with pytest.raises(grpc.RpcError) as refusal:
                call()
            known.add_refusal(refusal.value)
    known.add("address", citizen.email)
    known.add("context", citizen.mark)
    known.add("token", token)


def test_nothing_secret_is_anywhere(peaceful: Running, known: Known) -> None:
    haystacks = everything(peaceful) | {"refusals": b"\n".join(known.refusals)}

    found = {what: places_of(needles, haystacks) for what, needles in known.secrets.items()}

    assert {what: places for what, places in found.items() if places} == {}
    assert len(known.secrets) == 8


def test_the_search_finds_what_may_be_found(peaceful: Running, known: Known) -> None:
    haystacks = everything(peaceful) | {"refusals": b"\n".join(known.refusals)}

    unseen = [each for each in known.public_ids if not {"redis", "kafka"} <= places_of([each.encode()], haystacks)]

    assert len(known.public_ids) >= CITIZENS + FLOWS
    assert unseen == []
    assert places_of([b"serving"], haystacks) >= {"log of otp", "log of mailer"}
    assert places_of([b"otp_requests_total"], haystacks) == {"metrics of otp"}
    assert places_of([b"services.mailer"], haystacks) >= {"process mailer"}
    assert "refusals" in places_of([b"unheard-of"], haystacks)


def test_the_search_finds_what_is_planted(peaceful: Running, known: Known) -> None:
    needles, stack = [ways[0] for ways in known.secrets.values()], peaceful.stack
    planted = b"before " + b" between ".join(needles) + b" after"
    with redis.Redis.from_url(f"redis://{stack.address('redis')}/0") as client:
        client.hset("planted", "d", planted)
    producer = KafkaProducer(bootstrap_servers=[stack.address("kafka")])
    producer.send(DEAD_LETTERS, value=b"v", headers=[("planted", planted)]).get(timeout=20)
    producer.close()

    haystacks = everything(peaceful)
    haystacks["log of otp"] += planted
    found = {what: places_of(ways, haystacks) for what, ways in known.secrets.items()}

    with redis.Redis.from_url(f"redis://{stack.address('redis')}/0") as client:
        client.delete("planted")
    assert found == {what: {"redis", "kafka", "log of otp"} for what in known.secrets}
