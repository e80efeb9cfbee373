-- the floor; the key is drawn here too, so that the client does the same
\set u random(1, :keys)
SELECT 1;
