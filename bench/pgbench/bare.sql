\set u random(1, :keys)
SELECT bench_bare('user', :u::text, 'bench');
