"""Issue a code: claim the key, decide, take what a new letter costs of every limit, commit, announce.

Who joins a letter that waits takes nothing: limits are on letters. What is stored if the process dies: after the claim,
the ids, so that a repeat with the same key resumes with the same challenge; after the taking, what was taken, which the
repeat finds and takes no second time; after the commit, the challenge and the event in the outbox, so that the letter
is sent although nobody answered the caller. The answer does not depend on Kafka: the outbox is the promise, and
announcing it here only saves the sweep's delay.

Index keys roll without forgetting: claims and subjects are looked for under every key of the ring, newest first, and a
subject that is found stays where it is.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from services.chassis.errors import Kind, ServiceError, Words
from services.chassis.keyring import Key, Keyring, UnknownKey, mac, pseudonym
from services.otp.ports import (
    ANNOUNCE_WITHIN,
    COMMIT_TRIES,
    Admit,
    Announce,
    ChallengeStore,
    Claim,
    IdempotencyKeyReused,
    KeysUnknown,
    Loaded,
    Mint,
    Notes,
    Part,
    Queue,
    StoreUnavailable,
)
from services.otp.rules.announcement import announcements
from services.otp.rules.challenge import Challenge, Fresh, Handle
from services.otp.rules.handle import handle_text
from services.otp.rules.policy import Policy, Purpose
from services.otp.rules.quota import LetterAsked
from services.otp.rules.refusal import not_admitted
from services.otp.rules.request import GivenBack, Joined, Queued, Repeated, TooSoon, Wish, decide_request
from services.otp.rules.subject import Subject, subject_parts
from services.otp.rules.view import ChallengeView, seen_by


class UnknownPurpose(ServiceError):
    """The policy has no such purpose."""

    kind = Kind.INVALID
    reason = "UNKNOWN_PURPOSE"

    def __init__(self, purpose: str) -> None:
        """Name it, in metadata only."""
        super().__init__(
            Words(vi="Mục đích này không được hỗ trợ.", en="No such purpose in the policy."),
            metadata={"purpose": purpose},
        )


class QuotaExceeded(ServiceError):
    """Asked again too soon."""

    kind = Kind.EXHAUSTED
    reason = "QUOTA_EXCEEDED"

    def __init__(self, retry_after: timedelta) -> None:
        """Say when to come back."""
        seconds = max(int(retry_after.total_seconds()) + 1, 1)
        super().__init__(
            Words(
                vi=f"Thư đã hoặc đang được gửi. Vui lòng xem hộp thư (cả thư rác) và thử lại sau {seconds} giây.",
                en=f"A mail is there or on its way. Look in the mailbox, also in spam; ask again in {seconds} seconds.",
            ),
            retry_after=retry_after,
        )


@dataclass(frozen=True, slots=True)
class RequestCode:
    """A valid request; the address is syntactically right, every text within its limit."""

    caller: str
    idempotency_key: str
    purpose: str
    subject: str
    email: str
    locale: str
    """`vi`, `en` or empty for the policy's default."""
    context: str
    decoy: bool
    client: str = ""
    """The network of the citizen's device, of `network_of`; empty when the caller does not tell."""


@dataclass(frozen=True, slots=True)
class Issued:
    """The answer: a handle for the caller alone, and the challenge."""

    handle: str
    challenge: ChallengeView
    joined: bool
    outcome: str
    """For the metric: queued, joined, repeated."""


@dataclass(frozen=True, slots=True)
class _Names:
    """What a request is known by, under one index key."""

    claim: str
    subject: str
    same_wish: str
    fingerprint: bytes


class IssueCode:
    """Verb: issue a code, or join one that is on its way."""

    def __init__(
        self,
        store: ChallengeStore,
        mint: Mint,
        announce: Announce,
        queue: Queue,
        policy: Policy,
        *,
        admit: Admit,
        handle_keys: Keyring,
        index_keys: Keyring,
    ) -> None:
        """Take the ports and the rings it names things with."""
        self._store = store
        self._mint = mint
        self._admit = admit
        self._announce = announce
        self._queue = queue
        self._policy = policy
        self._handle_keys = handle_keys
        self._index_keys = index_keys

    async def __call__(self, request: RequestCode, now: datetime) -> Issued:
        """Issue; `now` is this host's time, used to choose keys only. Instants of the challenge are the store's.

        Raises:
            UnknownPurpose, IdempotencyKeyReused, QuotaExceeded, LimitReached, Overloaded: as they say.
            StoreUnavailable: nothing is known; repeat with the same key.
            KeysUnknown: a key is not rolled out here yet; repeat with the same key.
        """
        purpose = self._policy.find(request.purpose)
        if purpose is None:
            raise UnknownPurpose(request.purpose)
        try:
            return await self._issue(request, purpose, now)
        except UnknownKey as error:
            raise KeysUnknown from error

    async def _issue(self, request: RequestCode, purpose: Purpose, now: datetime) -> Issued:
        names = [_names(key, request) for key in self._index_keys.accepting(now)]
        claim, claimed_as, is_new = await self._claimed(request, names, now)
        resumed_until = None if is_new else claim.claimed_at + purpose.challenge_life
        decided, loaded = await self._decide_and_commit(
            request, purpose, claim, names, resumed_until=resumed_until, now=now
        )
        if decided.challenge.id != claim.challenge_id:
            await self._store.settle_claim(claimed_as, replace(claim, challenge_id=decided.challenge.id))
        return self._issued(request, purpose, claim, decided, loaded)

    async def _claimed(self, request: RequestCode, names: list[_Names], now: datetime) -> tuple[Claim, str, bool]:
        """Return the claim that stands, the name it stands under, and whether it was made just now."""
        for older in names[1:]:
            standing = await self._store.find_claim(older.claim)
            if standing is not None:
                _demand_same_body(standing, older)
                return standing, older.claim, False
        minted = Claim(
            fingerprint=names[0].fingerprint,
            challenge_id=self._minted_id(request),
            handle_kid=self._handle_keys.minting(now).kid,
            claimed_at=now,
        )
        claim = await self._store.claim(names[0].claim, minted)
        _demand_same_body(claim, names[0])
        return claim, names[0].claim, claim == minted

    def _minted_id(self, request: RequestCode) -> str:
        """Mint two ids, and take the one whose letter would leave earlier: partitions that are slow get fewer."""
        ids = [self._store.mint_id(request.purpose, request.subject) for _ in range(2)]
        return min(ids, key=lambda challenge_id: self._queue.load(challenge_id).told_wait)

    def _issued(
        self,
        request: RequestCode,
        purpose: Purpose,
        claim: Claim,
        decided: Queued | Joined | Repeated,
        loaded: Loaded,
    ) -> Issued:
        challenge = decided.challenge
        secret = self._secret(challenge.id, request, claim)
        place = challenge.handle_of(request.caller, hashlib.sha256(secret).digest())
        if place is None:  # the rules put the handle there
            raise AssertionError("a decided request has no handle")
        notes = loaded.notes.get(challenge.id)
        outlook = self._queue.outlook(notes.position if notes else None, loaded.now)
        return Issued(
            handle=handle_text(challenge.id, secret),
            challenge=seen_by(challenge, place, purpose, loaded.now, outlook),
            joined=challenge.handles[place].joined,
            outcome=type(decided).__name__.lower(),
        )

    def _wish(self, request: RequestCode, purpose: Purpose, claim: Claim, names: _Names) -> Wish:
        def handle(challenge_id: str) -> Handle:
            secret = self._secret(challenge_id, request, claim)
            return Handle(request.caller, hashlib.sha256(secret).digest())

        def fresh(challenge_id: str, number: int) -> Fresh:
            part = Part(email=request.email, context=request.context, decoy=request.decoy)
            return self._mint.first(challenge_id, number, part)

        return Wish(
            purpose=purpose,
            challenge_id=claim.challenge_id,
            same_wish=names.same_wish,
            handle=handle,
            fresh=fresh,
            locale=request.locale or purpose.default_locale,
            context_sha256=hashlib.sha256(request.context.encode()).digest(),
        )

    def _secret(self, challenge_id: str, request: RequestCode, claim: Claim) -> bytes:
        key = self._handle_keys.named(claim.handle_kid)
        return mac(key, "kip-handle-v1", challenge_id, request.caller, request.idempotency_key)

    async def _decide_and_commit(
        self,
        request: RequestCode,
        purpose: Purpose,
        claim: Claim,
        names: list[_Names],
        *,
        resumed_until: datetime | None,
        now: datetime,
    ) -> tuple[Queued | Joined | Repeated, Loaded]:
        """Return what was decided, and over what; a standing claim is resumed until `resumed_until`."""
        toll = self._admit(now)
        shard = self._store.shard_of(claim.challenge_id)
        if shard is None:
            raise AssertionError("a minted id carries its shard")
        for _ in range(COMMIT_TRIES):
            found_as, loaded = await self._subject(shard, names, claim.challenge_id)
            subject = loaded.subject or Subject(found_as.subject, version=0)
            mine = loaded.challenges.get(claim.challenge_id)
            if mine is None and resumed_until is not None and loaded.now > resumed_until:
                # The same id would make the same codes again, which were mailed and maybe used.
                raise IdempotencyKeyReused(is_over=True)
            if mine is None and subject.wishes:
                loaded = await self._related(shard, subject, found_as)
            same = mine or loaded.challenges.get(subject.challenge_of(found_as.same_wish) or "")
            latest = loaded.challenges.get(subject.latest_id or "")
            wish = self._wish(request, purpose, claim, found_as)
            outcome = decide_request(wish, subject, same, latest, loaded.now)
            letter = self._letter(request, purpose, claim, found_as)
            refused = await toll.settle(letter if isinstance(outcome, Queued) else None)
            if refused is not None:
                raise not_admitted(refused, purpose)
            decided = _granted(outcome)
            if isinstance(decided, Repeated):
                await self._store.confirm(shard)
                return decided, loaded
            positions = await self._committed(shard, decided, same, purpose, loaded.now)
            if positions is not None:
                return decided, replace(loaded, notes={**loaded.notes, **positions})
        raise StoreUnavailable

    def _letter(self, request: RequestCode, purpose: Purpose, claim: Claim, names: _Names) -> LetterAsked:
        return LetterAsked(
            token=claim.challenge_id,
            subject_key=names.subject,
            email=request.email,
            challenge_id=claim.challenge_id,
            deadline=purpose.deadline,
            client=request.client,
        )

    async def _subject(self, shard: int, names: list[_Names], challenge_id: str) -> tuple[_Names, Loaded]:
        """Load the subject under the newest key that knows it, else say that the minting key does not."""
        first, *older = names
        loaded = await self._store.load(shard, subject_key=first.subject, challenge_ids=[challenge_id])
        if loaded.subject is None:
            for each in older:
                found = await self._store.load(shard, subject_key=each.subject, challenge_ids=[challenge_id])
                if found.subject is not None:
                    return each, found
        return first, loaded

    async def _related(self, shard: int, subject: Subject, names: _Names) -> Loaded:
        ids = {subject.challenge_of(names.same_wish), subject.latest_id} - {None}
        return await self._store.load(shard, challenge_ids=sorted(str(each) for each in ids))

    async def _committed(
        self, shard: int, decided: Queued | Joined, same: Challenge | None, purpose: Purpose, now: datetime
    ) -> Mapping[str, Notes] | None:
        """Write the decision and return what is known of a new letter; `None` when somebody else was faster."""
        challenge = decided.challenge
        before = same if same is not None and same.id == challenge.id else None
        entries = await self._store.commit(
            shard,
            challenge=challenge,
            subject=decided.subject if isinstance(decided, Queued) else None,
            announcements=announcements(before, challenge, purpose, now),
        )
        if entries is None:
            return None
        positions = await self._announce(entries, within=ANNOUNCE_WITHIN)
        if isinstance(decided, Joined):
            return {}
        return {challenge.id: Notes(position=positions.get(f"{challenge.id}.{challenge.newest.number}"))}


def _granted(decided: Queued | Joined | Repeated | GivenBack | TooSoon) -> Queued | Joined | Repeated:
    if isinstance(decided, TooSoon):
        raise QuotaExceeded(decided.retry_after)
    if isinstance(decided, GivenBack):
        raise IdempotencyKeyReused(is_over=True)
    return decided


def _names(key: Key, request: RequestCode) -> _Names:
    body = (request.purpose, request.subject, request.email, request.locale, request.context)
    return _Names(
        claim=pseudonym(key, "claim", request.caller, request.idempotency_key),
        subject=pseudonym(key, *subject_parts(request.purpose, request.subject)),
        same_wish=pseudonym(
            key, "wish", request.caller, request.purpose, request.subject, request.email, request.context
        ),
        fingerprint=mac(key, "body", *body, "decoy" if request.decoy else ""),
    )


def _demand_same_body(claim: Claim, names: _Names) -> None:
    if not secrets.compare_digest(claim.fingerprint, names.fingerprint):
        raise IdempotencyKeyReused
