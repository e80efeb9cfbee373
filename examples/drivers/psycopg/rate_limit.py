"""rate_limit.py: spend from a limit by psycopg, read a refusal, ask again at its date

    python3 rate_limit.py SCOPE KEY API [COST [MAX_WAIT]]

The functions are to be copied. main() shows them at work: it spends until it is
refused, asks again at the date if that is at most MAX_WAIT seconds (30) away,
asks once more without an error, and prints what it saw as JSON.

Copyright (c) 2026, the fliplet_ratelimit developers
"""

import json
import sys
import time
from datetime import datetime, timezone

import psycopg
from psycopg.rows import namedtuple_row

# The shortest pause before asking again, in seconds
PAUSE = 0.05


class Refused(Exception):
    """A request that was refused."""

    def __init__(self, error):
        super().__init__(error.diag.message_primary)
        self.sqlstate = error.sqlstate
        self.body = json.loads(error.diag.message_detail)  # of the 429
        self.hint = error.diag.message_hint
        self.limit = error.diag.constraint_name
        date = self.body["nextValidRequestDate"]
        # None: never. Python before 3.11 cannot read the Z.
        self.retry_at = date and datetime.fromisoformat(date.replace("Z", "+00:00"))


def checked(conn, scope, key, api, cost=1, plan=None):
    """Spend, or raise Refused; returns what remains, None if no limit applies.

    Not in a transaction that is to go on: a refusal aborts it. On a connection
    without autocommit, every statement is in one.
    """
    try:
        return conn.execute(
            "SELECT fl_rate_check(%s, %s, %s, %s, %s)", (scope, key, api, cost, plan)
        ).fetchone()[0]
    except psycopg.Error as error:
        # PT429 is in no class of psycopg.errors
        if error.sqlstate == "PT429":
            raise Refused(error) from error
        raise


def tried(conn, scope, key, api, cost=1, plan=None):
    """Spend, or be told why not: never an error because of a limit."""
    with conn.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(
            "SELECT v.*, fl_rate_body(v) AS body FROM fl_rate_try(%s, %s, %s, %s, %s) v",
            (scope, key, api, cost, plan),
        ).fetchone()


def retrying(call, max_wait):
    """Make a call again at the date of its refusal, within max_wait seconds in all.

    As often as it takes. A refusal that has no date, or a later one, is raised
    at once.
    """
    give_up = time.time() + max_wait
    while True:
        try:
            return call()
        except Refused as refusal:
            if refusal.retry_at is None:
                raise
            # the date may be past already, by a clock that is ahead of the server's
            due = max(refusal.retry_at.timestamp(), time.time() + PAUSE)
            if due > give_up:
                raise
        while (left := due - time.time()) > 0:
            time.sleep(left)


def show(**step):
    print(json.dumps(step, default=iso), flush=True)


def iso(date):
    return date.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def pid_of(conn):
    return conn.execute("SELECT pg_backend_pid()").fetchone()[0]


def main(scope, key, api, cost="1", max_wait="30"):
    request = (scope, key, api, int(cost))
    with psycopg.connect(autocommit=True) as conn:
        show(connected=pid_of(conn))

        try:
            for _ in range(1000):
                show(granted=checked(conn, *request))
        except Refused as refusal:
            show(refused={
                "sqlstate": refusal.sqlstate,
                "message": str(refusal),
                "body": refusal.body,
                "hint": refusal.hint,
                "limit": refusal.limit,
                "retryAt": refusal.retry_at,
            })

        attempts = 0

        def again():
            nonlocal attempts
            attempts += 1
            return checked(conn, *request)

        try:
            remaining = retrying(again, float(max_wait))
            now = datetime.now(timezone.utc)
            show(retried={"attempts": attempts, "remaining": remaining, "at": now})
        except Refused as refusal:
            show(gaveUp={"attempts": attempts, "retryAt": refusal.retry_at})

        # in a transaction that goes on
        with conn.transaction():
            verdict = tried(conn, *request)
            show(tried={
                "allowed": verdict.allowed,
                "reason": verdict.reason,
                "limit": verdict.name,
                "nextValidAt": verdict.next_valid_at,
            })
            show(afterwards=pid_of(conn))


if __name__ == "__main__":
    main(*sys.argv[1:])
