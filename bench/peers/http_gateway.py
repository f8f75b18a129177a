"""The payment gateway over HTTP: what the payment simulator is to the service, for its peer.

`POST /charges` charges once under an idempotency key. It is plain ASGI with a dict: as little as
can be, so that it does not hold its callers up.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent.parent))

from bench.peers.serving import serve


class Gateway:
    def __init__(self) -> None:
        self._payments: dict[str, dict[str, Any]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        charge = json.loads(body)
        payment = self._payments.setdefault(
            charge["idempotency_key"], {**charge, "state": "CHARGED"}
        )
        answer = json.dumps(payment).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(answer)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    serve(Gateway())
