-- router.sql: a router, and other ways to another server, to compare with
--
-- Variable: nodes (a list of connection strings, quoted).

CREATE EXTENSION plproxy;
CREATE EXTENSION fliplet_ratelimit_router;
CREATE EXTENSION dblink;
SELECT fl_cluster_create(ARRAY[:nodes]);

CREATE FUNCTION bench_bare(scope text, key text, api text) RETURNS bigint LANGUAGE plproxy AS $$
    CLUSTER 'fliplet_ratelimit';
    RUN ON 0;
    SELECT bench_empty($1, $2, $3);
$$;

CREATE FUNCTION bench_bytes(scope text, key text, api text) RETURNS bytea LANGUAGE plproxy AS $$
    CLUSTER 'fliplet_ratelimit';
    RUN ON 0;
    SELECT bench_bytes($1, $2, $3);
$$;

CREATE FUNCTION bench_dblink(k text) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    IF dblink_get_connections() IS NULL THEN
        PERFORM dblink_connect('node', 'dbname=postgres');
    END IF;
    RETURN (SELECT r FROM dblink('node', format('SELECT fl_rate_check(%L, %L, %L)', 'user', k, 'bench')) AS d (r bigint));
END
$$;
