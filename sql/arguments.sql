-- Bad input gets a clear error and changes nothing.
\getenv directory PG_ABS_SRCDIR
\set answer :directory /test/answer.sql
\i :answer

-- No limit is off by accident: NULL is an error in every place but the plan.
SELECT pg_temp.answers(
	$$SELECT fl_rate_check(NULL, 'k', 'ai')$$, $$SELECT fl_rate_check('user', NULL, 'ai')$$, $$SELECT fl_rate_check('user', NULL::bigint, 'ai')$$,
	$$SELECT fl_rate_check('user', 'k', NULL)$$, $$SELECT fl_rate_check('user', 'k', 'ai', NULL)$$, $$SELECT fl_rate_check('user', 1, 'ai', NULL)$$,
	$$SELECT fl_rate_try(NULL, 'k', 'ai')$$, $$SELECT fl_rate_try('user', NULL, 'ai')$$, $$SELECT fl_rate_try('user', NULL::bigint, 'ai')$$,
	$$SELECT fl_rate_try('user', 'k', NULL)$$, $$SELECT fl_rate_try('user', 'k', 'ai', NULL)$$,
	$$SELECT fl_rate_peek(NULL, 'k', 'ai')$$, $$SELECT fl_rate_peek('user', NULL, 'ai')$$, $$SELECT fl_rate_peek('user', NULL::bigint, 'ai')$$,
	$$SELECT fl_rate_peek('user', 'k', NULL)$$, $$SELECT fl_rate_peek('user', 'k', 'ai', NULL)$$);
SELECT pg_temp.answers(
	$$SELECT fl_rate_wait(NULL, 'k', 'ai')$$, $$SELECT fl_rate_wait('user', NULL, 'ai')$$, $$SELECT fl_rate_wait('user', NULL::bigint, 'ai')$$,
	$$SELECT fl_rate_wait('user', 'k', NULL)$$, $$SELECT fl_rate_wait('user', 'k', 'ai', NULL)$$, $$SELECT fl_rate_wait('user', 'k', 'ai', max_wait => NULL)$$,
	$$SELECT fl_rate_refund(NULL, 'k', 'ai')$$, $$SELECT fl_rate_refund('user', NULL, 'ai')$$, $$SELECT fl_rate_refund('user', NULL::bigint, 'ai')$$,
	$$SELECT fl_rate_refund('user', 'k', NULL)$$, $$SELECT fl_rate_refund('user', 'k', 'ai', NULL)$$,
	$$SELECT fl_rate_reset(NULL, 'k', 'ai')$$, $$SELECT fl_rate_reset('user', NULL, 'ai')$$, $$SELECT fl_rate_reset('user', NULL::bigint, 'ai')$$, $$SELECT fl_rate_reset('user', 'k', NULL)$$,
	$$SELECT fl_rate_forget(NULL, 'k')$$, $$SELECT fl_rate_forget('user', NULL)$$,
	$$SELECT fl_rate_age(NULL, 'k', 'ai', '1 s')$$, $$SELECT fl_rate_age('user', NULL, 'ai', '1 s')$$, $$SELECT fl_rate_age('user', 'k', NULL, '1 s')$$, $$SELECT fl_rate_age('user', 'k', 'ai', NULL)$$,
	$$SELECT * FROM fl_rate_explain(NULL, 'k', 'ai')$$, $$SELECT * FROM fl_rate_explain('user', NULL, 'ai')$$, $$SELECT * FROM fl_rate_explain('user', 'k', NULL)$$,
	$$SELECT fl_rate_raise(NULL)$$, $$SELECT fl_rate_body(NULL)$$, $$SELECT fl_rate_headers(NULL)$$, $$SELECT fl_rate_json(NULL)$$, $$SELECT fl_rate_json(NULL, 'array')$$, $$SELECT fl_rate_json('(t,,,,,,,,,,,,)', NULL)$$);
SELECT pg_temp.answers(
	$$SELECT * FROM fl_rate_simulate(NULL, '1 s', '{}')$$, $$SELECT * FROM fl_rate_simulate(1, NULL, '{}')$$, $$SELECT * FROM fl_rate_simulate(1, '1 s', NULL)$$,
	$$SELECT * FROM fl_rate_simulate(1, '1 s', '{}', algorithm => NULL)$$,
	$$SELECT fl_rate_check_all(NULL, '{k}', 'ai')$$, $$SELECT fl_rate_check_all('{user}', NULL, 'ai')$$, $$SELECT fl_rate_check_all('{user}', '{k}', NULL)$$, $$SELECT fl_rate_check_all('{user}', '{k}', 'ai', NULL)$$,
	$$SELECT fl_rate_try_all(NULL, '{k}', 'ai')$$, $$SELECT fl_rate_try_all('{user}', NULL, 'ai')$$, $$SELECT fl_rate_try_all('{user}', '{k}', NULL)$$, $$SELECT fl_rate_try_all('{user}', '{k}', 'ai', NULL)$$,
	$$SELECT fl_rate_peek_all(NULL, '{k}', 'ai')$$, $$SELECT fl_rate_peek_all('{user}', NULL, 'ai')$$, $$SELECT fl_rate_peek_all('{user}', '{k}', NULL)$$, $$SELECT fl_rate_peek_all('{user}', '{k}', 'ai', NULL)$$,
	$$SELECT fl_rate_try_batch(NULL, '{k}', '{ai}')$$, $$SELECT fl_rate_try_batch('{user}', NULL, '{ai}')$$, $$SELECT fl_rate_try_batch('{user}', '{k}', NULL)$$);
-- The plan may be NULL.
SELECT pg_temp.answers($$SELECT fl_rate_check('user', 'k', 'ai', plan => NULL)$$, $$SELECT fl_rate_check('user', 7, 'ai', plan => NULL)$$, $$SELECT fl_rate_check_all('{user}', '{k}', 'ai', plan => NULL)$$);

-- Empty strings
SELECT pg_temp.answers(
	$$SELECT fl_rate_check('', 'k', 'ai')$$, $$SELECT fl_rate_check('user', '', 'ai')$$, $$SELECT fl_rate_check('user', 'k', '')$$, $$SELECT fl_rate_check('user', 'k', 'ai', plan => '')$$,
	$$SELECT fl_rate_try('user', '', 'ai')$$, $$SELECT fl_rate_peek('user', '', 'ai')$$, $$SELECT fl_rate_wait('user', '', 'ai')$$, $$SELECT fl_rate_refund('user', '', 'ai')$$, $$SELECT fl_rate_reset('user', '', 'ai')$$,
	$$SELECT fl_rate_forget('', 'k')$$, $$SELECT fl_rate_forget('user', '')$$, $$SELECT fl_rate_age('user', '', 'ai', '1 s')$$, $$SELECT * FROM fl_rate_explain('user', '', 'ai')$$,
	$$SELECT fl_rate_check_all('{""}', '{k}', 'ai')$$, $$SELECT fl_rate_check_all('{user}', '{""}', 'ai')$$, $$SELECT fl_rate_check_all('{user}', '{k}', '')$$, $$SELECT fl_rate_try_batch('{user}', '{""}', '{ai}')$$);

-- '*' is no key and no API of a request.
SELECT pg_temp.answers(
	$$SELECT fl_rate_check('user', '*', 'ai')$$, $$SELECT fl_rate_check('user', 'k', '*')$$, $$SELECT fl_rate_try('user', 'k', '*')$$, $$SELECT fl_rate_peek('user', '*', 'ai')$$, $$SELECT fl_rate_wait('user', '*', 'ai')$$,
	$$SELECT fl_rate_check_all('{user}', '{*}', 'ai')$$, $$SELECT fl_rate_check_all('{user}', '{k}', '*')$$, $$SELECT fl_rate_try_batch('{user}', '{k}', '{*}')$$);
SELECT pg_temp.answer($$SELECT fl_rate_check('*', 'k', 'ai')$$) ~ '^(22023|42704) ';
-- ... but it may be part of one.
SELECT pg_temp.answers($$SELECT fl_rate_check('user', '**', 'ai')$$, $$SELECT fl_rate_check('user', 'a*', 'ai')$$);

-- Names: 1 to 63 printable ASCII characters without " and \
SELECT pg_temp.answers(
	format('SELECT fl_rate_check(%L, ''k'', ''ai'')', repeat('s', 64)), format('SELECT fl_rate_check(''user'', ''k'', %L)', repeat('a', 64)), format('SELECT fl_rate_check(''user'', ''k'', ''ai'', plan => %L)', repeat('p', 64)),
	$$SELECT fl_rate_check('üser', 'k', 'ai')$$, $$SELECT fl_rate_check('user', 'k', 'äi')$$, $$SELECT fl_rate_check('user', 'k', 'ai', plan => 'plän')$$,
	$$SELECT fl_rate_check('us"er', 'k', 'ai')$$, $$SELECT fl_rate_check('user', 'k', 'a"i')$$, $$SELECT fl_rate_check('user', 'k', 'ai', plan => 'p"')$$,
	$$SELECT fl_rate_check('us\er', 'k', 'ai')$$, $$SELECT fl_rate_check('user', 'k', 'a\i')$$, $$SELECT fl_rate_check('user', 'k', 'ai', plan => 'p\')$$,
	$$SELECT fl_rate_check('user', 'k', E'ai\n')$$, $$SELECT fl_rate_check(E'user\r', 'k', 'ai')$$, $$SELECT fl_rate_check('user', 'k', 'ai', plan => E'\x7f')$$);
-- ... of 63 characters they are as good as any.
SELECT pg_temp.answer(format('SELECT fl_rate_check(''user'', ''k'', ''ai'', plan => %L)', repeat('p', 63)));
-- Also with undefined_limit = allow what is no name is an error.
SET fliplet_ratelimit.undefined_limit = 'allow';
SELECT pg_temp.answers($$SELECT fl_rate_check('user', 'k', 'a"i')$$, $$SELECT fl_rate_check('', 'k', 'ai')$$, $$SELECT fl_rate_check('user', 'k', '*')$$, $$SELECT fl_rate_check('user', 'k', 'unknown')$$, $$SELECT fl_rate_check('unknown', 'k', 'ai')$$);
SELECT v.allowed, v.reason, v.remaining FROM fl_rate_try('unknown', 'k', 'unknown') AS v;
RESET fliplet_ratelimit.undefined_limit;

-- Unknown scopes and APIs are errors, with a hint that names what is close.
SELECT pg_temp.answers(
	$$SELECT fl_rate_check('usr', 'k', 'ai')$$, $$SELECT fl_rate_check('User', 'k', 'ai')$$, $$SELECT fl_rate_check('organization', 'k', 'ai')$$,
	$$SELECT fl_rate_check('user', 'k', 'data-source')$$, $$SELECT fl_rate_check('user', 'k', 'data_sources')$$, $$SELECT fl_rate_check('user', 'k', 'Ai')$$, $$SELECT fl_rate_check('user', 'k', 'comunicate')$$,
	$$SELECT fl_rate_try('usr', 'k', 'ai')$$, $$SELECT fl_rate_peek('user', 'k', 'audit-log')$$, $$SELECT fl_rate_wait('user', 'k', 'audit-log')$$, $$SELECT fl_rate_refund('user', 'k', 'audit-log')$$, $$SELECT fl_rate_reset('user', 'k', 'audit-log')$$,
	$$SELECT fl_rate_age('user', 'k', 'audit-log', '1 s')$$, $$SELECT fl_rate_check_all('{user,apps}', '{k,k}', 'ai')$$, $$SELECT fl_rate_try_batch('{user}', '{k}', '{aj}')$$,
	$$SELECT fl_rate_check('zzzzzzzzzz', 'k', 'ai')$$, $$SELECT fl_rate_check('user', 'k', 'zzzzzzzzzz')$$);

-- Costs
SELECT pg_temp.answers(
	$$SELECT fl_rate_check('user', 'k', 'ai', 0)$$, $$SELECT fl_rate_check('user', 'k', 'ai', -1)$$, $$SELECT fl_rate_check('user', 'k', 'ai', -9223372036854775808)$$, $$SELECT fl_rate_check('user', 7, 'ai', 0)$$,
	$$SELECT fl_rate_try('user', 'k', 'ai', 0)$$, $$SELECT fl_rate_peek('user', 'k', 'ai', 0)$$, $$SELECT fl_rate_wait('user', 'k', 'ai', 0)$$, $$SELECT fl_rate_refund('user', 'k', 'ai', 0)$$,
	$$SELECT fl_rate_check_all('{user}', '{k}', 'ai', 0)$$, $$SELECT fl_rate_try_batch('{user}', '{k}', '{ai}', '{0}')$$, $$SELECT fl_rate_try_batch('{user}', '{k}', '{ai}', '{NULL}')$$);
-- The largest is too large for a limit, and no trouble for an exemption or a limit of its size.
SELECT v.allowed, v.reason, v.remaining, v.next_valid_at FROM fl_rate_try('user', 'huge', 'ai', 9223372036854775807) AS v;
SELECT pg_temp.answer($$SELECT fl_rate_check('user', 'huge', 'ai', 9223372036854775807)$$);
INSERT INTO fl_rate_limit (name, scope, api, key, max_requests, period) VALUES ('fliplet/ai', 'user', 'ai', 'exempt', NULL, NULL), ('fliplet/ai', 'user', 'ai', 'largest', 9223372036854775807, '1 h');
SELECT pg_temp.answers($$SELECT fl_rate_check('user', 'exempt', 'ai', 9223372036854775807)$$, $$SELECT fl_rate_check('user', 'largest', 'ai')$$, $$SELECT fl_rate_check('user', 'largest', 'ai', 9223372036854775806)$$,
	$$SELECT fl_rate_check('user', 'largest', 'ai')$$, $$SELECT fl_rate_check('user', 'largest', 'ai', 9223372036854775807)$$, $$SELECT fl_rate_refund('user', 'largest', 'ai', 9223372036854775807)$$,
	$$SELECT fl_rate_check('user', 'largest', 'ai', 9223372036854775807)$$);
INSERT INTO fl_rate_limit (name, scope, api, key, max_requests, period, algorithm, burst) VALUES
	('fliplet/ai', 'user', 'ai', 'bucket', 9223372036854775807, '1 h', 'token_bucket', NULL), ('fliplet/ai', 'user', 'ai', 'calendar', 9223372036854775807, '100 years', 'fixed_window', NULL);
SELECT pg_temp.answers($$SELECT fl_rate_check('user', 'bucket', 'ai', 9223372036854775807)$$,
	$$SELECT fl_rate_check('user', 'calendar', 'ai')$$, $$SELECT fl_rate_check('user', 'calendar', 'ai', 9223372036854775806)$$, $$SELECT fl_rate_check('user', 'calendar', 'ai', 9223372036854775807)$$);

-- Keys: any text, of any length
SELECT pg_temp.answers($$SELECT fl_rate_check('user', repeat('x', 1048576), 'ai')$$, $$SELECT fl_rate_check('user', repeat('x', 1048576), 'ai')$$, $$SELECT fl_rate_check('user', repeat('x', 1048575) || 'y', 'ai')$$,
	$$SELECT fl_rate_check('user', 'schlüssel "\ ✓', 'ai')$$, $$SELECT fl_rate_check('user', ' ', 'ai')$$, $$SELECT fl_rate_check('user', '  ', 'ai')$$, $$SELECT fl_rate_check('user', E'new\nline', 'ai')$$,
	$$SELECT fl_rate_check('user', (-9223372036854775808)::bigint, 'ai')$$, $$SELECT fl_rate_check('user', '-9223372036854775808', 'ai')$$);
SELECT v.allowed, length(v.key) FROM fl_rate_try('user', repeat('x', 1048576), 'ai') AS v;
-- Views keep the first 64 bytes, cut at a character's boundary.
SELECT fl_rate_check('user', repeat('é', 40), 'ai'), fl_rate_check('user', 'x' || repeat('é', 40), 'ai'), fl_rate_check('user', 'xx' || repeat('✓', 40), 'ai');
SELECT octet_length(key), length(key) FROM fl_rate_counters WHERE key ~ '[é✓]{5}' ORDER BY 1 DESC, 2 DESC;
SELECT DISTINCT octet_length(key) FROM fl_rate_counters WHERE key LIKE 'xxxxxxxx%';
-- Two values of a toasted, compressed column are as good as any.
CREATE TEMP TABLE subject (key text);
INSERT INTO subject VALUES (repeat('toasted', 10000)), (repeat('toasted', 10001));
SELECT fl_rate_check('user', key, 'ai') FROM subject UNION ALL SELECT fl_rate_check('user', key, 'ai') FROM subject;
-- A key is the same however it is stored (packed, compressed, out of line), alone or in an array.
CREATE TEMP TABLE stored (kind text, key text);
ALTER TABLE stored ALTER key SET STORAGE EXTERNAL;
INSERT INTO stored VALUES ('packed', 'packed'), ('out of line', repeat('stored', 2000));
ALTER TABLE stored ALTER key SET STORAGE MAIN;
INSERT INTO stored VALUES ('compressed', repeat('squeezed', 2000));
SELECT kind, fl_rate_check('user', key, 'ai'), fl_rate_check('user', CASE kind WHEN 'packed' THEN 'packed' WHEN 'compressed' THEN repeat('squeezed', 2000) ELSE repeat('stored', 2000) END, 'ai'), fl_rate_check_all('{user}', ARRAY[key], 'ai'), (fl_rate_try_all('{user}', ARRAY[key], 'ai')).remaining, (SELECT b.remaining FROM fl_rate_try_batch('{user}', ARRAY[key], '{ai}') AS b), fl_rate_refund('user', key, 'ai')
FROM stored ORDER BY kind;
SELECT count(*) FROM fl_rate_counters WHERE key ~ '^(packed|stored|squeezed)' AND used = 4;

-- Arrays: unequal, with NULLs, empty, multi-dimensional, too long, with a pair twice
SELECT pg_temp.answers(
	$$SELECT fl_rate_check_all('{user,app}', '{k}', 'ai')$$, $$SELECT fl_rate_check_all('{user}', '{k,l}', 'ai')$$, $$SELECT fl_rate_check_all('{}', '{}', 'ai')$$, $$SELECT fl_rate_check_all('{user}', '{}', 'ai')$$,
	$$SELECT fl_rate_check_all('{user,NULL}', '{k,l}', 'ai')$$, $$SELECT fl_rate_check_all('{user,app}', '{k,NULL}', 'ai')$$,
	$$SELECT fl_rate_check_all('{{user,app}}', '{k,l}', 'ai')$$, $$SELECT fl_rate_check_all('{user,app}', '{{k},{l}}', 'ai')$$, $$SELECT fl_rate_check_all('{{user,app}}', '{{k,l}}', 'ai')$$,
	$$SELECT fl_rate_check_all('{user,app,user}', '{k,k,k}', 'ai')$$, $$SELECT fl_rate_check_all(array_fill('user'::text, '{17}'), ARRAY(SELECT i::text FROM generate_series(1, 17) AS i), 'ai')$$,
	$$SELECT fl_rate_try_all('{user,app}', '{k}', 'ai')$$, $$SELECT fl_rate_try_all('{}', '{}', 'ai')$$, $$SELECT fl_rate_try_all('{user,user}', '{k,k}', 'ai')$$, $$SELECT fl_rate_peek_all('{user,user}', '{k,k}', 'ai')$$,
	$$SELECT fl_rate_peek_all('{user,app}', '{k}', 'ai')$$, $$SELECT fl_rate_peek_all(array_fill('user'::text, '{17}'), ARRAY(SELECT i::text FROM generate_series(1, 17) AS i), 'ai')$$);
-- 16 pairs are not too many, and arrays need not begin at 1.
SELECT pg_temp.answers($$SELECT fl_rate_check_all(array_fill('user'::text, '{16}'), ARRAY(SELECT i::text FROM generate_series(1, 16) AS i), 'ai')$$,
	$$SELECT fl_rate_check_all('[5:6]={user,app}', '[-1:0]={base,base}', 'ai')$$);
SELECT pg_temp.answers(
	$$SELECT fl_rate_try_batch('{user,app}', '{k}', '{ai}')$$, $$SELECT fl_rate_try_batch('{user}', '{k}', '{ai,ai}')$$, $$SELECT fl_rate_try_batch('{user}', '{k}', '{ai}', '{1,2}')$$, $$SELECT fl_rate_try_batch('{user}', '{k}', '{ai}', NULL, '{p,q}')$$,
	$$SELECT fl_rate_try_batch('{NULL}', '{k}', '{ai}')$$, $$SELECT fl_rate_try_batch('{user}', '{NULL}', '{ai}')$$, $$SELECT fl_rate_try_batch('{user}', '{k}', '{NULL}')$$,
	$$SELECT fl_rate_try_batch('{{user}}', '{{k}}', '{{ai}}')$$, $$SELECT fl_rate_try_batch('{user}', '{k}', '{ai}', '{{1}}')$$, $$SELECT fl_rate_try_batch('{user}', '{k}', '{ai}', NULL, '{{p}}')$$);

-- A plan is a plan or NULL.
SELECT pg_temp.answers($$SELECT fl_rate_check('user', 'k', 'ai', plan => '')$$, $$SELECT fl_rate_try('user', 'k', 'ai', plan => '')$$, $$SELECT fl_rate_try_batch('{user}', '{k}', '{ai}', NULL, '{""}')$$, $$SELECT fl_rate_explain('user', 'k', 'ai', '')$$, $$SELECT count(*) FROM fl_rate_explain('user', 'k', 'ai', NULL)$$);

-- Intervals
SELECT pg_temp.answers(
	$$SELECT fl_rate_wait('user', 'k', 'ai', max_wait => '-1 s')$$, $$SELECT fl_rate_age('user', 'k', 'ai', '-1 s')$$, $$SELECT fl_rate_age('user', 'k', 'ai', '1000 years')$$);

-- Nothing of this has spent anything but the good ones; an error in the last pair or element leaves the first unspent.
SELECT fl_rate_reset_all() > 0;
SELECT pg_temp.answers($$SELECT fl_rate_check_all('{user,usr}', '{first,k}', 'ai')$$, $$SELECT fl_rate_check_all('{user,app}', '{first,""}', 'ai')$$,
	$$SELECT * FROM fl_rate_try_batch('{user,usr}', '{first,k}', '{ai,ai}')$$, $$SELECT * FROM fl_rate_try_batch('{user,user}', '{first,k}', '{ai,aj}')$$, $$SELECT * FROM fl_rate_try_batch('{user,user}', '{first,""}', '{ai,ai}')$$,
	$$SELECT * FROM fl_rate_try_batch('{user,user}', '{first,k}', '{ai,ai}', '{1,0}')$$, $$SELECT * FROM fl_rate_try_batch('{user,user}', '{first,k}', '{ai,ai}', NULL, '{NULL,"p\""}')$$);
SELECT count(*) FROM fl_rate_counters;
SELECT fl_rate_check('user', 'first', 'ai');

SET client_min_messages = warning;
DROP EXTENSION fliplet_ratelimit CASCADE;
