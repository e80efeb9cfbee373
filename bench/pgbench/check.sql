\set u random(1, :keys)
SELECT fl_rate_check('user', :u::text, 'bench');
