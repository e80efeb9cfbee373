-- The report and fl_rate_top: what they show is what the views show, a key is
-- text whatever is in it, and the page is well-formed
--
-- The page is written so that it is XML as well; where the server can read XML it
-- is read here. What a browser makes of it: test/t/028_report.pl

BEGIN;
SELECT * FROM no_plan();

SELECT fl_rate_reset_all() >= 0 AS begin_clean;
SET LOCAL client_min_messages = warning;
SET LOCAL jit = off;
-- read in the reader's time zone and style it would be something else
SET LOCAL timezone = 'Asia/Kolkata';
SET LOCAL datestyle = 'German';
SET LOCAL intervalstyle = 'sql_standard';

CREATE FUNCTION pg_temp.reads_xml() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM xmlparse(DOCUMENT '<a/>');
    RETURN true;
EXCEPTION WHEN feature_not_supported THEN
    RETURN false;
END
$$;
-- The text of each element that an XPath finds in a page, blanks as one
CREATE FUNCTION pg_temp.texts(page text, path text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT btrim(regexp_replace(x.t, '[ \n]+', ' ', 'g'))
    FROM XMLTABLE(path PASSING xmlparse(DOCUMENT page) COLUMNS i FOR ORDINALITY, t text PATH 'string(.)') AS x ORDER BY x.i
$$;
-- What a reader sees of a text
CREATE FUNCTION pg_temp.seen(value text) RETURNS text LANGUAGE sql AS $$
    SELECT x.t FROM XMLTABLE('/b' PASSING xmlparse(DOCUMENT '<b>' || fl_rate_html(value) || '</b>') COLUMNS t text PATH 'string(.)') AS x
$$;
-- A section of a page, and its cells row by row: 1 to 3 numbers of a row
CREATE FUNCTION pg_temp.section(name text) RETURNS text LANGUAGE sql AS $$ SELECT format('//section[@aria-labelledby="%s"]', name) $$;
CREATE FUNCTION pg_temp.number(n numeric) RETURNS text LANGUAGE sql AS $$ SELECT to_char(n, 'FM9,999,999,999,999,999,999') $$;
CREATE TEMPORARY TABLE page (html text);
-- A new page, which is well-formed
CREATE FUNCTION pg_temp.new_page(what text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM page;
    INSERT INTO page SELECT fl_rate_report();
    RETURN NEXT is((SELECT html ~ '^<!DOCTYPE html>\n<html lang="en">.*</html>\n$' FROM page), true, what || ': a page');
    RETURN NEXT is((SELECT html ~ '[^\n -~]' FROM page), false, what || ': in ASCII');
    RETURN NEXT is((SELECT array_agg(t ORDER BY t) FROM (SELECT DISTINCT m[1] AS t FROM page, regexp_matches(html, '<([A-Za-z!][A-Za-z0-9]*)', 'g') AS m) AS s
                    WHERE t !~ '^(!DOCTYPE|html|head|meta|title|style|body|header|nav|main|section|footer|h[123]|p|ul|li|dl|div|dt|dd|a|strong|small|span|bdi|i|time|table|caption|thead|tbody|tr|th|td|figure|figcaption|details|summary|svg|defs|pattern|g|rect|circle|line|text)$'),
                   NULL, what || ': of no other elements than its own, so of none that loads or runs anything');
    IF pg_temp.reads_xml() THEN
        RETURN NEXT lives_ok('SELECT xmlparse(DOCUMENT html) FROM page', what || ': well-formed');
    ELSE
        RETURN NEXT skip('this server reads no XML', 1);
    END IF;
END
$$;

-- ---------------------------------------------------------------------------
-- Nothing yet
-- ---------------------------------------------------------------------------

SELECT pg_temp.new_page('nothing yet');
SELECT is(html ~ said, true, 'nothing yet: ' || said) FROM page, unnest('{No counter in memory has anything in use, No counter in memory has refused a request, No refused key in the history, No history of the last six hours, 5 rows}'::text[]) AS said;
SELECT is((SELECT count(*) FROM fl_rate_top()), 0::bigint, 'nothing yet: fl_rate_top has no row');
SET LOCAL fliplet_ratelimit.shipped_limits = off;
SELECT pg_temp.new_page('no limits');
SELECT is(html ~ said, true, 'no limits: ' || said) FROM page, unnest('{None: no request is limited, There is no limit, "Not in force: 5 shipped, which are switched off"}'::text[]) AS said;
SET LOCAL fliplet_ratelimit.shipped_limits = on;
SET LOCAL fliplet_ratelimit.enabled = off;
SELECT is(fl_rate_report() ~ 'Limits are switched off', true, 'the kill switch is the first that it says');
SET LOCAL fliplet_ratelimit.enabled = on;
SELECT is(fl_rate_report() ~ 'Limits are switched off', false, 'and not otherwise');

-- ---------------------------------------------------------------------------
-- Any text
-- ---------------------------------------------------------------------------

CREATE TEMPORARY TABLE hostile (key text, seen text);
INSERT INTO hostile VALUES
    ('<script>window.ran = 1</script>', NULL), ('"><img src=x onerror=window.ran=1>', NULL), ($$' onmouseover='window.ran=1$$, NULL), ('</title></style></table><svg onload=window.ran=1>', NULL),
    ('&lt;b&gt; &amp; &#60; &#x3c;', NULL), (']]><!--', NULL), ('%s %1$s %% {{7*7}} ${x}', NULL), ('\n \x3c \\', NULL), ('javascript:window.ran=1', NULL), ('a  b', NULL), ('Grüße, 世界 👍 مرحبا', NULL),
    (E'tab\tline\nreturn\r', 'tabU+0009lineU+000AreturnU+000D'), (E'\x01\x1b[31mred\x7f', 'U+0001U+001B[31mredU+007F'), (E'\u0080\u009b\u00a0', 'U+0080U+009BU+00A0'),
    (E'user\u202Etxt.exe\u202C', 'userU+202Etxt.exeU+202C'), (E'\u2066\u2069\u061c\u200e\u200f', 'U+2066U+2069U+061CU+200EU+200F'), (E'ad\u00admin\u200b\u2060\ufeff', 'adU+00ADminU+200BU+2060U+FEFF'),
    (E'\u2028\u2029\u3000', 'U+2028U+2029U+3000'), (E'\ufffe\uffff\ufdd0', 'U+FFFEU+FFFFU+FDD0'), (E'\U000E0041\U0010FFFF', 'U+E0041U+10FFFF'), (E'\u3164\u2800', 'U+3164U+2800');
SELECT is(pg_temp.seen(key), coalesce(seen, key), 'is seen as what it is: ' || to_json(key)) FROM hostile WHERE pg_temp.reads_xml();
SELECT is((fl_rate_html(NULL::text), fl_rate_html(''), fl_rate_html(repeat('x', 128)) = repeat('x', 128), length(fl_rate_html(repeat('x', 1000000))))::text,
          '(,"",t,135)', 'NULL is NULL, and of a long text there is its beginning');
-- Of all characters up to the CJK ideographs, a hundred at a time: nothing but
-- ASCII, nothing that is markup but <i>, and those that are shown are themselves
CREATE TEMPORARY TABLE characters AS
    SELECT n / 100 AS block, string_agg(chr(n), '' ORDER BY n) AS raw FROM generate_series(1, 12287) AS n GROUP BY n / 100;
SELECT is((SELECT count(*) FROM characters WHERE fl_rate_html(raw) ~ '[^ -~]' OR replace(replace(fl_rate_html(raw), '<i>', ''), '</i>', '') ~ '[<>"'']|&(?!#[0-9]+;)'), 0::bigint, 'of 12287 characters none is markup');
SELECT is((SELECT count(*) FROM characters WHERE replace(replace(regexp_replace(pg_temp.seen(raw), 'U\+[0-9A-F]{4}', '', 'g'), 'U', ''), '+', '')
                  <> replace(replace(regexp_replace(raw, E'[\\x01-\\x1f\\x7f-\\xa0\\xad\u034f\u0600-\u0605\u061c\u06dd\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u207f\u2800]', '', 'g'), 'U', ''), '+', '')
                  AND raw !~ E'\u207f'), 0::bigint, 'and all but the invisible ones are themselves')
WHERE pg_temp.reads_xml();
SELECT is(fl_rate_html(at::timestamptz), html, 'a date: ' || coalesce(at, 'none'))
FROM (VALUES ('2026-02-15 17:13:32.99+05:30', '<time datetime="2026-02-15T11:43:32Z">2026-02-15 11:43:32Z</time>'), ('infinity', 'infinity'), ('-infinity', '-infinity'),
             ('0001-01-01 00:00:00+00', '<time datetime="0001-01-01T00:00:00Z">0001-01-01 00:00:00Z</time>'), ('4714-11-24 00:00:00+00 BC', '4714-11-24 00:00:00+00 BC'),
             ('12026-01-01 00:00:00+00', '<time datetime="12026-01-01T00:00:00Z">12026-01-01 00:00:00Z</time>'), (NULL, NULL)) AS t (at, html);

-- ... as keys, of which the page lists ten at a time, and in every other place
SELECT fl_rate_define('text', 'user', 'hostile', 1, '1 h');
INSERT INTO fl_rate_history_top SELECT now(), '<b>"&''', key, 7, 7, gen_random_uuid() FROM hostile ORDER BY key LIMIT 10;
INSERT INTO fl_rate_history VALUES (now(), '<b>"&''', 5, 5, 5, 5, 5);
SELECT fl_rate_define('<b>&''', '<u>&''', '</td>&''', 5, '1 h', key => '<script>' || E'\u202e\n', comment => E'</small><script>\x01'),
       fl_rate_define('<b>&''', '<u>&''', '</td>&''', 5, '1 h', plan => '<script>&''');
SELECT fl_rate_try('<u>&''', 'k', '</td>&''', plan => '<script>&''');
CREATE TEMPORARY TABLE batches AS SELECT key, (row_number() OVER (ORDER BY key) - 1) / 10 AS batch FROM hostile;
CREATE FUNCTION pg_temp.key_pages() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    i bigint;
BEGIN
    FOR i IN SELECT DISTINCT batch FROM batches ORDER BY batch LOOP
        PERFORM fl_rate_try('user', key, 'hostile') FROM batches, generate_series(1, 3 + i * 5) WHERE batch = i;
        RETURN QUERY SELECT pg_temp.new_page('hostile keys, batch ' || i);
        IF pg_temp.reads_xml() THEN
            RETURN NEXT set_eq(format('SELECT pg_temp.texts(html, %L) FROM page', pg_temp.section('refused') || '/table[1]//bdi'),
                               format('SELECT btrim(regexp_replace(pg_temp.seen(key), ''[ \n]+'', '' '', ''g'')) FROM (SELECT key FROM fl_rate_top(10) WHERE refused > 0) AS t'), 'each is in its place');
        END IF;
    END LOOP;
END
$$;
SELECT pg_temp.key_pages();
SELECT is((SELECT count(*) FROM fl_rate_top(100) WHERE key IN (SELECT key FROM hostile)), (SELECT count(*) FROM hostile), 'fl_rate_top has the keys as they are');
SELECT fl_rate_reset_all() > 0;
DELETE FROM fl_rate_history;
DELETE FROM fl_rate_history_top;
DELETE FROM fl_rate_limit WHERE limit_id > 0;

-- ---------------------------------------------------------------------------
-- Values
-- ---------------------------------------------------------------------------

SELECT fl_rate_stats_reset();
SELECT fl_rate_define('small', 'user', 'small', 2000, '1 h'), fl_rate_define('bucket', 'app', 'small', 10, '1 h', algorithm => 'token_bucket', burst => 40),
       fl_rate_define('small', 'user', 'small', 5, '1 h', key => 'blocked'), fl_rate_define('small', 'user', 'small', 9000, '1 h', key => 'free', valid_until => '2100-01-01 00:00:00Z'),
       fl_rate_define('late', 'user', 'small', 9, '1 month', algorithm => 'fixed_window', time_zone => 'Europe/Berlin', valid_from => now() + interval '1 day'),
       fl_rate_define('gone', 'user', 'small', 9, '1 h', valid_until => now() - interval '1 day'), fl_rate_define('off', 'user', 'small', 9, '1 h', enabled => false),
       fl_rate_define('throttle', 'device', 'small', 2, '1 h', on_limit => 'delay', max_delay => '2 h'), fl_rate_define('shadow', 'user', 'small', 3, '1 day', on_limit => 'count'),
       fl_rate_define('fliplet/ai', 'user', 'ai', 7, '60 s');
SELECT fl_rate_try('user', 'half', 'small', 1000), fl_rate_try('user', 'nearly', 'small', 1999), fl_rate_try('user', 'full', 'small', 2000), fl_rate_try('user', 'free', 'small', 5000), fl_rate_try('user', 'blocked', 'small', 4), fl_rate_try('app', 'a', 'small', 30);
SELECT fl_rate_try('user', 'full', 'small') FROM generate_series(1, 7);
SELECT fl_rate_try('user', 'nearly', 'small', 2) FROM generate_series(1, 3);
SELECT fl_rate_try('device', 'd', 'small') FROM generate_series(1, 7);
-- exempt and blocked from now on; a key that always was has no counter
UPDATE fl_rate_limit SET max_requests = CASE key WHEN 'blocked' THEN 0 END WHERE key IN ('free', 'blocked');

SELECT throws_ok('SELECT * FROM fl_rate_top(' || n || ')', state, message, 'fl_rate_top: ' || message)
FROM (VALUES ('NULL', '22004', 'n must not be null'), ('0', '22023', 'n must be at least 1'), ('-1', '22023', 'n must be at least 1')) AS t (n, state, message);
SELECT is((SELECT array_agg(name || ' ' || key) FROM fl_rate_top(3)), '{small full,small nearly,throttle d}', 'fl_rate_top: who is refused most comes first');
SELECT is((SELECT array_agg(share ORDER BY i) FROM (SELECT share, row_number() OVER () AS i FROM fl_rate_top(100) WHERE refused = 0 AND name <> 'shadow' AND key <> 'blocked') AS t), '{0.750,0.500,NULL}', 'then who is nearest to the limit, and who has none last');
SELECT is((used, max_requests, share)::text, expected, format('used, of how many, share: %s %s', name, key))
FROM fl_rate_top(100) JOIN (VALUES ('small', 'half', '(1000,2000,0.500)'), ('small', 'nearly', '(1999,2000,0.999)'), ('small', 'full', '(2000,2000,1.000)'), ('small', 'free', '(,,)'), ('small', 'blocked', '(4,0,1.000)'), ('bucket', 'a', '(30,40,0.750)')) AS t (name, key, expected) USING (name, key) ORDER BY name, key;
SELECT results_eq('SELECT name, scope, key, api, used, refused, delayed, next_valid_at IS NULL, last_refused_at IS NULL FROM fl_rate_top(100) ORDER BY name, key',
                  'SELECT name, scope, key, api, used, refused, delayed, next_valid_at IS NULL, last_refused_at IS NULL FROM fl_rate_counters ORDER BY name, key', 'and what the view has, of every counter');
SELECT is((SELECT count(*) FROM fl_rate_top(100) AS t JOIN fl_rate_counters AS c USING (name, key) WHERE abs(extract(epoch FROM t.last_refused_at - c.last_refused_at)) > 1), 0::bigint, 'its dates too, which are counted back from two readings of a clock');
SELECT is((SELECT count(*) FROM fl_rate_top(4)), 4::bigint, 'n rows');

-- Six hours in steps of five minutes, the last of which is now's
CREATE TEMPORARY TABLE steps AS
    SELECT i, date_bin('5 min', now(), 'epoch'::timestamptz) - i * interval '5 min' AS at FROM generate_series(0, 72) AS i;
INSERT INTO fl_rate_history
    SELECT at + m * interval '1 min', name, i * 10 + m, i % 7 * few, few * 3, 0, 1 FROM steps, generate_series(0, 4, 2) AS m, (VALUES ('small', 1), ('throttle', 0)) AS l (name, few)
    WHERE i BETWEEN 1 AND 72 AND i NOT BETWEEN 20 AND 35 AND (name = 'small' OR i < 60);
INSERT INTO fl_rate_history_top VALUES (now(), 'small', 'full', 40, 40, '00000000-0000-0000-0000-000000000001'), (now() - interval '1 h', 'small', 'full', 2, 2, '00000000-0000-0000-0000-000000000001'),
    (now() - interval '7 h', 'small', 'of yesterday', 99, 99, '00000000-0000-0000-0000-000000000002'), (now(), 'small', 'once', 1, 1, '00000000-0000-0000-0000-000000000003');

SELECT pg_temp.new_page('values');
SELECT results_eq($$ SELECT t FROM page, pg_temp.texts(html, pg_temp.section('nearest') || '//tr[td]') AS t $$,
                  $$ SELECT format('%s%s %s, %s%s%s%s', key, name, scope, api, CASE max_requests WHEN 0 THEN 'blocked' ELSE format('%s of %s (%s%%)', pg_temp.number(used), pg_temp.number(max_requests), trunc(share * 100)) END, refused,
                                   CASE WHEN next_valid_at IS NULL THEN 'never' WHEN next_valid_at <= now() + interval '1 min' THEN 'now' ELSE to_char(date_trunc('second', next_valid_at + interval '999999 us') AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"') END)
                     FROM fl_rate_top(100) WHERE share > 0 ORDER BY share DESC, refused DESC, name, scope, key, api LIMIT 10 $$, 'nearest to their limit')
WHERE pg_temp.reads_xml();
SELECT results_eq($$ SELECT t FROM page, pg_temp.texts(html, pg_temp.section('refused') || '/table[1]//tr/*[self::th[@scope="row"] or @data-l="Refused"]') AS t $$,
                  $$ SELECT v FROM (SELECT t.*, row_number() OVER () AS i FROM fl_rate_top(10) AS t WHERE refused > 0) AS s, unnest(ARRAY[key, refused::text]) WITH ORDINALITY AS u (v, j) ORDER BY i, j $$, 'most refused')
WHERE pg_temp.reads_xml();
SELECT results_eq($$ SELECT t FROM page, pg_temp.texts(html, pg_temp.section('refused') || '/table[2]//tr[td]/*[position() < 4]') AS t $$, $$ VALUES ('full'), ('small'), ('42'), ('once'), ('small'), ('1') $$, 'most refused by history, of six hours')
WHERE pg_temp.reads_xml();
SELECT set_eq($$ SELECT t FROM page, pg_temp.texts(html, pg_temp.section('totals') || '//tr[td]') AS t $$,
              $$ SELECT format('%s%s%s%s%s%s%s', name, granted, refused, delayed, shadow_refused, keys, coalesce(to_char(last_refused_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"'), 'never')) FROM fl_rate_stats $$, 'totals')
WHERE pg_temp.reads_xml();
SELECT is(html ~ format('%s of %s bytes', pg_temp.number(memory_used), pg_temp.number(memory_limit)), true, 'memory') FROM page, fl_rate_store;
SELECT results_eq($$ SELECT t FROM page, pg_temp.texts(html, '//dd') AS t LIMIT 2 $$,
                  $$ SELECT pg_temp.number(sum(granted)) FROM fl_rate_history WHERE minute >= (SELECT min(at) FROM steps WHERE i < 72) UNION ALL
                     SELECT pg_temp.number(sum(refused)) || ' ' || round(100 * sum(refused) / sum(granted + refused), 1) || '% of all' FROM fl_rate_history WHERE minute >= (SELECT min(at) FROM steps WHERE i < 72) $$, 'six hours in two numbers')
WHERE pg_temp.reads_xml();
-- a chart, its table and what is said of it are of the same numbers
SELECT results_eq($$ SELECT t FROM page, pg_temp.texts(html, pg_temp.section('time') || '//figure//h3') AS t $$, $$ VALUES ('small'), ('throttle') $$, 'a chart for each limit with a history')
WHERE pg_temp.reads_xml();
SELECT results_eq(format($q$ SELECT t FROM page, pg_temp.texts(html, %L) AS t $q$, format('//figure[.//h3 = "%s"]//tr[td]', name)),
                  format($q$ SELECT format('%%s%%s%%s%%s%%s', to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"'), pg_temp.number(coalesce(sum(granted), 0)), coalesce(sum(delayed), 0), coalesce(sum(refused), 0), coalesce(sum(shadow_refused), 0))
                             FROM steps LEFT JOIN fl_rate_history AS h ON minute >= at AND minute < at + interval '5 min' AND name = %L WHERE i BETWEEN 1 AND 71 AND i NOT BETWEEN 20 AND 35 GROUP BY at ORDER BY at DESC $q$, name),
                  'its table, a limit without requests has zeros: ' || name)
FROM unnest('{small,throttle}'::text[]) AS name WHERE pg_temp.reads_xml();
SELECT is((SELECT count(*) FROM page, pg_temp.texts(html, format('//figure[.//h3 = "%s"]//*[name() = "g"][*[name() = "rect"]]', name)) AS t), n, format('a bar for each step with requests, none for a gap: %s', name))
FROM (VALUES ('small', 55::bigint), ('throttle', 43)) AS t (name, n) WHERE pg_temp.reads_xml();
SELECT is((SELECT array_agg(x.w::numeric ORDER BY x.i) FROM page, XMLTABLE('//figure[.//h3 = "small"]//*[name() = "rect"][@class = "x"]' PASSING xmlparse(DOCUMENT html) COLUMNS i FOR ORDINALITY, w text PATH 'substring-before(@width, "%")') AS x),
          ARRAY[round(16 * 100.0 / 72, 2), round(100.0 / 72, 2)], 'gaps are gaps, as wide as they are') WHERE pg_temp.reads_xml();
-- bars are as high as their numbers, of a scale that they fit
SELECT is((SELECT count(*) FROM page,
                  XMLTABLE('//figure[.//h3 = "small"]//*[name() = "g"]/*[name() = "rect"][@class = "g"]' PASSING xmlparse(DOCUMENT html)
                           COLUMNS said text PATH 'substring-before(substring-after(../*[name() = "title"], ": "), " granted")', height numeric PATH '@height', delayed text PATH 'substring-before(substring-after(../*[name() = "title"], "of these "), " delayed")') AS b,
                  XMLTABLE('//figure[.//h3 = "small"]//div[@class = "y"]/span[1]' PASSING xmlparse(DOCUMENT html) COLUMNS scale text PATH '.') AS y
           WHERE greatest(round(120 * (replace(said, ',', '')::numeric - coalesce(nullif(delayed, ''), '0')::numeric) / replace(scale, ',', '')::numeric, 1), 2) <> height OR replace(said, ',', '')::numeric > replace(scale, ',', '')::numeric), 0::bigint,
          'bars are as high as their numbers say') WHERE pg_temp.reads_xml();
-- definitions
SELECT set_eq($$ SELECT t FROM page, pg_temp.texts(html, pg_temp.section('definitions') || '//tr[td]') AS t WHERE t !~ '^fliplet/[^a]' $$, $$ VALUES
    ('smalleveryoneuser, small2,000 per hoursliding windowrefusealways'), ('bucketeveryoneapp, small10 per hour, bursts of 40token bucketrefusealways'), ('smallkey blockeduser, smallblockedsliding windowrefusealways'),
    ('smallkey freeuser, smallunlimitedsliding windowrefuseuntil 2100-01-01 00:00:00Z'), ('throttleeveryonedevice, small2 per hoursliding windowdelay up to 2 hours, then refusealways'),
    ('shadoweveryoneuser, small3 per daysliding windowcount only (shadow)always'), ('fliplet/aieveryoneuser, ai7 per minsliding windowrefusealways'),
    ('fliplet/audit-logs Audit logs APIs: 30 requests per user in 10 secondseveryone, shippeduser, audit-logs30 per 10 secssliding windowrefusealways'),
    ('fliplet/app-actions App Actions: 60 runs per app in a minuteeveryone, shippedapp, app-actions60 per minsliding windowrefusealways') $$, 'definitions in force') WHERE pg_temp.reads_xml();
SELECT is(html ~ 'Not in force: 1 disabled, 1 no longer valid, 1 not valid yet, 1 shipped and replaced\.', true, 'and how many are not, and why') FROM page;

-- What every reader needs
SELECT is((SELECT count(*) FROM page, XMLTABLE(path PASSING xmlparse(DOCUMENT html) COLUMNS t text PATH 'name(.)') AS x), 0::bigint, 'there is no ' || what)
FROM (VALUES ('table without a caption', '//table[not(caption)]'), ('header cell without a scope', '//th[not(@scope)]'), ('row without a header', '//tbody/tr[not(th[@scope = "row"])]'),
             ('picture without a label', '//*[name() = "svg"][not(@aria-hidden = "true") and not(@role = "img" and string-length(@aria-label) > 10)]'), ('chart without a table', '//figure[not(.//table)]'),
             ('section without a heading', '//section[not(@aria-labelledby = h2/@id)]'), ('link to nothing', '//a[not(substring(@href, 2) = //h2/@id)]')) AS t (what, path) WHERE pg_temp.reads_xml();
SELECT is(html !~ '(src|srcset|action|xlink:href)=|@import|url\((?!#)|https?:', true, 'and nothing from elsewhere') FROM page;

-- ---------------------------------------------------------------------------
-- However many there are
-- ---------------------------------------------------------------------------

SELECT count(fl_rate_try('user', 'many ' || i, 'small', 1 + 0 * i)) FROM generate_series(1, 5000) AS i;
SELECT count(fl_rate_define('many', 'user', 'small', 5, '1 h', key => 'k' || i)) FROM generate_series(1, 300) AS i;
INSERT INTO fl_rate_history SELECT at, 'limit ' || l, 9, 9, 9, 9, 9 FROM steps, generate_series(1, 30) AS l WHERE i > 0;
SELECT pg_temp.new_page('many');
SELECT is((SELECT count(*) FROM page, pg_temp.texts(html, path)), n, 'many: ' || what)
FROM (VALUES ('ten counters', pg_temp.section('nearest') || '//tr[td]', 10::bigint), ('twenty charts', '//figure', 20), ('200 definitions', pg_temp.section('definitions') || '//tr[td]', 200)) AS t (what, path, n) WHERE pg_temp.reads_xml();
SELECT is(html ~ '200 of 311 rows' AND html ~ 'The 20 most refused of 32 limits', true, 'many: it says of how many') FROM page;
SELECT cmp_ok(length(html), '<', 1000000, 'many: less than a megabyte') FROM page;

-- ---------------------------------------------------------------------------
-- Surroundings
-- ---------------------------------------------------------------------------

SET LOCAL fliplet_ratelimit.store_keys = 'hash';
SELECT is((SELECT count(*) FROM fl_rate_top(100) WHERE key !~ '^[0-9a-f]{32}$'), 0::bigint, 'store_keys = hash: digests in fl_rate_top');
SELECT is((SELECT count(*) FROM pg_temp.texts(fl_rate_report(), pg_temp.section('nearest') || '//bdi') AS t WHERE t !~ '^[0-9a-f]{32}$'), 0::bigint, 'and in the report') WHERE pg_temp.reads_xml();
SET LOCAL transaction_read_only = on;
SELECT lives_ok('SELECT fl_rate_report()', 'a read-only transaction: the report');
SELECT lives_ok('SELECT * FROM fl_rate_top()', 'and fl_rate_top');

SELECT * FROM finish();
ROLLBACK;
