/* fliplet_ratelimit_router--1.0.sql */

-- complain if the script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION fliplet_ratelimit_router" to load this file. \quit

-- ---------------------------------------------------------------------------
-- Asking a node: one function of PL/Proxy for each call. The nodes have the
-- extension fliplet_ratelimit in the schema that the router is in here. Not
-- called by users: src/node.c does, which adds deadline and error handling.
-- ---------------------------------------------------------------------------

CREATE TYPE @extschema@.fl_rate_verdict AS (
    allowed       boolean,
    reason        text,
    remaining     bigint,
    delay         interval,
    next_valid_at timestamptz,
    reset_at      timestamptz,
    scope         text,
    key           text,
    api           text,
    name          text,
    limit_id      integer,
    max_requests  bigint,
    period        interval
);
COMMENT ON TYPE @extschema@.fl_rate_verdict IS 'the answer to a request';

CREATE FUNCTION @extschema@.fl_node_try(slot integer, scope text, key text, api text, cost bigint, plan text) RETURNS bytea
LANGUAGE plproxy AS $$
    CLUSTER 'fliplet_ratelimit';
    RUN ON slot;
    SELECT pg_catalog.record_send(@extschema@.fl_rate_try($2, $3, $4, $5, $6));
$$;

CREATE FUNCTION @extschema@.fl_node_peek(slot integer, scope text, key text, api text, cost bigint, plan text) RETURNS bytea
LANGUAGE plproxy AS $$
    CLUSTER 'fliplet_ratelimit';
    RUN ON slot;
    SELECT pg_catalog.record_send(@extschema@.fl_rate_peek($2, $3, $4, $5, $6));
$$;

CREATE FUNCTION @extschema@.fl_node_try_all(slot integer, scopes text[], keys text[], api text, cost bigint, plan text) RETURNS bytea
LANGUAGE plproxy AS $$
    CLUSTER 'fliplet_ratelimit';
    RUN ON slot;
    SELECT pg_catalog.record_send(@extschema@.fl_rate_try_all($2, $3, $4, $5, $6));
$$;

CREATE FUNCTION @extschema@.fl_node_peek_all(slot integer, scopes text[], keys text[], api text, cost bigint, plan text) RETURNS bytea
LANGUAGE plproxy AS $$
    CLUSTER 'fliplet_ratelimit';
    RUN ON slot;
    SELECT pg_catalog.record_send(@extschema@.fl_rate_peek_all($2, $3, $4, $5, $6));
$$;

CREATE FUNCTION @extschema@.fl_node_refund(slot integer, scope text, key text, api text, cost bigint, plan text) RETURNS bigint
LANGUAGE plproxy AS $$
    CLUSTER 'fliplet_ratelimit';
    RUN ON slot;
    SELECT @extschema@.fl_rate_refund($2, $3, $4, $5, $6);
$$;

CREATE FUNCTION @extschema@.fl_node_reset(slot integer, scope text, key text, api text) RETURNS bigint
LANGUAGE plproxy AS $$
    CLUSTER 'fliplet_ratelimit';
    RUN ON slot;
    SELECT @extschema@.fl_rate_reset($2, $3, $4);
$$;

CREATE FUNCTION @extschema@.fl_node_try_batch(slot integer, scopes text[], keys text[], apis text[], costs bigint[], plans text[]) RETURNS SETOF bytea
LANGUAGE plproxy AS $$
    CLUSTER 'fliplet_ratelimit';
    RUN ON slot;
    SELECT pg_catalog.record_send(v) FROM @extschema@.fl_rate_try_batch($2, $3, $4, $5, $6) AS v;
$$;

CREATE FUNCTION @extschema@.fl_node_explain(slot integer, scope text, key text, api text, plan text) RETURNS SETOF bytea
LANGUAGE plproxy AS $$
    CLUSTER 'fliplet_ratelimit';
    RUN ON slot;
    SELECT pg_catalog.record_send(e) FROM @extschema@.fl_rate_explain($2, $3, $4, $5) AS e;
$$;

-- What a node says about itself. The digest is over what the definitions mean,
-- so that it is the same in every session and version.
CREATE FUNCTION @extschema@.fl_node_probe(slot integer) RETURNS text
LANGUAGE plproxy AS $$
    CLUSTER 'fliplet_ratelimit';
    RUN ON slot;
    SELECT pg_catalog.json_build_object(
        'version', (SELECT e.extversion FROM pg_catalog.pg_extension AS e WHERE e.extname OPERATOR(pg_catalog.=) 'fliplet_ratelimit'),
        'standby', pg_catalog.pg_is_in_recovery(),
        'definitions', (
            SELECT pg_catalog.md5(coalesce(pg_catalog.string_agg(pg_catalog.json_build_array(
                       l.name, l.scope, l.api, l.key, l.plan, l.max_requests, pg_catalog.date_part('epoch', l.period),
                       pg_catalog.date_part('month', l.period), l.algorithm, l.burst, pg_catalog.date_part('epoch', l.anchor),
                       l.time_zone, l.on_limit, pg_catalog.date_part('epoch', l.max_delay), l.enabled,
                       pg_catalog.date_part('epoch', l.valid_from), pg_catalog.date_part('epoch', l.valid_until))::pg_catalog.text,
                   '' ORDER BY l.name, l.key, l.plan), ''))
            FROM @extschema@.fl_rate_limit AS l WHERE l.limit_id OPERATOR(pg_catalog.>) 0))::pg_catalog.text;
$$;

-- ---------------------------------------------------------------------------
-- The calls of fliplet_ratelimit. They run with the rights of the extension's
-- owner, who has the user mapping, so that callers need nothing but EXECUTE.
-- ---------------------------------------------------------------------------

CREATE FUNCTION @extschema@.fl_rate_check(scope text, key text, api text, cost bigint DEFAULT 1, plan text DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
AS 'MODULE_PATHNAME', 'fl_routed_check';
COMMENT ON FUNCTION @extschema@.fl_rate_check(text, text, text, bigint, text) IS 'spends one request, or raises PT429 when it is refused; returns what remains under the tightest limit, NULL if no limit applies; never sleeps';

CREATE FUNCTION @extschema@.fl_rate_check(scope text, key bigint, api text, cost bigint DEFAULT 1, plan text DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
AS 'MODULE_PATHNAME', 'fl_routed_check_bigint';
COMMENT ON FUNCTION @extschema@.fl_rate_check(text, bigint, text, bigint, text) IS 'spends one request, or raises PT429 when it is refused; returns what remains under the tightest limit, NULL if no limit applies; never sleeps';

CREATE FUNCTION @extschema@.fl_rate_check_all(scopes text[], keys text[], api text, cost bigint DEFAULT 1, plan text DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
AS 'MODULE_PATHNAME', 'fl_routed_check_all';
COMMENT ON FUNCTION @extschema@.fl_rate_check_all(text[], text[], text, bigint, text) IS 'spends one request, or raises PT429 when it is refused; returns what remains under the tightest limit, NULL if no limit applies; never sleeps; several pairs of scope and key, all or nothing, see docs/cluster.md about pairs of several nodes';

CREATE FUNCTION @extschema@.fl_rate_try(scope text, key text, api text, cost bigint DEFAULT 1, plan text DEFAULT NULL)
RETURNS @extschema@.fl_rate_verdict
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
AS 'MODULE_PATHNAME', 'fl_routed_try';
COMMENT ON FUNCTION @extschema@.fl_rate_try(text, text, text, bigint, text) IS 'spends one request if it is granted; never raises because of a limit';

CREATE FUNCTION @extschema@.fl_rate_try(scope text, key bigint, api text, cost bigint DEFAULT 1, plan text DEFAULT NULL)
RETURNS @extschema@.fl_rate_verdict
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
AS 'MODULE_PATHNAME', 'fl_routed_try_bigint';
COMMENT ON FUNCTION @extschema@.fl_rate_try(text, bigint, text, bigint, text) IS 'spends one request if it is granted; never raises because of a limit';

CREATE FUNCTION @extschema@.fl_rate_try_all(scopes text[], keys text[], api text, cost bigint DEFAULT 1, plan text DEFAULT NULL)
RETURNS @extschema@.fl_rate_verdict
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
AS 'MODULE_PATHNAME', 'fl_routed_try_all';
COMMENT ON FUNCTION @extschema@.fl_rate_try_all(text[], text[], text, bigint, text) IS 'spends one request if it is granted; never raises because of a limit; several pairs of scope and key, all or nothing, see docs/cluster.md about pairs of several nodes';

CREATE FUNCTION @extschema@.fl_rate_peek(scope text, key text, api text, cost bigint DEFAULT 1, plan text DEFAULT NULL)
RETURNS @extschema@.fl_rate_verdict
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
AS 'MODULE_PATHNAME', 'fl_routed_peek';
COMMENT ON FUNCTION @extschema@.fl_rate_peek(text, text, text, bigint, text) IS 'what fl_rate_try would answer; spends nothing';

CREATE FUNCTION @extschema@.fl_rate_peek(scope text, key bigint, api text, cost bigint DEFAULT 1, plan text DEFAULT NULL)
RETURNS @extschema@.fl_rate_verdict
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
AS 'MODULE_PATHNAME', 'fl_routed_peek_bigint';
COMMENT ON FUNCTION @extschema@.fl_rate_peek(text, bigint, text, bigint, text) IS 'what fl_rate_try would answer; spends nothing';

CREATE FUNCTION @extschema@.fl_rate_peek_all(scopes text[], keys text[], api text, cost bigint DEFAULT 1, plan text DEFAULT NULL)
RETURNS @extschema@.fl_rate_verdict
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
AS 'MODULE_PATHNAME', 'fl_routed_peek_all';
COMMENT ON FUNCTION @extschema@.fl_rate_peek_all(text[], text[], text, bigint, text) IS 'what fl_rate_try would answer; spends nothing; several pairs of scope and key, all or nothing';

CREATE FUNCTION @extschema@.fl_rate_refund(scope text, key text, api text, cost bigint DEFAULT 1, plan text DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
AS 'MODULE_PATHNAME', 'fl_routed_refund';
COMMENT ON FUNCTION @extschema@.fl_rate_refund(text, text, text, bigint, text) IS 'gives back the oldest spending that is still in the window, at most what is there; returns what remains';

CREATE FUNCTION @extschema@.fl_rate_refund(scope text, key bigint, api text, cost bigint DEFAULT 1, plan text DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
AS 'MODULE_PATHNAME', 'fl_routed_refund_bigint';
COMMENT ON FUNCTION @extschema@.fl_rate_refund(text, bigint, text, bigint, text) IS 'gives back the oldest spending that is still in the window, at most what is there; returns what remains';

CREATE FUNCTION @extschema@.fl_rate_reset(scope text, key text, api text)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
AS 'MODULE_PATHNAME', 'fl_routed_reset';
COMMENT ON FUNCTION @extschema@.fl_rate_reset(text, text, text) IS 'clears what such a request would spend from, saved copies too; returns in how many counters anything was spent';

CREATE FUNCTION @extschema@.fl_rate_reset(scope text, key bigint, api text)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
AS 'MODULE_PATHNAME', 'fl_routed_reset_bigint';
COMMENT ON FUNCTION @extschema@.fl_rate_reset(text, bigint, text) IS 'clears what such a request would spend from, saved copies too; returns in how many counters anything was spent';

CREATE FUNCTION @extschema@.fl_rate_try_batch(scopes text[], keys text[], apis text[], costs bigint[] DEFAULT NULL, plans text[] DEFAULT NULL)
RETURNS SETOF @extschema@.fl_rate_verdict
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER ROWS 100
AS 'MODULE_PATHNAME', 'fl_routed_try_batch';
COMMENT ON FUNCTION @extschema@.fl_rate_try_batch(text[], text[], text[], bigint[], text[]) IS 'many independent requests in one round trip, answered in order';

-- Part of the interface: see docs/cluster.md.
CREATE FUNCTION @extschema@.fl_cluster_hash(scope text, key text) RETURNS integer
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.fl_cluster_hash(text, text) IS 'the hash that routes a key: its slot is the hash modulo the number of slots';

CREATE FUNCTION @extschema@.fl_rate_explain(scope text, key text, api text, plan text DEFAULT NULL)
RETURNS TABLE (name text, limit_id integer, applies boolean, why text, max_requests bigint, period interval,
               used bigint, remaining bigint, granted bigint, refused bigint, next_valid_at timestamptz)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER ROWS 10
AS 'MODULE_PATHNAME', 'fl_routed_explain';
COMMENT ON FUNCTION @extschema@.fl_rate_explain(text, text, text, text) IS 'one row per definition that could apply to such a request, and why it does or does not';

CREATE FUNCTION @extschema@.fl_rate_raise(verdict @extschema@.fl_rate_verdict)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'fl_rate_raise';
COMMENT ON FUNCTION @extschema@.fl_rate_raise(@extschema@.fl_rate_verdict) IS 'raises the refusal that a verdict describes; else returns its remaining';

CREATE FUNCTION @extschema@.fl_rate_body(verdict @extschema@.fl_rate_verdict)
RETURNS jsonb
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'fl_rate_body';
COMMENT ON FUNCTION @extschema@.fl_rate_body(@extschema@.fl_rate_verdict) IS 'the JSON body of a 429: message, referenceUrl, nextValidRequestDate; NULL when allowed';

CREATE FUNCTION @extschema@.fl_rate_headers(verdict @extschema@.fl_rate_verdict)
RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'fl_rate_headers';
COMMENT ON FUNCTION @extschema@.fl_rate_headers(@extschema@.fl_rate_verdict) IS 'the HTTP header fields RateLimit-Policy, RateLimit and Retry-After; {} when no limit applies';

CREATE FUNCTION @extschema@.fl_rate_json(verdict @extschema@.fl_rate_verdict)
RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'fl_rate_json';
COMMENT ON FUNCTION @extschema@.fl_rate_json(@extschema@.fl_rate_verdict) IS 'the verdict for JavaScript: numbers, milliseconds rounded up, dates in ISO 8601';

CREATE FUNCTION @extschema@.fl_rate_json(verdict @extschema@.fl_rate_verdict, form text)
RETURNS json
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'fl_rate_json_as';
COMMENT ON FUNCTION @extschema@.fl_rate_json(@extschema@.fl_rate_verdict, text) IS 'the same as text; or with form ''array'', for client libraries: allowed, reason, remaining, delay, next_valid_at, reset_at, name, limit_id, max_requests, period, now (when refused); times in whole microseconds, dates since 1970';

-- ---------------------------------------------------------------------------
-- The cluster
-- ---------------------------------------------------------------------------

-- The slots and their nodes, as the options of the foreign server.
CREATE VIEW @extschema@.fl_cluster_slots AS
SELECT pg_catalog.substr(o.option_name, 2)::integer AS slot, o.option_value AS node
FROM pg_catalog.pg_foreign_server AS s, pg_catalog.pg_options_to_table(s.srvoptions) AS o
WHERE s.srvname OPERATOR(pg_catalog.=) 'fliplet_ratelimit' AND o.option_name OPERATOR(pg_catalog.~) '^p[0-9]+$';
COMMENT ON VIEW @extschema@.fl_cluster_slots IS 'which slot is on which node';

CREATE FUNCTION @extschema@.fl_cluster_probe(slot integer, OUT answer text, OUT error text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.fl_cluster_probe(integer) IS 'what the node of a slot says about itself, as JSON, or why it does not';

CREATE FUNCTION @extschema@.fl_cluster_failures(OUT closed bigint, OUT open bigint, OUT last_at timestamptz)
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.fl_cluster_failures() IS 'requests on this server since its start that no node judged: refused with an error, granted, and when the last was';

CREATE FUNCTION @extschema@.fl_cluster_status()
RETURNS TABLE (node text, slots integer[], state text, version text, standby boolean, definitions text, error text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ours text := (SELECT e.extversion FROM pg_extension AS e WHERE e.extname = 'fliplet_ratelimit_router');
    usual text;
    answer json;
BEGIN
    FOR node, slots IN
        SELECT s.node, array_agg(s.slot ORDER BY s.slot) FROM @extschema@.fl_cluster_slots AS s GROUP BY s.node ORDER BY min(s.slot)
    LOOP
        SELECT p.answer::json, p.error INTO answer, error FROM @extschema@.fl_cluster_probe(slots[1]) AS p;
        version := answer ->> 'version';
        standby := answer ->> 'standby';
        definitions := answer ->> 'definitions';
        usual := coalesce(usual, definitions);
        state := CASE WHEN error LIKE '% does not answer: %' THEN 'unreachable'
                      WHEN error IS NOT NULL THEN 'error'
                      WHEN version IS DISTINCT FROM ours THEN 'other version'
                      WHEN definitions <> usual THEN 'other definitions'
                      ELSE 'ok' END;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.fl_cluster_status() IS 'one row per node: its slots; ok, unreachable, error, other version, or other definitions than the first node; and why';

-- Raise an error unless all these nodes can be used.
CREATE FUNCTION @extschema@.fl_cluster_verify(this_node text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    s record;
BEGIN
    FOR s IN SELECT * FROM @extschema@.fl_cluster_status() AS t WHERE (this_node IS NULL OR t.node = this_node) AND t.state <> 'ok' LOOP
        RAISE EXCEPTION USING
            ERRCODE = CASE s.state WHEN 'unreachable' THEN 'PT503' ELSE 'object_not_in_prerequisite_state' END,
            MESSAGE = format('rate limit node "%s" cannot be used: %s', s.node, s.state),
            DETAIL = CASE s.state
                WHEN 'other version' THEN format('It has version %s of the extension fliplet_ratelimit.', coalesce(s.version, '(none)'))
                WHEN 'other definitions' THEN 'Its definitions of limits are not those of the first node.'
                ELSE s.error END,
            HINT = CASE s.state
                WHEN 'other definitions' THEN 'Replicate the table fl_rate_limit to all nodes; compare on both: SELECT * FROM fl_rate_limit WHERE limit_id > 0'
                WHEN 'other version' THEN 'Run ALTER EXTENSION fliplet_ratelimit UPDATE there.'
                ELSE '' END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.fl_cluster_verify(text) IS 'raises an error that names the first node (or this one) that cannot be used, and why';

-- Raise an error unless this can be the connection string of a node.
CREATE FUNCTION @extschema@.fl_cluster_check_node(node text) RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF node IS NULL OR node ~ '^\s*$' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a node must be a connection string, not null or empty';
    ELSIF node ~* 'password\s*=' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'the connection string of a node must not contain a password',
            DETAIL = 'Everybody may read the options of a foreign server.',
            HINT = 'Put it into the user mapping: ALTER USER MAPPING FOR ... SERVER fliplet_ratelimit OPTIONS (ADD password ...)';
    END IF;
END
$$;

CREATE FUNCTION @extschema@.fl_cluster_create(nodes text[], slots integer DEFAULT 64) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    n integer := cardinality(nodes);
    owner name := (SELECT r.rolname FROM pg_extension AS e JOIN pg_roles AS r ON r.oid = e.extowner WHERE e.extname = 'fliplet_ratelimit_router');
BEGIN
    IF coalesce(n, 0) = 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a cluster needs at least one node';
    ELSIF array_ndims(nodes) > 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'array_subscript_error', MESSAGE = 'nodes must be a one-dimensional array';
    ELSIF slots IS NULL OR slots < 1 OR slots > 4096 OR slots & (slots - 1) <> 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'slots must be a power of two of at most 4096';
    ELSIF slots < n THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('%s nodes need at least as many slots', n);
    END IF;
    PERFORM @extschema@.fl_cluster_check_node(u.node) FROM unnest(nodes) AS u (node);
    IF (SELECT count(DISTINCT u.node) FROM unnest(nodes) AS u (node)) < n THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a node must be named only once';
    ELSIF EXISTS (SELECT FROM pg_foreign_server AS s WHERE s.srvname = 'fliplet_ratelimit') THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object', MESSAGE = 'there is a cluster already',
            HINT = 'Change it with fl_cluster_move(), or remove it: DROP SERVER fliplet_ratelimit CASCADE';
    END IF;

    -- Each node gets a run of slots, so that owner_check has one range.
    EXECUTE format('CREATE SERVER fliplet_ratelimit FOREIGN DATA WRAPPER plproxy OPTIONS (query_timeout ''5'', connection_lifetime ''1800'', %s)',
                   (SELECT string_agg(format('p%s %L', i, nodes[array_lower(nodes, 1) + (i::bigint * n / slots)::integer]), ', ' ORDER BY i)
                    FROM generate_series(0, slots - 1) AS i));
    EXECUTE format('GRANT USAGE ON FOREIGN SERVER fliplet_ratelimit TO %I', owner);
    EXECUTE format('CREATE USER MAPPING FOR %I SERVER fliplet_ratelimit OPTIONS (user %L)', owner, owner);
    PERFORM @extschema@.fl_cluster_verify();
END
$$;
COMMENT ON FUNCTION @extschema@.fl_cluster_create(text[], integer) IS 'makes the cluster: connection strings of its nodes, without passwords, and into how many slots keys are divided, a power of two';

CREATE FUNCTION @extschema@.fl_cluster_move(slot integer, node text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    slots bigint := (SELECT count(*) FROM @extschema@.fl_cluster_slots);
BEGIN
    IF slots = 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = 'there is no cluster of rate limit nodes', HINT = 'Call fl_cluster_create().';
    ELSIF slot IS NULL OR slot < 0 OR slot >= slots THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('slot must be between 0 and %s', slots - 1);
    END IF;
    PERFORM @extschema@.fl_cluster_check_node(node);
    EXECUTE format('ALTER SERVER fliplet_ratelimit OPTIONS (SET p%s %L)', slot, node);
    PERFORM @extschema@.fl_cluster_verify(node);
END
$$;
COMMENT ON FUNCTION @extschema@.fl_cluster_move(integer, text) IS 'puts a slot on another node, from the commit on; the counters of its keys begin afresh there';

-- ---------------------------------------------------------------------------
-- Rights: as in fliplet_ratelimit, PUBLIC may run only what touches no counter.
-- ---------------------------------------------------------------------------

DO $$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        WITH member AS (
            SELECT d.classid, d.objid
            FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_extension AS e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
            WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
              AND d.deptype OPERATOR(pg_catalog.=) 'e' AND e.extname OPERATOR(pg_catalog.=) 'fliplet_ratelimit_router'
        ), member_acl AS (
            SELECT 'FUNCTION' AS kind, p.oid::pg_catalog.regprocedure::pg_catalog.text AS name, p.proowner AS owner,
                   coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)) AS acl,
                   p.proname OPERATOR(pg_catalog.=) ANY
                       ('{fl_rate_raise,fl_rate_body,fl_rate_headers,fl_rate_json,fl_cluster_hash}'::pg_catalog.name[]) AS for_public
            FROM member AS m JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) m.objid
            WHERE m.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
            UNION ALL
            SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::pg_catalog.regclass::pg_catalog.text, c.relowner, c.relacl, false
            FROM member AS m JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) m.objid
            WHERE m.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
              AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,v,S}'::pg_catalog."char"[])
        )
        SELECT DISTINCT a.kind, a.name, x.grantee
        FROM member_acl AS a, pg_catalog.aclexplode(a.acl) AS x
        WHERE x.grantee OPERATOR(pg_catalog.<>) a.owner AND NOT (a.for_public AND x.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid)
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON %s %s FROM %s', granted.kind, granted.name,
                                  CASE WHEN granted.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'PUBLIC'
                                       ELSE granted.grantee::pg_catalog.regrole::pg_catalog.text END);
    END LOOP;
END
$$;
GRANT SELECT ON @extschema@.fl_cluster_slots TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.fl_cluster_status(), @extschema@.fl_cluster_probe(integer), @extschema@.fl_cluster_failures() TO pg_monitor;
