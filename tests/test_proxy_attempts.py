"""Second attempts behind the client's back: when there is one, and how they add up."""

from __future__ import annotations

import pytest
from conversation import Gateway, Upstream, answering, converse, ok, toml
from test_proxy_faults import GET, free_port, serve_once

pytestmark = pytest.mark.usefixtures("both_ways")


@pytest.mark.parametrize("lost_first", [True, False])
def test_a_lost_connection_and_a_member_out_of_reach_may_meet(lost_first: bool) -> None:
    """Each of the two has a second attempt of its own: nothing was sent to whom nobody reached."""

    async def conversation() -> None:
        async with Upstream(serve_once) as kept, Upstream(answering(ok(b"other"))) as other:
            gone = f"http://127.0.0.1:{free_port()}"
            urls = (kept, other) if lost_first else (gone, kept)
            async with Gateway(toml(*urls)) as gateway:
                first, second = gateway.services.groups()[0].members
                busy = second if lost_first else first  # and so not asked if there is another
                busy.inflight = 5
                assert (await gateway.ask(GET)).body == b"first"
                if lost_first:
                    kept._server.close()  # its port; the connection stays until it is used
                else:
                    first.inflight, second.inflight = 0, 5
                answer = await gateway.ask(GET)
                first.inflight = second.inflight = 0
                assert (answer.status, answer.body) == (200, b"other" if lost_first else b"first")
                await gateway.settled()
                assert gateway.records[-1]["attempts"] == 3

    converse(conversation())
