-- setup.sql: what the benchmark needs in its throwaway database
--
-- Variables: library (of empty.c), first (the one of first.c), keys (how many, for the rows over many),
-- arrivals (how many, for the back-test).

CREATE EXTENSION fliplet_ratelimit;

-- So large that every request is granted; and the usual kind.
SELECT fl_rate_define('bench', 'user', 'bench', 1000000000, '10 s');
SELECT fl_rate_define('curve', 'user', 'curve', 1000000000, '1 h');
SELECT fl_rate_define('hourly', 'user', 'hourly', 100, '1 h');
SELECT fl_rate_define('long', 'user', 'long', 1000, '1 h');
SELECT fl_rate_define('brief', 'user', 'brief', 100, '50 ms');

-- Functions to compare with, labelled like the real ones.
CREATE FUNCTION bench_empty(scope text, key text, api text, cost bigint DEFAULT 1, plan text DEFAULT NULL)
    RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE AS :'library', 'bench_empty';
CREATE FUNCTION bench_counter(scope text, key text, api text, cost bigint DEFAULT 1, plan text DEFAULT NULL)
    RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE AS :'library', 'bench_counter';
CREATE FUNCTION bench_lines(scope text, key text, api text, cost bigint DEFAULT 1, plan text DEFAULT NULL)
    RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE AS :'library', 'bench_lines';
CREATE FUNCTION bench_turns(turn integer, n integer) RETURNS integer LANGUAGE c VOLATILE PARALLEL UNSAFE AS :'library', 'bench_turns';
CREATE FUNCTION bench_table(scope text, key text, api text, cost bigint DEFAULT 1, plan text DEFAULT NULL)
    RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE AS :'library', 'bench_table';
CREATE FUNCTION bench_access(scope text, key text, api text, cost bigint DEFAULT 1, plan text DEFAULT NULL)
    RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE AS :'library', 'bench_access';
CREATE FUNCTION bench_page(scope text, key text, api text, cost bigint DEFAULT 1, plan text DEFAULT NULL)
    RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE AS :'library', 'bench_page';
-- what a router's node answers, without asking anything
CREATE FUNCTION bench_bytes(scope text, key text, api text)
    RETURNS bytea LANGUAGE c VOLATILE PARALLEL UNSAFE AS :'library', 'bench_bytes';
CREATE FUNCTION bench_empty_batch(scopes text[], keys text[], apis text[], costs bigint[] DEFAULT NULL, plans text[] DEFAULT NULL)
    RETURNS SETOF fl_rate_verdict LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 AS :'library', 'bench_empty_batch';
CREATE FUNCTION bench_table_batch(scopes text[], keys text[], apis text[], costs bigint[] DEFAULT NULL, plans text[] DEFAULT NULL)
    RETURNS SETOF fl_rate_verdict LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 AS :'library', 'bench_table_batch';
CREATE FUNCTION bench_settings(integer) RETURNS integer LANGUAGE c VOLATILE PARALLEL UNSAFE AS :'first', 'bench_settings';
CREATE FUNCTION bench_definitions(oid) RETURNS integer LANGUAGE c VOLATILE PARALLEL UNSAFE AS :'first', 'bench_definitions';
CREATE FUNCTION bench_trigger() RETURNS trigger LANGUAGE c AS :'library', 'bench_trigger';
CREATE FUNCTION bench_latency(function regprocedure, api text, calls integer)
    RETURNS float8[] LANGUAGE c VOLATILE PARALLEL UNSAFE AS :'library', 'bench_latency';

-- Two statements in turn, so often; nanoseconds for each of their n parts.
CREATE FUNCTION bench_pair(a text, b text, n integer, times integer, OUT a_ns float8, OUT b_ns float8)
LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz;
BEGIN
    a_ns := 0;
    b_ns := 0;
    FOR i IN 1..2 * times LOOP
        t := clock_timestamp();
        -- a b, b a, a b, ...
        IF i % 4 IN (0, 1) THEN
            EXECUTE a;
            a_ns := a_ns + extract(epoch FROM clock_timestamp() - t);
        ELSE
            EXECUTE b;
            b_ns := b_ns + extract(epoch FROM clock_timestamp() - t);
        END IF;
    END LOOP;
    a_ns := a_ns * 1e9 / n / times;
    b_ns := b_ns * 1e9 / n / times;
END
$$;

-- A statement that begins at a given moment; when it began and ended.
CREATE FUNCTION bench_at(start float8, statement text, OUT began float8, OUT ended float8)
LANGUAGE plpgsql AS $$
BEGIN
    -- what a new connection does first is another row's business
    PERFORM fl_rate_check('user', '42', 'bench');
    PERFORM pg_sleep(start - extract(epoch FROM clock_timestamp()));
    began := extract(epoch FROM clock_timestamp());
    EXECUTE statement;
    ended := extract(epoch FROM clock_timestamp());
END
$$;

-- Keys of 16 bytes: in the order in which they are created, and in another.
CREATE UNLOGGED TABLE bench_keys AS
    SELECT left(md5(i::text), 16) AS k FROM generate_series(1, :keys) AS i;
CREATE UNLOGGED TABLE bench_keys_shuffled AS
    SELECT k FROM bench_keys ORDER BY hashtext(k), k;
CREATE UNLOGGED TABLE bench_other_keys AS
    SELECT left(md5('other' || i), 16) AS k FROM generate_series(1, :keys) AS i;
-- Not by LIMIT: large tables are read from wherever the last reader was.
CREATE UNLOGGED TABLE bench_few_keys AS
    SELECT left(md5(i::text), 16) AS k FROM generate_series(1, 50000) AS i;
CREATE UNLOGGED TABLE bench_fewer_keys AS
    SELECT left(md5(i::text), 16) AS k FROM generate_series(1, 20000) AS i;
VACUUM (ANALYZE) bench_keys, bench_keys_shuffled, bench_other_keys, bench_few_keys, bench_fewer_keys;

-- A counter in a table: one statement a request, a window that begins with
-- the first request.
CREATE TABLE bench_counter (key text PRIMARY KEY, since timestamptz NOT NULL, n bigint NOT NULL);
CREATE UNLOGGED TABLE bench_counter_unlogged (LIKE bench_counter INCLUDING ALL);

-- A log in a table, under an advisory lock: exact, in one call.
CREATE TABLE bench_log (key text NOT NULL, at timestamptz NOT NULL);
CREATE INDEX ON bench_log (key, at);
CREATE FUNCTION bench_log_check(k text, max_requests bigint, period interval) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext(k));
    DELETE FROM bench_log AS l WHERE l.key = k AND l.at <= clock_timestamp() - period;
    IF (SELECT count(*) FROM bench_log AS l WHERE l.key = k) >= max_requests THEN
        RETURN false;
    END IF;
    INSERT INTO bench_log VALUES (k, clock_timestamp());
    RETURN true;
END
$$;

-- Three tables that differ by their trigger.
CREATE UNLOGGED TABLE bench_none (a integer);
CREATE UNLOGGED TABLE bench_does_nothing (a integer);
CREATE UNLOGGED TABLE bench_limited (a integer);
CREATE TRIGGER nothing BEFORE INSERT ON bench_does_nothing
    FOR EACH STATEMENT EXECUTE FUNCTION bench_trigger('user', 'bench', 'setting:app.user_id');
CREATE TRIGGER limited BEFORE INSERT ON bench_limited
    FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'bench', 'setting:app.user_id');

-- So many times n single-row INSERTs into each; nanoseconds of one, the median.
CREATE FUNCTION bench_inserts(n integer, times integer, OUT bare float8, OUT nothing float8, OUT limited float8)
LANGUAGE plpgsql AS $$
DECLARE
    t0 timestamptz;
    t1 timestamptz;
    t2 timestamptz;
    t3 timestamptz;
    a float8[];
    b float8[];
    c float8[];
BEGIN
    PERFORM set_config('app.user_id', '42', true);
    FOR i IN 1..times LOOP
        t0 := clock_timestamp();
        FOR j IN 1..n LOOP
            INSERT INTO bench_none VALUES (j);
        END LOOP;
        t1 := clock_timestamp();
        FOR j IN 1..n LOOP
            INSERT INTO bench_does_nothing VALUES (j);
        END LOOP;
        t2 := clock_timestamp();
        FOR j IN 1..n LOOP
            INSERT INTO bench_limited VALUES (j);
        END LOOP;
        t3 := clock_timestamp();
        a[i] := extract(epoch FROM t1 - t0) * 1e9 / n;
        b[i] := extract(epoch FROM t2 - t1) * 1e9 / n;
        c[i] := extract(epoch FROM t3 - t2) * 1e9 / n;
    END LOOP;
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY x),
           percentile_cont(0.5) WITHIN GROUP (ORDER BY y),
           percentile_cont(0.5) WITHIN GROUP (ORDER BY z)
    INTO bare, nothing, limited
    FROM unnest(a, b, c) AS u (x, y, z);
END
$$;

-- Batches of 100 requests of keys that nothing connects.
CREATE UNLOGGED TABLE bench_batches AS
    SELECT array_agg('user'::text) AS scopes, array_agg(k) AS keys, array_agg('bench'::text) AS apis
    FROM (SELECT k, row_number() OVER () AS i FROM bench_keys_shuffled LIMIT 100000) AS n
    GROUP BY i / 100 HAVING count(*) = 100;
VACUUM (ANALYZE) bench_batches;

-- One call a batch: with its requests; with those of the first batch; with
-- none; or of functions that only answer, or only look up and answer.
CREATE FUNCTION bench_batch_calls(what text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    batch bench_batches;
    b bench_batches;
BEGIN
    SELECT * INTO batch FROM bench_batches LIMIT 1;
    FOR b IN SELECT * FROM bench_batches LOOP
        CASE what
        WHEN 'random' THEN
            PERFORM count(v.allowed) FROM fl_rate_try_batch(b.scopes, b.keys, b.apis) AS v;
        WHEN 'same' THEN
            PERFORM count(v.allowed) FROM fl_rate_try_batch(batch.scopes, batch.keys, batch.apis) AS v;
        WHEN 'none' THEN
            PERFORM count(v.allowed) FROM fl_rate_try_batch('{}', '{}', '{}') AS v;
        WHEN 'empty' THEN
            PERFORM count(v.allowed) FROM bench_empty_batch(b.scopes, b.keys, b.apis) AS v;
        WHEN 'table' THEN
            PERFORM count(v.allowed) FROM bench_table_batch(b.scopes, b.keys, b.apis) AS v;
        END CASE;
    END LOOP;
END
$$;

-- A log of one key, 50 requests a second, not evenly.
CREATE UNLOGGED TABLE bench_arrivals AS
    SELECT array_agg(timestamptz '2026-01-01 00:00:00Z' + i * interval '20 ms' + i % 7 * interval '2 ms' ORDER BY i) AS at
    FROM generate_series(1, :arrivals) AS i;
