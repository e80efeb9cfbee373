-- the same call of a function that does nothing
\set u random(1, :keys)
SELECT bench_empty('user', :u::text, 'bench');
