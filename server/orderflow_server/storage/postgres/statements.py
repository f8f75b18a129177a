"""The statements that write. Each is over any number of rows, which come as one array a column.

The two that every order needs take theirs as one JSON document (`documents`).

What has to be locked is locked in the order of its key, in a part of the statement that is
materialized: a join would lock in whatever order suits it.

The clock is the server's, `now()`, so that no replica's clock counts. Statements that need the time
take it as their first parameter nevertheless: a test may give it, the service gives NULL.
"""

from __future__ import annotations

from orderflow_server.orders.ports import LONGEST_LEASE, REPEATED_ATTEMPTS
from orderflow_server.storage.postgres.notices import CHANNEL
from orderflow_server.storage.postgres.rows import ORDER_COLUMNS

# S608 below: what is put together are constants of this package; values are parameters.
NOW = "coalesce($1::timestamptz, now())"
_TOO_FAR = f"{NOW} + interval '{LONGEST_LEASE.total_seconds()} seconds'"
_LEASE_UNTIL = f"{NOW} + {{}}.lease * interval '1 microsecond'"

_NOTIFY = f"(SELECT count(pg_notify('{CHANNEL}', notice)) FROM unnest({{}}::text[]) AS notice)"  # noqa: S608 - see above

_PLACING = f"""
new AS MATERIALIZED (
    SELECT * FROM json_to_recordset($2::json) AS new (
        id uuid, request_id uuid, customer_id text, currency_code text, total_units bigint,
        total_nanos int, payment_token text, content_hash bytea, state text, version bigint,
        decline_reason text, create_time timestamptz, update_time timestamptz,
        lease bigint, traceparent text, items json
    )
), placed AS (
    INSERT INTO orders (
        id, request_id, customer_id, currency_code, total_units, total_nanos, payment_token,
        content_hash, state, version, decline_reason, create_time, update_time, traceparent,
        awaiting_since, lease_until
    )
    SELECT id, request_id, customer_id, currency_code, total_units, total_nanos, payment_token,
        content_hash, state, version, decline_reason, create_time, update_time, traceparent,
        {NOW}, {_LEASE_UNTIL.format("new")}
    FROM new
    ON CONFLICT (request_id) DO NOTHING
    RETURNING id
), items AS (
    INSERT INTO order_items (order_id, position, sku, quantity, price_units, price_nanos)
    SELECT new.id, item.* FROM new JOIN placed USING (id), json_to_recordset(new.items) AS item (
        position int, sku text, quantity int, price_units bigint, price_nanos int
    )
), placed_events AS (
    INSERT INTO events (order_id, version, state, decline_reason, time)
    SELECT id, version, state, decline_reason, update_time FROM new JOIN placed USING (id)
)
"""  # noqa: S608 - see above
_PLACED = "ARRAY(SELECT id FROM placed)"
PLACE = f"WITH {_PLACING} SELECT {_PLACED}, {_NOTIFY.format('$3')}"
"""Results in the ids of those whose request id was new. The request ids come in order."""

PLACED = f"""
SELECT {ORDER_COLUMNS} FROM orders AS o WHERE o.request_id = ANY($1::uuid[])
"""  # noqa: S608 - see above

LOCK = "SELECT FROM orders WHERE id = ANY($1::uuid[]) ORDER BY id FOR NO KEY UPDATE"

_SAVING = f"""
next AS MATERIALIZED (
    SELECT * FROM json_to_recordset({{document}}::json) AS next (
        id uuid, state text, version bigint, decline_reason text, update_time timestamptz,
        lease bigint
    )
), locked AS MATERIALIZED (
    SELECT id, version FROM orders WHERE id = ANY({{ids}}::uuid[]) AND {{when}}
    ORDER BY id FOR NO KEY UPDATE
), saved AS (
    UPDATE orders AS o SET
        state = next.state, version = next.version, decline_reason = next.decline_reason,
        update_time = next.update_time, lease_until = {_LEASE_UNTIL.format("next")},
        awaiting_since = CASE WHEN next.lease IS NOT NULL THEN {NOW} END,
        lease_attempts = 0, parked_time = NULL, parked_reason = ''
    FROM locked JOIN next USING (id)
    WHERE o.id = locked.id AND locked.version = next.version - 1
    RETURNING o.id
), saved_events AS (
    INSERT INTO events (order_id, version, state, decline_reason, time)
    SELECT id, version, state, decline_reason, update_time FROM next JOIN saved USING (id)
)
"""  # noqa: S608 - see above
_LOCKED = "ARRAY(SELECT (id, version) FROM locked)"
SAVE = f"""
WITH {_SAVING.format(document="$2", ids="$3", when="true")}
SELECT {_LOCKED}, {_NOTIFY.format("$4")}
"""
"""Results in the versions that were found. Each order comes once."""

# What is inserted is inserted before anything is locked: the second asks for the first.
PLACE_AND_SAVE = f"""
WITH {_PLACING}, {_SAVING.format(document="$3", ids="$4", when=f"{_PLACED} IS NOT NULL")}
SELECT {_PLACED}, {_LOCKED}, {_NOTIFY.format("$5")}
"""
"""Both at once, of different orders, whose events are in no order that anybody may rely on."""

DEFER = f"""
UPDATE orders AS o SET lease_until = {NOW} + new.delay
FROM unnest($2::uuid[], $3::interval[]) AS new (id, delay)
WHERE o.id = new.id AND o.lease_until IS NOT NULL
"""  # noqa: S608 - see above
PARK = f"""
UPDATE orders AS o SET parked_time = {NOW}, parked_reason = new.reason, lease_until = NULL
FROM unnest($2::uuid[], $3::text[]) AS new (id, reason)
WHERE o.id = new.id AND o.lease_until IS NOT NULL
"""  # noqa: S608 - see above
PARKED = """
parked_time IS NOT NULL AND lease_until IS NULL AND state IN ('PENDING_PAYMENT', 'REFUNDING')
"""
RELEASE = f"""
UPDATE orders
SET parked_time = NULL, parked_reason = '', lease_until = {NOW}, lease_attempts = 0
WHERE id = $2 AND {PARKED} RETURNING id
"""  # noqa: S608 - see above

_WALK = """
{name} AS MATERIALIZED (
    SELECT id, lease_until FROM orders WHERE lease_until {ended} AND lease_attempts {attempts}
    ORDER BY lease_until, id LIMIT {limit} FOR NO KEY UPDATE SKIP LOCKED
)
"""
_ENDED, _STRANDED = f"<= {NOW}", f"> {_TOO_FAR}"
_FRESH, _REPEATED = f"< {REPEATED_ATTEMPTS}", f">= {REPEATED_ATTEMPTS}"
# Each walks an index from its beginning. What comes later takes what was left by those before.
LEASE_DUE = f"""
WITH {_WALK.format(name="fresh", ended=_ENDED, attempts=_FRESH, limit="$3")},
{
    _WALK.format(
        name="fresh_stranded",
        ended=_STRANDED,
        attempts=_FRESH,
        limit="$3 - (SELECT count(*) FROM fresh)",
    )
},
left_over AS MATERIALIZED (
    SELECT least($4, $3 - (SELECT count(*) FROM fresh) - (SELECT count(*) FROM fresh_stranded)) AS n
),
{
    _WALK.format(
        name="repeated", ended=_ENDED, attempts=_REPEATED, limit="(SELECT n FROM left_over)"
    )
},
{
    _WALK.format(
        name="repeated_stranded",
        ended=_STRANDED,
        attempts=_REPEATED,
        limit="(SELECT n FROM left_over) - (SELECT count(*) FROM repeated)",
    )
},
due AS (
    TABLE fresh UNION ALL TABLE fresh_stranded
    UNION ALL TABLE repeated UNION ALL TABLE repeated_stranded
), taken AS (
    UPDATE orders AS o SET
        lease_until = {NOW} + $2::interval, lease_attempts = o.lease_attempts + 1
    FROM due WHERE o.id = due.id
    RETURNING o.*, due.lease_until AS due_since
)
SELECT {ORDER_COLUMNS}, o.lease_attempts FROM taken AS o
ORDER BY o.lease_attempts > {REPEATED_ATTEMPTS}, o.due_since, o.id
"""  # noqa: S608 - see above
TAKE_LEASE = f"""
INSERT INTO leases AS l (name, holder, until) VALUES ($2, $3, {NOW} + $4::interval)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
WHERE l.holder = excluded.holder OR l.until <= {NOW} OR l.until > {_TOO_FAR}
RETURNING holder
"""  # noqa: S608 - see above
GIVE_UP_LEASE = "DELETE FROM leases WHERE name = $1 AND holder = $2"
REFUSED = "refused_time IS NOT NULL AND NOT published"
"""Condition on an event that is refused now; that of the index `events_refused`."""

LOCK_EVENTS = f"""
SELECT FROM events WHERE sequence IN (
    SELECT unnest($1::bigint[])
    UNION ALL
    SELECT sequence FROM events WHERE $2 AND {REFUSED}
) ORDER BY sequence FOR NO KEY UPDATE
"""  # noqa: S608 - see above
"""Locks these events and, if `$2`, all that are refused."""

REFUSE = f"""
UPDATE events AS e SET refused_time = {NOW}, refused_reason = new.reason
FROM unnest($2::bigint[], $3::text[]) AS new (sequence, reason)
WHERE e.sequence = new.sequence AND e.refused_time IS NULL AND NOT e.published
"""  # noqa: S608 - see above
RETRY_REFUSED = f"""
UPDATE events SET refused_time = NULL, refused_reason = ''
WHERE {REFUSED} AND ($1::bigint[] IS NULL OR sequence = ANY($1)) RETURNING sequence
"""  # noqa: S608 - see above
SKIP_REFUSED = f"""
UPDATE events SET published = true
WHERE {REFUSED} AND sequence = ANY($1::bigint[]) RETURNING sequence
"""  # noqa: S608 - see above
PROBE = """
WITH orders_lock AS (UPDATE orders SET version = version WHERE false),
    items_lock AS (UPDATE order_items SET quantity = quantity WHERE false),
    events_lock AS (UPDATE events SET version = version WHERE false)
INSERT INTO leases (name, holder, until)
VALUES ('write probe ' || pg_backend_pid(), '', 'epoch')
"""
"""The updates change no row and wait for the locks that writing orders waits for. The name is the
connection's own: a replica that was stopped in the middle keeps no other's probe waiting."""
END_PROBE = "DELETE FROM leases WHERE name = 'write probe ' || pg_backend_pid()"
MARK_PUBLISHED = """
WITH marked AS MATERIALIZED (
    SELECT sequence FROM events WHERE sequence = ANY($1::bigint[]) AND NOT published
    ORDER BY sequence FOR NO KEY UPDATE
)
UPDATE events AS e SET published = true FROM marked WHERE e.sequence = marked.sequence
"""
