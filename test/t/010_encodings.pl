
# Every encoding of a database: keys are told apart by all of their bytes, and
# shown up to a character's boundary

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main');

foreach my $encoding ('LATIN1', 'SQL_ASCII', 'EUC_JP', 'UTF8')
{
	my $database = lc($encoding);

	$node->safe_psql('postgres',
		"CREATE DATABASE $database ENCODING $encoding TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
	my $s = session($node, $database);
	ask_ok($s, 'CREATE EXTENSION fliplet_ratelimit');

	# A key of non-ASCII characters, as an expression in ASCII: its bytes in
	# this encoding. "prefix" moves the boundaries of two-byte characters.
	my ($character, $bytes) =
		$encoding eq 'LATIN1' ? ('e9', 1)
	  : $encoding eq 'SQL_ASCII' ? ('ff', 1)
	  : $encoding eq 'EUC_JP' ? ('a4a2', 2)
	  : ('e282ac', 3);
	my $key = sub {
		my ($prefix, $n) = @_;
		return $encoding eq 'SQL_ASCII'
		  ? "('$prefix' || repeat(E'\\xff', $n))"
		  : "('$prefix' || repeat(convert_from('\\x$character', '$encoding'), $n))";
	};

	foreach my $prefix ('', 'a', 'ab')
	{
		my $k = $key->($prefix, 100);
		my $visible = int((64 - length($prefix)) / $bytes);

		granted_ok($s, "SELECT fl_rate_check('user', $k, 'ai')", 9,
			"$encoding, prefix \"$prefix\": a long key");
		granted_ok($s, "SELECT fl_rate_check('user', $k || 'x', 'ai')", 9,
			"$encoding, prefix \"$prefix\": one that differs at its end is another");
		granted_ok($s, "SELECT fl_rate_check('user', $k, 'ai')", 8,
			"$encoding, prefix \"$prefix\": the first again");
		granted_ok($s, 'SELECT octet_length(key), length(key), key = ' . $key->($prefix, $visible)
			  . ' FROM fl_rate_counters WHERE used = 2',
			join('|', length($prefix) + $bytes * $visible, length($prefix) + $visible, 't'),
			"$encoding, prefix \"$prefix\": views clip it at a character's boundary");
		granted_ok($s, "SELECT key = $k, fl_rate_json(v) ->> 'key' = $k FROM fl_rate_peek('user', $k, 'ai') AS v",
			't|t', "$encoding, prefix \"$prefix\": a verdict repeats all of it");
		ask_ok($s, 'SELECT fl_rate_reset_all()');
	}

	# Short keys, whatever the store does inside
	granted_ok($s, q{SELECT sum(fl_rate_check('user', repeat('k', i), 'ai')) FROM generate_series(1, 64) AS i},
		64 * 9, "$encoding: keys of 1 to 64 bytes");
	granted_ok($s, q{SELECT string_agg(length(key)::text, ' ' ORDER BY length(key)) FROM fl_rate_counters WHERE key ~ '^k+$'},
		join(' ', 1 .. 64), "$encoding: are shown whole");

	# 1 MB
	ask_ok($s, q{SELECT fl_rate_reset_all()});
	granted_ok($s, q{SELECT fl_rate_check('user', repeat('x', 1048576), 'ai')}, 9,
		"$encoding: a key of 1 MB");
	granted_ok($s, q{SELECT fl_rate_check('user', repeat('x', 1048575) || 'y', 'ai')}, 9,
		"$encoding: another one");
	granted_ok($s, q{SELECT fl_rate_check('user', repeat('x', 1048576), 'ai')}, 8,
		"$encoding: the first again");
	granted_ok($s, q{SELECT octet_length(key), used FROM fl_rate_counters ORDER BY used},
		"64|1\n64|2", "$encoding: views show its beginning");
	granted_ok($s, 'SELECT max(memory) < 1000 FROM fl_rate_counters', 't',
		"$encoding: it takes no more memory than others");

	# A key as a table may store it: short, whole, compressed, or elsewhere
	ask_ok($s, <<'SQL');
CREATE TABLE keys (how text, key text);
INSERT INTO keys VALUES ('short', 'y'), ('whole', repeat('y', 1000)), ('compressed', repeat('y', 10000)),
                        ('compressed elsewhere', repeat('y', 1048576));
ALTER TABLE keys ALTER key SET STORAGE EXTERNAL;
INSERT INTO keys VALUES ('elsewhere', repeat('y', 20000));
SQL
	foreach (
		[ 'short', 1 ], [ 'whole', 1000 ], [ 'compressed', 10000 ],
		[ 'compressed elsewhere', 1048576 ], [ 'elsewhere', 20000 ])
	{
		my ($how, $length) = @$_;

		granted_ok($s, "SELECT fl_rate_check('user', repeat('y', $length), 'ai')", 9,
			"$encoding: a key of $length bytes");
		granted_ok($s, "SELECT fl_rate_check('user', key, 'ai') FROM keys WHERE how = '$how'", 8,
			"$encoding: is the same key where it is stored $how");
	}

	# Definitions for such keys
	my $k = $key->('for ', 20);
	ask_ok($s, "SELECT fl_rate_define('fliplet/ai', 'user', 'ai', 500, '1 min', key => $k)");
	granted_ok($s, "SELECT fl_rate_check('user', $k, 'ai')", 499,
		"$encoding: a row for such a key");

	# A message that is not ASCII
	if ($encoding ne 'SQL_ASCII')
	{
		ask_ok($s, "SELECT set_config('fliplet_ratelimit.message', " . $key->('m ', 3) . ', false)');
		granted_ok($s,
			'SELECT fl_rate_body(v) ->> \'message\' = ' . $key->('m ', 3)
			  . " FROM fl_rate_try('user', 'm', 'ai', 11) AS v",
			't', "$encoding: a message in that encoding");
	}

	# What names a limit is ASCII.
	foreach my $what ('scope', 'api', 'plan', 'name')
	{
		my %is = (name => q{'n'}, scope => q{'user'}, api => q{'ai'}, plan => 'NULL');
		$is{$what} = $key->('x', 1);
		my (undef, $err) = ask($s,
			"SELECT fl_rate_define($is{name}, $is{scope}, $is{api}, 1, '1 h', plan => $is{plan})");
		is(sqlstate($err), '23514', "$encoding: a $what that is not ASCII is refused");
	}
	my (undef, $err) = ask($s, 'SELECT fl_rate_check(\'user\', \'1\', ' . $key->('ai', 1) . ')');
	is(sqlstate($err), '22023', "$encoding: and so is a request with such an API")
	  or diag($err);
	$s->quit;
}

$node->stop;
done_testing();
