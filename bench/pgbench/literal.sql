-- one key, which is part of the statement, like SELECT 1's one
\set u random(1, :keys)
SELECT fl_rate_check('user', '42', 'bench');
