"""Makes every plain head be recognised at once, so that each conversation tests the templates too.

A template is normally made after some sights of a shape.  Here it is made from the head at hand,
and then the same bytes are given to it: what a conversation expects of a head that h11 read, it
then expects of one that was recognised.
"""

from __future__ import annotations

import time

import pytest

from aigw.policy.keys import credentials_in, identify
from aigw.proxy.admission import has_a_plain_path
from aigw.proxy.client import ClientConnection
from aigw.proxy.exchange import Exchange
from aigw.proxy.request import Request
from aigw.upstreams.connection import Owner, UpstreamConnection
from aigw.wire.head import AnswerReader, HeadError, read_request

counted = {"requests": 0, "answers": 0}


def recognise_at_first_sight(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("aigw.wire.template.SEEN_BEFORE", 1)
    patch.setattr("aigw.wire.template.BUILD_PAUSE_S", 0.0)
    begin, read_head = ClientConnection._begin, UpstreamConnection._read_head

    def learn_and_begin(self: ClientConnection, raw: bytes, rest: bytes) -> None:
        try:
            _learn_request(self, raw)
        except HeadError:
            pass
        if self._recognise(raw + rest, may_hold=False):
            counted["requests"] += 1
        else:
            begin(self, raw, rest)

    def learn_and_read(self: UpstreamConnection, owner: Owner, data: bytes) -> None:
        if self._reader is None and self._takes_known and _learn_answer(self, data):
            assert self._recognise(owner, data)
            counted["answers"] += 1
        else:
            read_head(self, owner, data)

    patch.setattr(ClientConnection, "_begin", learn_and_begin)
    patch.setattr(UpstreamConnection, "_read_head", learn_and_read)


def _learn_request(client: ClientConnection, raw: bytes) -> None:
    services = client.services
    head = read_request(raw)
    if len(head.fields) > services.policy.headers:
        return
    probe = Exchange(services, client, time.monotonic())
    probe.request = Request(head)
    probe.credentials = credentials_in(head.known)
    if has_a_plain_path(probe) is None:
        probe.key, _ = identify(services.policy.keys, probe.credentials, time.time())
        services.known.consider(probe, raw, time.monotonic())


def _learn_answer(connection: UpstreamConnection, data: bytes) -> bool:
    reader = AnswerReader(connection._max_head_bytes)
    try:
        head = reader.feed(data)
    except HeadError:
        return False
    if head is None or reader.interim:
        return False
    answers = connection.member.answers
    answers.consider(head, data[: len(data) - len(reader.rest)], time.monotonic())
    return answers.find(data) is not None
