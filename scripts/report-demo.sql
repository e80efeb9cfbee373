-- report-demo.sql: a database as it may look after a busy day
--
-- For scripts/report-picture: definitions of every kind, six hours of history
-- with a burst of refusals and a gap in it, and live counters. Into a database
-- that has the extension and nothing else. Keys and numbers are made up.

-- Copyright (c) 2026, the fliplet_ratelimit developers

SET client_min_messages = warning;

SELECT fl_rate_define('org-data', 'organisation', 'data-sources', 5000, '1 hour', comment => 'Fair use, by contract'),
       fl_rate_define('org-data', 'organisation', 'data-sources', 20000, '1 hour', key => 'northwind',
                      valid_until => date_trunc('month', now()) + interval '1 month', comment => 'Migration of their archive'),
       fl_rate_define('fliplet/ai', 'user', 'ai', 100, '60 s', plan => 'pro'),
       fl_rate_define('fliplet/data-sources', 'user', 'data-sources', NULL, NULL, key => 'importer'),
       fl_rate_define('export', 'user', 'export', 30, '5 min', on_limit => 'delay', max_delay => '30 s'),
       fl_rate_define('upload', 'device', 'upload', 10, '1 min', algorithm => 'token_bucket', burst => 50),
       fl_rate_define('report-quota', 'organisation', 'reports', 1000, '1 month', algorithm => 'fixed_window', time_zone => 'Europe/Berlin'),
       fl_rate_define('audit-logs-next', 'user', 'audit-logs', 5, '10 s', on_limit => 'count', comment => 'Tried before it refuses anybody'),
       fl_rate_define('summer', 'user', 'search', 10, '1 s', enabled => false);

-- What maintenance would have written, every minute but for half an hour
INSERT INTO fl_rate_history (minute, name, granted, refused, delayed, shadow_refused, keys)
SELECT m.minute, l.name, v.granted,
       CASE WHEN l.name = 'fliplet/data-sources' AND m.ago BETWEEN 95 AND 121 THEN round(v.granted * 0.9 * sin((m.ago - 94) / 28.0 * pi()))
            ELSE floor(v.granted * l.refusing * l.wave) END,
       floor(v.granted * l.delaying * l.wave), floor(v.granted * l.shadow * l.wave), 40 + v.granted / 9
FROM (SELECT date_trunc('minute', now()) - i * interval '1 min' AS minute, i AS ago FROM generate_series(1, 357) AS i WHERE i NOT BETWEEN 210 AND 243) AS m
     CROSS JOIN LATERAL (SELECT *, (abs(hashtext(name || m.ago / 7)) % 100) / 100.0 AS wave
                         FROM (VALUES ('fliplet/data-sources', 320, 0.01, 0, 0), ('org-data', 240, 0, 0, 0), ('fliplet/ai', 26, 0.3, 0, 0),
                                      ('export', 18, 0.08, 0.7, 0), ('audit-logs-next', 34, 0, 0, 0.5), ('fliplet/app-actions', 52, 0.04, 0, 0))
                              AS v (name, busy, refusing, delaying, shadow)) AS l
     CROSS JOIN LATERAL (SELECT round(l.busy * (0.75 + 0.25 * sin(m.ago / 55.0)) * (0.85 + (abs(hashtext(l.name || m.ago)) % 30) / 100.0))::bigint) AS v (granted);
INSERT INTO fl_rate_history_top (minute, name, key, refused, total, subject)
SELECT date_trunc('minute', now()) - v.ago * interval '1 min', v.name, v.key, v.refused, v.refused, gen_random_uuid()
FROM (VALUES ('fliplet/data-sources', 'sync-job-7', 4316, 96), ('fliplet/ai', 'maria.k', 412, 3), ('fliplet/data-sources', '18841', 227, 104), ('fliplet/app-actions', 'stocktaking', 131, 12),
             ('export', 'night-report', 64, 41), ('fliplet/ai', '20117', 48, 9), ('fliplet/data-sources', '<script>alert(1)</script>', 9, 188)) AS v (name, key, refused, ago);

-- Live traffic: (1 + 0 * i makes each call depend on its row)
SELECT count(fl_rate_try('user', 'u' || i % 160, 'data-sources', 1 + 0 * i)) FROM generate_series(1, 1900) AS i;
SELECT count(fl_rate_try('user', v.key, 'data-sources', 1 + 0 * i)) FROM (VALUES ('sync-job-7', 312), ('18841', 207), ('20117', 183), ('maria.k', 171), ('0044-7716', 140)) AS v (key, n), generate_series(1, v.n) AS i;
SELECT count(fl_rate_try('user', v.key, 'ai', 1 + 0 * i)) FROM (VALUES ('maria.k', 58), ('20117', 14), ('o''neill & sons', 9), ('18841', 8), (E'tab\tand \u202Ebidi', 6)) AS v (key, n), generate_series(1, v.n) AS i;
SELECT count(fl_rate_try('organisation', v.key, 'data-sources', v.cost)) FROM (VALUES ('northwind', 17240), ('contoso', 4630), ('fabrikam', 2210)) AS v (key, cost);
SELECT count(fl_rate_try('organisation', v.key, 'reports', v.cost)) FROM (VALUES ('northwind', 930), ('contoso', 410)) AS v (key, cost);
SELECT count(fl_rate_try('app', v.key, 'app-actions', 1 + 0 * i)) FROM (VALUES ('stocktaking', 73), ('visitors', 31)) AS v (key, n), generate_series(1, v.n) AS i;
SELECT count(fl_rate_try('user', v.key, 'export', 1 + 0 * i)) FROM (VALUES ('night-report', 38), ('maria.k', 22)) AS v (key, n), generate_series(1, v.n) AS i;
SELECT count(fl_rate_try('device', v.key, 'upload', 1 + 0 * i)) FROM (VALUES ('3f6c1c54-8f0e-4c1b-9a53-6a2a1d0f52c8-tablet-warehouse-north-2', 47), ('d-81f0', 12)) AS v (key, n), generate_series(1, v.n) AS i;
SELECT count(fl_rate_try('user', v.key, 'audit-logs', 1 + 0 * i)) FROM (VALUES ('auditor-1', 17), ('auditor-2', 4)) AS v (key, n), generate_series(1, v.n) AS i;
