-- a PL/Proxy call that answers as many bytes as a verdict has
\set u random(1, :keys)
SELECT length(bench_bytes('user', :u::text, 'bench'));
