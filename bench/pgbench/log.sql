\set u random(1, :keys)
SELECT bench_log_check(:u::text, 1000000000, interval '10 s');
