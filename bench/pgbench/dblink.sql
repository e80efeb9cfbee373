\set k random(1, :keys)
SELECT bench_dblink(:k::text);
