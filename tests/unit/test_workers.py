from __future__ import annotations

from orderflow_server.workers import reserved_port


def test_a_reserved_port_is_free_for_those_who_share_it() -> None:
    with reserved_port("127.0.0.1:0") as address:
        assert not address.endswith(":0")
        with reserved_port(address) as again:
            assert again == address
