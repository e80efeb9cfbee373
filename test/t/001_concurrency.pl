
# Eight clients at once: exact limits, and all or nothing over several of them
#
# A client notes the time before and after each request. A grant happened
# somewhere between the two, so more than N grants are proven for a window when
# all of them lie within it with both their times; and a refusal was wrong when
# even with the benefit of the doubt fewer than N grants are in its window.

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main');

$node->safe_psql('postgres', <<'SQL');
CREATE TABLE seen (what text, client int, before timestamptz, after timestamptz, allowed bool, pairs int);

-- One request, noted
CREATE FUNCTION request(what text, client int, scope text, key text, api text)
RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
	before timestamptz := clock_timestamp();
	answer bool;
BEGIN
	answer := (fl_rate_try(scope, key, api)).allowed;
	INSERT INTO seen VALUES (what, client, before, clock_timestamp(), answer);
	RETURN answer;
END $$;

-- Requests without end, almost
CREATE FUNCTION hammer(client int, duration interval)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	finish timestamptz := clock_timestamp() + duration;
	lucky bool;
BEGIN
	WHILE clock_timestamp() < finish LOOP
		lucky := request('data-sources', client, 'user', 'hammered', 'data-sources');
		lucky := request('own', client, 'user', 'hammered', 'own') OR lucky;
		IF NOT lucky THEN
			PERFORM pg_sleep(0.004);
		END IF;
	END LOOP;
END $$;

-- The most grants that certainly lie within one window of this length
CREATE FUNCTION most_granted(what text, period interval)
RETURNS bigint LANGUAGE sql AS $$
	SELECT max((SELECT count(*) FROM seen AS o
	            WHERE o.what = $1 AND o.allowed
	              AND o.before >= s.before AND o.after < s.before + period))
	FROM seen AS s WHERE s.what = $1 AND s.allowed
$$;

-- The fewest grants that may have been in the window of a refusal
CREATE FUNCTION fewest_at_refusal(what text, period interval)
RETURNS bigint LANGUAGE sql AS $$
	SELECT min((SELECT count(*) FROM seen AS o
	            WHERE o.what = $1 AND o.allowed
	              AND o.before <= s.after AND o.after > s.before - period))
	FROM (SELECT r.* FROM seen AS r WHERE r.what = $1 AND NOT r.allowed
	      ORDER BY hashtext(r.client || r.before::text) LIMIT 2000) AS s
$$;

SELECT fl_rate_define('own', 'user', 'own', 50, '2 s');
SQL

# A burst of the documented limit, each request a transaction of its own
$node->pgbench(
	'--no-vacuum --client=8 --jobs=2 --transactions=60',
	0,
	[qr{processed: 480/480}],
	[qr{^$}],
	'eight clients make a burst of 480 requests',
	{ '001_burst' => q{SELECT request('burst', :client_id, 'user', 'burst', 'data-sources')} });

SKIP:
{
	my $took = $node->safe_psql('postgres',
		q{SELECT extract(epoch FROM max(after) - min(before)) FROM seen WHERE what = 'burst'});
	skip "the burst took $took s, this machine is too slow for it", 1 if $took > 9.5;
	is( $node->safe_psql('postgres',
			q{SELECT count(*) FILTER (WHERE allowed), count(*) FILTER (WHERE NOT allowed) FROM seen WHERE what = 'burst'}),
		'200|280',
		'exactly 200 of a burst for data-sources are granted');
}
is( $node->safe_psql('postgres',
		q{SELECT granted, refused FROM fl_rate_counters WHERE key = 'burst'}),
	$node->safe_psql('postgres',
		q{SELECT count(*) FILTER (WHERE allowed), count(*) FILTER (WHERE NOT allowed) FROM seen WHERE what = 'burst'}),
	'the counter knows of every grant and every refusal');

# Hammering over several windows
$node->pgbench(
	'--no-vacuum --client=8 --jobs=2 --transactions=1',
	0,
	[qr{processed: 8/8}],
	[qr{^$}],
	'eight clients hammer one key for several windows',
	{ '001_hammer' => q{SELECT hammer(:client_id, '13 s')} });

$node->safe_psql('postgres',
	'CREATE INDEX ON seen (what, before) WHERE allowed; ANALYZE seen');
foreach (
	[ 'data-sources', 200, '10 s', 400 ],
	[ 'own', 50, '2 s', 300 ])
{
	my ($what, $max, $period, $least) = @$_;

	cmp_ok($node->safe_psql('postgres', "SELECT most_granted('$what', '$period')"),
		'<=', $max, "$what: never more than $max in any window of $period");
	cmp_ok($node->safe_psql('postgres', "SELECT fewest_at_refusal('$what', '$period')"),
		'>=', $max, "$what: no request was refused that fits");
	# 13 s hold six windows of 2 s, and one of 10 s and the beginning of another
	cmp_ok($node->safe_psql('postgres',
			"SELECT count(*) FROM seen WHERE what = '$what' AND allowed"),
		'>=', $least, "$what: what has left the window is granted anew");
}

# All or nothing: requests over four scopes and two limits each, some of them
# refused by a device's limit, some by a user's, some by the app's second one
$node->safe_psql('postgres', <<'SQL');
SELECT fl_rate_define('device',         'device',       'sums', 120, '1 h'),
       fl_rate_define('device, longer', 'device',       'sums', 150, '2 h'),
       fl_rate_define('user',           'user',         'sums', 130, '1 h'),
       fl_rate_define('user, all APIs', 'user',         '*',    160, '1 h'),
       fl_rate_define('app',            'app',          'sums', 500, '1 h'),
       fl_rate_define('app, longer',    'app',          'sums', 450, '3 h'),
       fl_rate_define('organisation',   'organisation', 'sums', 600, '1 h');
TRUNCATE seen;

CREATE FUNCTION request_all(client int, device int, usr int, cost int, fail int)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	answer bool := (fl_rate_try_all('{device,user,app,organisation}',
	                                ARRAY['d' || device, 'u' || usr, 'a', 'o'], 'sums', cost)).allowed;
BEGIN
	INSERT INTO seen VALUES ('sums', client, now(), clock_timestamp(), answer, cost);
	IF fail = 1 THEN
		-- A savepoint that rolls back: the note must stay, hence another way
		BEGIN
			PERFORM fl_rate_check_all('{organisation,app,user,device}',
			                          ARRAY['o', 'a', 'u' || usr, 'd' || device], 'sums');
			RAISE 'taken back' USING ERRCODE = 'XX999';
		EXCEPTION
			WHEN SQLSTATE 'XX999' THEN
				INSERT INTO seen VALUES ('sums', client, now(), clock_timestamp(), true, 1);
			WHEN SQLSTATE 'PT429' THEN
				NULL;
		END;
	END IF;
END $$;
SQL

$node->pgbench(
	'--no-vacuum --client=8 --jobs=2 --transactions=150 --random-seed=42',
	0,
	[qr{processed: 1200/1200}],
	[qr{setting random seed}],
	'eight clients make requests over four scopes and seven limits',
	{
		'001_sums' => <<'SCRIPT' });
\set device random(1, 9)
\set usr random(1, 5)
\set cost random(1, 3)
\set fail random(1, 4)
SELECT request_all(:client_id, :device, :usr, :cost, :fail);
SCRIPT

my $granted = $node->safe_psql('postgres',
	q{SELECT sum(pairs) FROM seen WHERE allowed});
cmp_ok($granted, '>', 300, 'many were granted');
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM seen WHERE NOT allowed}),
	'>', 100, 'and many refused');
is( $node->safe_psql('postgres', <<'SQL'),
SELECT name, sum(used) FROM fl_rate_counters
WHERE name ~ '^(device|user|app|organisation)' GROUP BY name ORDER BY name COLLATE "C"
SQL
	join("\n",
		map { "$_|$granted" } (
			'app', 'app, longer', 'device', 'device, longer',
			'organisation', 'user', 'user, all APIs')),
	'every granted request is spent in all limits, every refused one in none');
is( $node->safe_psql('postgres', <<'SQL'),
SELECT count(*) FROM fl_rate_counters JOIN fl_rate_limit USING (limit_id)
WHERE used > fl_rate_limit.max_requests
SQL
	'0', 'no counter is above its limit');

# A counter that was made a moment ago, and one that has expired, belong to the
# request at hand like any other.
$node->safe_psql('postgres', <<'SQL');
SELECT fl_rate_define('first',  'app', 'first', 100, '10 ms'),
       fl_rate_define('second', 'app', 'first', 200, '1 h'),
       fl_rate_define('third',  'app', 'first', 300, '2 h');
SELECT fl_rate_check('app', i::text, 'first') FROM generate_series(1, 2000) AS i;
SELECT pg_sleep(0.05);
SELECT fl_rate_check_all('{app,app,app}', ARRAY[i::text, 'a' || i, 'b' || i], 'first')
FROM generate_series(1, 2000) AS i;
SQL
is( $node->safe_psql('postgres', <<'SQL'),
SELECT name, left(key, 1) ~ '[ab]' AS fresh, count(*), min(used), max(used)
FROM fl_rate_counters WHERE name IN ('second', 'third') GROUP BY 1, 2 ORDER BY 1, 2
SQL
	"second|f|2000|2|2\nsecond|t|4000|1|1\nthird|f|2000|2|2\nthird|t|4000|1|1",
	'a new key is spent from once in each of its limits, an expired one too');

# The same pairs in another order by each client: locks are taken in one order.
$node->safe_psql('postgres', q{SELECT fl_rate_define('wide', 'app', 'wide', 1000000, '1 h')});
$node->pgbench(
	'--no-vacuum --client=8 --jobs=2 --transactions=500',
	0,
	[qr{processed: 4000/4000}],
	[qr{^$}],
	'eight clients lock 16 counters in any order without a deadlock',
	{
		'001_order' => <<'SCRIPT' });
SELECT fl_rate_check_all(array_fill('app'::text, ARRAY[16]), (SELECT array_agg(i::text ORDER BY random()) FROM generate_series(1, 16) AS i), 'wide');
SCRIPT
is( $node->safe_psql('postgres',
		q{SELECT count(*), min(used), max(used) FROM fl_rate_counters WHERE name = 'wide'}),
	'16|4000|4000',
	'and each of them has been spent from by every request');

$node->stop;
done_testing();
