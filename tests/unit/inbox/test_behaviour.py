"""Rules say yes to what makes sense, no with a reason to the rest, and act in order as often as they may."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from deploy.dev.inbox.behaviour import Action, Behaviour, Stage, parse_rules


def behaviour_of(*rules: dict[str, object]) -> Behaviour:
    behaviour = Behaviour()
    behaviour.replace(parse_rules(json.dumps(rules).encode()))
    return behaviour


def test_a_rule_acts_at_its_stage_for_its_recipient_only() -> None:
    behaviour = behaviour_of({"to": "*@Slow.example", "stage": "rcpt", "action": "reply", "code": 450})

    assert behaviour.take(Stage.DATA, ["lan@slow.example"]) == []
    assert behaviour.take(Stage.RCPT, ["lan@fast.example"]) == []
    assert [rule.code for rule in behaviour.take(Stage.RCPT, ["Lan@slow.EXAMPLE"])] == [450]


def test_a_rule_fits_a_mail_when_any_of_its_recipients_fits() -> None:
    behaviour = behaviour_of({"to": "lan@*", "stage": "reply", "action": "cut"})

    assert len(behaviour.take(Stage.REPLY, ["minh@example.vn", "lan@example.vn"])) == 1


def test_a_rule_is_used_up_after_its_times_and_the_next_one_follows() -> None:
    behaviour = behaviour_of(
        {"stage": "mail", "action": "reply", "code": 451, "times": 2},
        {"stage": "mail", "action": "reply", "code": 550},
    )

    codes = [behaviour.take(Stage.MAIL, [])[0].code for _ in range(3)]

    assert codes == [451, 451, 550]
    assert [used for _, used in behaviour.rules] == [2, 1]


def test_a_delay_goes_on_to_the_next_rule_and_anything_else_does_not() -> None:
    behaviour = behaviour_of(
        {"stage": "data", "action": "delay", "delay_s": 1},
        {"stage": "data", "action": "cut"},
        {"stage": "data", "action": "half_line"},
    )

    assert [rule.action for rule in behaviour.take(Stage.DATA, ["a@b"])] == [Action.DELAY, Action.CUT]


def test_a_reply_without_code_of_its_own_uses_the_usual_one_of_its_stage() -> None:
    behaviour = behaviour_of({"stage": "data", "action": "double_reply", "text": "go on"})

    assert behaviour.take(Stage.DATA, ["a@b"])[0].reply == "354 go on"


@pytest.mark.parametrize(
    ("rule", "field", "why"),
    [
        ({"stage": "lunch", "action": "cut"}, "stage", "'connect'"),
        ({"stage": "mail", "action": "explode"}, "action", "'half_line'"),
        ({"stage": "mail"}, "action", "required"),
        ({"stage": "mail", "action": "reply"}, "code", "needs a code"),
        ({"stage": "mail", "action": "reply", "code": "450"}, "code", "integer"),
        ({"stage": "mail", "action": "reply", "code": 99}, "code", "200"),
        ({"stage": "mail", "action": "cut", "code": 450}, "code", "writes no reply"),
        ({"stage": "mail", "action": "cut", "to": "lan@*"}, "to", "not known yet"),
        ({"stage": "mail", "action": "cut", "store": True}, "store", 'only at stage "reply"'),
        ({"stage": "mail", "action": "delay"}, "delay_s", "needs delay_s"),
        ({"stage": "mail", "action": "delay", "delay_s": 601}, "delay_s", "600"),
        ({"stage": "mail", "action": "cut", "delay_s": 1}, "delay_s", "does not wait"),
        ({"stage": "mail", "action": "cut", "times": 0}, "times", "1"),
        ({"stage": "mail", "action": "reply", "code": 450, "text": "a\r\n250 b"}, "text", "one line"),
        ({"stage": "mail", "action": "cut", "chance": 0.5}, "chance", "not permitted"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_by_field_and_reason(
    rule: dict[str, object], field: str, why: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        behaviour_of({"stage": "mail", "action": "cut"}, rule)

    assert [(each["loc"], why in each["msg"]) for each in refusal.value.errors()] == [((1, field), True)]
