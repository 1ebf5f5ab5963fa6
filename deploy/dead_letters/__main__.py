"""`kip-dead list | show | redrive | drop`: dead letters by the hand of a person.

On a laptop `--brokers HOST:PORT` says where; without it `DEAD_KAFKA_*` does, with TLS and SCRAM as for any service.
Exit status: 0 done, 1 something is wrong or was refused and the last lines say what to do, 2 words that make no sense.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import groupby

import structlog
from pydantic_settings import SettingsConfigDict

from deploy.dead_letters.buried import Buried, Choice, Done, Place, Problem, instant_of
from deploy.dead_letters.kafka_graveyard import KafkaGraveyard
from deploy.dead_letters.public_part import event_lines, shown, shown_octets
from services.chassis.dead_letter import HEADERS, DeadKind
from services.chassis.settings import KafkaSettings, Profile, read_settings

SHOWN = 10  # dead letters of a topic that `list` names, the newest first


class DeadSettings(KafkaSettings):
    """`DEAD_*` in the environment."""

    model_config = SettingsConfigDict(env_prefix="DEAD_")


def show_list(graveyard: KafkaGraveyard, chosen: argparse.Namespace) -> int:
    """List what waits, topic by topic."""
    everything = graveyard.read()
    buried = [each for each in everything if _choice(chosen).fits(each)]
    if not buried:
        print("No dead letter is like that." if everything else "There are no dead letters.")
    for topic, letters in groupby(buried, key=lambda each: each.place.topic):
        _say_topic(topic, list(letters), chosen.limit)
    return 0


def _say_topic(topic: str, letters: Sequence[Buried], limit: int) -> None:
    waiting = sorted((each for each in letters if each.done is None), key=lambda each: each.died_at, reverse=True)
    done = Counter(str(each.done) for each in letters if each.done is not None)
    also = "".join(f", {count} {word}" for word, count in sorted(done.items()))
    newest = f", the newest of {_instant(waiting[0].died_at)}" if waiting else ""
    print(f"{topic}: {len(waiting)} wait{'s' if len(waiting) == 1 else ''}{newest}{also}")
    for (kind, reason), count in Counter((each.kind, each.reason) for each in waiting).most_common():
        print(f"  {count:>5} × {shown(kind)}: {shown(reason)}")
    for each in waiting[:limit]:
        print(f"    {each.place}  {_instant(each.died_at)}  {shown(each.kind)}{_times(each)}")
    if len(waiting) > limit:
        print(f"    and {len(waiting) - limit} older (--limit {len(waiting)} names them all)")


def show_one(graveyard: KafkaGraveyard, chosen: argparse.Namespace) -> int:
    """Show what may be shown of one."""
    (each,) = Choice(places=[chosen.place]).of(graveyard.read())
    letter = each.letter
    where = f"{shown(letter.topic)}, partition {letter.partition}, offset {letter.offset}" if letter else "(not said)"
    print(each.place)
    print(f"died: {_instant(each.died_at)}, of {shown(each.kind)}{_times(each)}")
    print(f"reason: {shown(each.reason)}")
    print(f"where: {where}, group {shown(letter.group) if letter and letter.group else '(not said)'}")
    print(f"key: {shown_octets(each.key)}")
    if each.expires is not None:
        print(f"expires: {_instant(each.expires)}{' (has passed)' if each.has_expired(datetime.now(UTC)) else ''}")
    print(f"state: {each.done or 'waits'}")
    print("headers:")
    for name, value in each.headers:
        if name not in HEADERS:
            print(f"  {shown(name)}: {shown_octets(value)}")
    print(*event_lines(each.headers, each.value), sep="\n")
    print(f"next: kip-dead redrive {each.place}    or: kip-dead drop {each.place}")
    return 0


def redrive(graveyard: KafkaGraveyard, chosen: argparse.Namespace) -> int:
    """Put back what was chosen and has not expired."""
    meant = _choice(chosen).of(graveyard.read())
    now = datetime.now(UTC)
    lost = [each for each in meant if each.letter is None]
    late = [each for each in meant if each.letter and each.has_expired(now) and not chosen.even_expired]
    ready = [each for each in meant if each not in lost and each not in late]
    if ready:
        _confirm(chosen, f"Put {_count(ready)} back to {_topics(ready)}?")
        graveyard.redrive(ready, _tell(Done.REDRIVEN))
    print(f"{_count(ready)} put back.")
    if late:
        print(f"{_count(late)} refused: past the time when somebody needed it. --even-expired puts back those too.")
    if lost:
        print(f"{_count(lost)} refused: it does not say where it died. `kip-dead drop` closes it.")
    return 1 if late or lost else 0


def drop(graveyard: KafkaGraveyard, chosen: argparse.Namespace) -> int:
    """Close what was chosen."""
    meant = _choice(chosen).of(graveyard.read())
    if meant:
        _confirm(chosen, f"Close {_count(meant)} for good?")
        graveyard.drop(meant, _tell(Done.DROPPED))
    print(f"{_count(meant)} closed.")
    return 0


def _choice(chosen: argparse.Namespace) -> Choice:
    places = getattr(chosen, "places", [])
    return Choice(places, chosen.topic, chosen.kind, chosen.reason, chosen.since)


def _confirm(chosen: argparse.Namespace, question: str) -> None:
    if chosen.yes:
        return
    if not sys.stdin.isatty():
        raise Problem(f"{question} Say --yes; nothing was done.")
    if input(f"{question} [y/N] ").strip().lower() not in {"y", "yes"}:
        raise Problem("Nothing was done.")


def _tell(done: Done) -> Callable[[Buried], None]:
    return lambda each: print(f"{done}: {each.place}")


def _count(letters: Sequence[Buried]) -> str:
    return f"{len(letters)} dead letter{'' if len(letters) == 1 else 's'}"


def _topics(letters: Iterable[Buried]) -> str:
    return ", ".join(sorted({shown(each.letter.topic) for each in letters if each.letter}))


def _times(each: Buried) -> str:
    return f", for the {each.letter.times}. time" if each.letter and each.letter.times > 1 else ""


def _instant(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kip-dead", description="Dead letters: what they are, and what to do with them."
    )
    parser.add_argument("--brokers", help="bootstrap servers without TLS, HOST:PORT[,HOST:PORT]; else DEAD_KAFKA_*")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="what waits, by topic, kind and reason")
    _add_words(listing)
    listing.add_argument("--limit", type=int, default=SHOWN, help="how many to name in each topic (%(default)s)")
    listing.set_defaults(command=show_list)

    showing = commands.add_parser("show", help="one of them: where, when, why, and the public part of the event")
    showing.add_argument("place", type=_place, metavar="TOPIC@PARTITION:OFFSET", help="its name, as `list` shows it")
    showing.set_defaults(command=show_one)

    for name, command, words in (
        ("redrive", redrive, "put back to where they died; what cannot be read yet dies again"),
        ("drop", drop, "close: done with, never put back by --all"),
    ):
        acting = commands.add_parser(name, help=words)
        acting.add_argument("places", type=_place, nargs="*", metavar="TOPIC@PARTITION:OFFSET", help="by name, or:")
        acting.add_argument("--all", action="store_true", help="all that wait; the words below narrow it")
        _add_words(acting)
        acting.add_argument("--yes", action="store_true", help="do not ask")
        acting.set_defaults(command=command)
        if command is redrive:
            acting.add_argument("--even-expired", action="store_true", help="also what nobody needs any more")
    return parser


def _add_words(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--topic", help="only of this topic: where they lie, or where they died")
    parser.add_argument("--kind", choices=[*DeadKind, "not-said"], help="only of this kind")
    parser.add_argument("--reason", help="only those whose reason holds this text")
    parser.add_argument("--since", type=_since, help="only those that died since: 30m, 2h, 3d, or an instant")


def _place(text: str) -> Place:
    try:
        return Place.parse(text)
    except Problem as problem:
        raise argparse.ArgumentTypeError(str(problem)) from problem


def _since(text: str) -> datetime:
    return instant_of(text, datetime.now(UTC))


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.command in {redrive, drop}:
        narrowed = any((chosen.kind, chosen.reason, chosen.topic, chosen.since))
        if chosen.places and (chosen.all or narrowed):
            parser.error("say names, or --all and words that narrow it, not both")
        if not chosen.places and not chosen.all and not (chosen.reason or chosen.kind):
            parser.error("say which: names, --all, --kind or --reason")
    return chosen


def script() -> int:
    """Be the process: what libraries say twice a second is said once, in words, and by us."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what was asked; return the exit status."""
    chosen = _parsed(arguments)
    if chosen.brokers:
        settings = DeadSettings(profile=Profile.LAPTOP, kafka_brokers=chosen.brokers)
    else:
        settings = read_settings(DeadSettings)
    try:
        return int(chosen.command(KafkaGraveyard(settings), chosen))
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Broken off; what was told of above is done.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(script())
