-- the same call of a function that looks up an entry in shared memory and adds to it
\set u random(1, :keys)
SELECT bench_table('user', :u::text, 'bench', 100000);
