\set u random(1, :keys)
INSERT INTO bench_counter_unlogged AS c VALUES (:u::text, clock_timestamp(), 1) ON CONFLICT (key) DO UPDATE SET n = CASE WHEN c.since > clock_timestamp() - interval '10 s' THEN c.n + 1 ELSE 1 END, since = CASE WHEN c.since > clock_timestamp() - interval '10 s' THEN c.since ELSE clock_timestamp() END RETURNING n <= 1000000000;
