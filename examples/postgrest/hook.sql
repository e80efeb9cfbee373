-- hook.sql: rate limits for every request that PostgREST makes
--
-- Run it once, as a superuser, in the database of the API, and name the roles
-- that PostgREST switches to (db-anon-role, and those that tokens name), which
-- have to be there:
--
--   psql -d api -v roles='web_anon, web_user' -f hook.sql
--
-- It is meant to be copied and changed: the mapping at the end, and the two
-- places marked CHOOSE. README.md has PostgREST's side of it.

-- Copyright (c) 2026, the fliplet_ratelimit developers

\set ON_ERROR_STOP on

BEGIN;

-- Two schemas, neither of them among db-schemas: what PostgREST exposes, any
-- client may call. Where the database has the extension already, leave out
-- the next two lines and put its schema in place of "ratelimit".
CREATE SCHEMA ratelimit;
CREATE EXTENSION fliplet_ratelimit SCHEMA ratelimit;
CREATE SCHEMA ratelimit_hook;

-- The hook runs as this role, which can do nothing else.
CREATE ROLE ratelimit_hook NOLOGIN;
GRANT USAGE ON SCHEMA ratelimit, ratelimit_hook TO ratelimit_hook;
GRANT EXECUTE ON FUNCTION
	ratelimit.fl_rate_check_all(text[], text[], text, bigint, text),
	ratelimit.fl_rate_peek_all(text[], text[], text, bigint, text)
TO ratelimit_hook;

-- Which requests are requests of which API. The path is the one after the
-- server's name, not percent-encoded; "*" is every path or method that no
-- other row names. The row with the path comes before the one with the method.
CREATE TABLE ratelimit_hook.api_of (
	path text NOT NULL CHECK (path = '*' OR path ~ '^/'),
	method text NOT NULL DEFAULT '*' CHECK (method = upper(method)),
	api text NOT NULL,
	PRIMARY KEY (path, method)
);
COMMENT ON TABLE ratelimit_hook.api_of IS 'which requests spend from which API''s limits';
GRANT SELECT ON ratelimit_hook.api_of TO ratelimit_hook;

-- A setting that holds a JSON object. Not set: NULL. Anything but an object,
-- or nothing that jsonb can hold: JSON's null.
CREATE FUNCTION ratelimit_hook.object_setting(name text) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	-- Settings of an earlier transaction are empty, not gone.
	value jsonb := nullif(current_setting(name, true), '');
BEGIN
	RETURN CASE WHEN jsonb_typeof(value) <> 'object' THEN 'null' ELSE value END;
END
$$;

-- The path as bytes, percent-decoded as PostgREST does before it looks for the
-- table: request.path is what the client has sent, and /%65ntries is /entries.
-- Bytes, because what was encoded need not be text.
CREATE FUNCTION ratelimit_hook.decoded(path text) RETURNS bytea
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT string_agg(CASE WHEN m[1] IS NULL THEN convert_to(m[2], 'UTF8') ELSE decode(m[1], 'hex') END, '' ORDER BY n)
	FROM regexp_matches(path, '%([0-9A-Fa-f]{2})|([^%]+|%)', 'g') WITH ORDINALITY AS t (m, n)
$$;

-- What an anonymous request is counted under: one key for all of them, or, if
-- PostgREST is told which header holds the address (app.settings, see
-- README.md), one for each address, of IPv6 for each network of 64 bits. A
-- header that holds no address counts with those that have none.
CREATE FUNCTION ratelimit_hook.anonymous_key() RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	header text := lower(current_setting('app.settings.client_address_header', true));
	address inet;
BEGIN
	IF header <> '' THEN
		address := ratelimit_hook.object_setting('request.headers') ->> header;
		-- an IPv4 address in IPv6's clothes
		address := regexp_replace(host(address), '^::ffff:(\d+\.)', '\1');
		IF family(address) = 6 THEN
			address := network(set_masklen(address, 64));
		END IF;
	END IF;
	RETURN concat_ws(' ', '(anonymous)', host(address));
EXCEPTION
	WHEN data_exception OR program_limit_exceeded THEN
		RETURN '(anonymous)';
END
$$;

-- The key that a claim holds, NULL if it is not there. Keys of one kind must
-- not pass for keys of another: "(" begins what this file makes up.
CREATE FUNCTION ratelimit_hook.key_of(claims jsonb, claim text) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	key text := claims ->> claim;
BEGIN
	IF key IS NOT NULL AND (jsonb_typeof(claims -> claim) NOT IN ('string', 'number')
		OR key !~ '^[^(]' OR length(key) > 255) THEN
		RAISE SQLSTATE 'PT401' USING
			MESSAGE = format('the claim "%s" of the token cannot be used', claim),
			HINT = 'It has to be a number, or a text of 1 to 255 characters that does not begin with "(".';
	END IF;
	RETURN key;
END
$$;

-- The hook: spends one request, or raises
CREATE FUNCTION ratelimit_hook.limit_request() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET fliplet_ratelimit.error_style = 'pgrst'	-- CHOOSE: or 'plain', see README.md
AS $$
DECLARE
	claims jsonb;
	request_path bytea := ratelimit_hook.decoded(current_setting('request.path', true));
	scopes CONSTANT text[] := '{user,app}';
	keys text[];
	request_api text;
	headers jsonb;
BEGIN
	BEGIN
		claims := ratelimit_hook.object_setting('request.jwt.claims');
	EXCEPTION
		WHEN data_exception OR program_limit_exceeded THEN
			claims := 'null';
	END;
	IF claims = 'null' THEN
		RAISE SQLSTATE 'PT401' USING MESSAGE = 'the claims of the token cannot be read';
	END IF;

	-- CHOOSE: the claims that say who it is, and of which app
	keys := ARRAY[
		coalesce(ratelimit_hook.key_of(claims, 'sub'), ratelimit_hook.anonymous_key()),
		coalesce(ratelimit_hook.key_of(claims, 'app_id'), '(no app)')];

	SELECT a.api INTO request_api
	FROM ratelimit_hook.api_of AS a
	WHERE (a.path = '*' OR convert_to(a.path, 'UTF8') = request_path)
		AND a.method IN ('*', current_setting('request.method', true))
	ORDER BY a.path = '*', a.method = '*'
	LIMIT 1;
	IF request_api IS NULL THEN
		RAISE SQLSTATE 'PT404' USING MESSAGE = 'there is no API at this path';
	END IF;

	-- Both or none. At a throttle this refuses: nobody here could wait.
	PERFORM ratelimit.fl_rate_check_all(scopes, keys, request_api);

	-- What is left, for the client: an array of objects with one key each
	headers := ratelimit.fl_rate_headers(ratelimit.fl_rate_peek_all(scopes, keys, request_api)) - 'Retry-After';
	IF headers <> '{}' THEN
		PERFORM set_config('response.headers',
			(coalesce(nullif(current_setting('response.headers', true), '')::jsonb, '[]')
				|| (SELECT jsonb_agg(jsonb_build_object(h.key, h.value)) FROM jsonb_each(headers) AS h))::text,
			true);
	END IF;
END
$$;

ALTER FUNCTION ratelimit_hook.object_setting(text) OWNER TO ratelimit_hook;
ALTER FUNCTION ratelimit_hook.decoded(text) OWNER TO ratelimit_hook;
ALTER FUNCTION ratelimit_hook.anonymous_key() OWNER TO ratelimit_hook;
ALTER FUNCTION ratelimit_hook.key_of(jsonb, text) OWNER TO ratelimit_hook;
ALTER FUNCTION ratelimit_hook.limit_request() OWNER TO ratelimit_hook;

-- Whoever may call it directly can set the claims as well, and spend for others.
REVOKE ALL ON FUNCTION
	ratelimit_hook.object_setting(text), ratelimit_hook.decoded(text), ratelimit_hook.anonymous_key(),
	ratelimit_hook.key_of(jsonb, text), ratelimit_hook.limit_request()
FROM PUBLIC;
GRANT USAGE ON SCHEMA ratelimit_hook TO :roles;
GRANT EXECUTE ON FUNCTION ratelimit_hook.limit_request() TO :roles;

-- The mapping, to be replaced by your own. Without a row for "*", a path that
-- no row names is answered 404.
INSERT INTO ratelimit_hook.api_of (path, method, api) VALUES
	('/messages', 'POST', 'communicate'),
	('/audit_logs', '*', 'audit-logs'),
	('/rpc/run_action', '*', 'app-actions'),
	('*', '*', 'data-sources');

COMMIT;
