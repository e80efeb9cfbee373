
# The report as it arrives: on a standby, from databases of other encodings, and
# in a browser, where no key runs, nothing is loaded, everything can be read in
# light and in dark, and a phone need not scroll sideways

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use Browser;
use FlRate;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', allows_streaming => 1);
my $dir = PostgreSQL::Test::Utils::tempdir();

# Write a report to a file, as README.md says; returns what is in it.
sub report
{
	my ($from, $dbname, $file) = @_;
	my ($out, $err) = ('', '');

	$from->psql($dbname, 'SELECT fl_rate_report()', stdout => \$out, stderr => \$err);
	is($err, '', "a report of $dbname on " . $from->name);
	append_to_file($file, "$out\n");
	return $out;
}

# ---- encodings

foreach (
	[ 'LATIN1', "chr(233) || chr(160)", '&#233;<i>U+00A0</i>' ],
	[ 'SQL_ASCII', "convert_from('\\xc3a9', 'SQL_ASCII')", '<i>C3</i><i>A9</i>' ],
	[ 'EUC_JP', "convert_from('\\xc6fc', 'EUC_JP') || '<'", '<i>C6FC</i>&#60;' ])
{
	my ($encoding, $key, $seen) = @$_;
	my $database = lc $encoding;

	$node->safe_psql('postgres', "CREATE DATABASE $database ENCODING '$encoding' LOCALE 'C' TEMPLATE template0");
	$node->safe_psql($database, "CREATE EXTENSION fliplet_ratelimit; SELECT fl_rate_check('user', $key, 'ai')");
	my $page = report($node, $database, "$dir/$database.html");
	like($page, qr/\Q>$seen<\E/, "$encoding: a character of it");
	unlike($page, qr/[^\n -~]/, "$encoding: the page is ASCII");
}

# ---- a page of hostile keys

my @hostile = (
	'<script>window.ran = 1; document.title = "ran"</script>', '"><img src=x onerror="window.ran=1">', q{' onmouseover='window.ran=1' x='},
	'</style></title></table><svg onload=window.ran=1>', '<iframe src="https://example.org/"></iframe>', '<link rel=stylesheet href=//example.org/x>',
	"a\x{202e}gpj.exe", 'x' x 64, "\x{1}\x{1b}[31m", 'W' x 63 . "\x{ad}");
my $keys = join(', ', map { utf8::encode(my $key = $_); "'" . $key =~ s/'/''/gr . "'" } @hostile);
$node->safe_psql('postgres', <<"SQL");
SELECT fl_rate_define('hostile', 'user', 'hostile', 3, '1 h', comment => '<script>window.ran = 1</script>'),
       fl_rate_define('@{['n' x 63]}', '@{['s' x 63]}', '@{['a' x 63]}', 3, '1 h'),
       fl_rate_define('hostile', 'user', 'hostile', 3, '1 h', key => repeat('<script>window.ran = 1</script>', 30)),
       fl_rate_define('throttled', 'user', 'hostile', 2, '1 h', on_limit => 'delay'), fl_rate_define('shadow', 'user', 'hostile', 2, '1 h', on_limit => 'count');
SELECT count(fl_rate_try('user', key, 'hostile', 1 + 0 * i)) FROM unnest(ARRAY[$keys]) AS key, generate_series(1, 6) AS i;
SELECT count(fl_rate_try('@{['s' x 63]}', repeat('y', 64), '@{['a' x 63]}', 1 + 0 * i)) FROM generate_series(1, 2) AS i;
INSERT INTO fl_rate_history SELECT date_trunc('minute', now()) - i * interval '1 min', name, 9999999::bigint * i, 5555555 * i, 3333333 * i, 1111111 * i, 9
FROM generate_series(1, 300) AS i, unnest('{hostile,<script>window.ran = 1</script>,@{['n' x 63]}}'::text[]) AS name WHERE i NOT BETWEEN 100 AND 200;
INSERT INTO fl_rate_history_top SELECT now(), 'hostile', key, 9, 9, gen_random_uuid() FROM unnest(ARRAY[$keys]) AS key;
SQL
report($node, 'postgres', "$dir/report.html");
$node->safe_psql('postgres', 'CREATE DATABASE empty');
$node->safe_psql('empty', 'CREATE EXTENSION fliplet_ratelimit');
report($node, 'empty', "$dir/empty.html");

# ---- a standby

$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
$standby->safe_psql('postgres', q{SELECT fl_rate_check('user', 'of the standby', 'ai')});
my $page = report($standby, 'postgres', "$dir/standby.html");
like($page, qr/, on a standby\./, 'a standby says that it is one');
like($page, qr/>of the standby</, 'and has its own counters');
like($page, qr/<figure>/, 'and the history of its primary');
is($standby->safe_psql('postgres', 'SELECT key, used FROM fl_rate_top()'), 'of the standby|1', 'fl_rate_top likewise');
$standby->stop;

# ---- in a browser

# What of the text of a page has too little contrast, and which of the marks in
# its charts
my $contrast = <<'JS';
(() => {
	const channels = colour => { const n = colour.match(/[\d.]+/g).map(Number); return n.length > 3 && n[3] === 0 ? null : n.slice(0, 3); };
	const light = colour => { const [r, g, b] = colour.map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
	const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
	const ground = e => { for (; e; e = e.parentElement) { const c = channels(getComputedStyle(e).backgroundColor); if (c) return c; } return [255, 255, 255]; };
	document.querySelectorAll('details').forEach(d => d.open = true);
	const low = [], seen = new Set();
	let n = 0;
	const judge = (colour, on, least, what) => { n++; const r = ratio(channels(colour), on); if (r < least) low.push(`${what}: ${r.toFixed(2)}`); };
	for (const e of document.body.querySelectorAll('*')) {
		if (e.closest('title, style') || ![...e.childNodes].some(c => c.nodeType === 3 && c.data.trim())) continue;
		const style = getComputedStyle(e);
		judge(e.closest('svg') ? style.fill : style.color, ground(e), 4.5, e.tagName + ' ' + e.textContent.slice(0, 20));
	}
	for (const e of document.querySelectorAll('td[data-l]')) judge(getComputedStyle(e, '::before').color, ground(e), 4.5, 'label ' + e.dataset.l);
	for (const e of document.querySelectorAll('rect.g, rect.r, rect.d, rect.s')) {
		const style = getComputedStyle(e), colour = e.classList.contains('g') ? style.fill : style.stroke;
		judge(colour, ground(e.closest('svg').parentElement), 3, 'mark ' + e.getAttribute('class'));
		seen.add(e.getAttribute('class'));
	}
	return JSON.stringify([n > 40, [...new Set(low)], [...seen].sort().join('')]);
})()
JS

SKIP:
{
	my $browser = Browser->new;
	skip 'there is no chromium here, or it does not run', 1 unless $browser;

	foreach my $name (qw(report empty))
	{
		foreach my $scheme (qw(light dark))
		{
			$browser->open_page("$dir/$name.html", width => 1200, scheme => $scheme);
			is_deeply([ $browser->requests ], ["file://$dir/$name.html"], "$name, $scheme: it asks for nothing else");
			is_deeply([ $browser->complaints ], [], "$name, $scheme: nothing to complain of");
			is($browser->evaluate($contrast), $name eq 'report' ? '[true,[],"dgrs"]' : '[true,[],"g"]', "$name, $scheme: all of it can be read");
			is($browser->evaluate('getComputedStyle(document.body).backgroundColor'), $scheme eq 'light' ? 'rgb(255, 255, 255)' : 'rgb(15, 19, 24)',
				"$name, $scheme: it is $scheme");
		}
		foreach my $width (320, 360, 600, 900, 1030, 1200)
		{
			$browser->open_page("$dir/$name.html", width => $width, height => 740, mobile => $width < 700);
			cmp_ok($browser->evaluate('document.documentElement.scrollWidth'), '<=', $width, "$name, $width pixels wide: no scrolling sideways");
			$browser->evaluate(q{document.querySelectorAll('details').forEach(d => d.open = true)});
			cmp_ok($browser->evaluate('document.documentElement.scrollWidth'), '<=', $width, "$name, $width pixels wide: nor with all tables open");
		}
		is($browser->evaluate(q{[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map(h => +h.tagName[1]).every((level, i, all) => i === 0 ? level === 1 : level > 1 && level <= all[i - 1] + 1)}),
			JSON::PP::true, "$name: headings in order");
		is($browser->evaluate('document.documentElement.lang + document.characterSet + document.compatMode'), 'enUTF-8CSS1Compat', "$name: English, UTF-8, no quirks");
	}

	$browser->open_page("$dir/report.html");
	is($browser->evaluate('typeof window.ran'), 'undefined', 'no key has run');
	is($browser->evaluate(q{document.querySelectorAll('script, img, iframe, link, object, embed, form, input, [onload], [onerror], [onmouseover]').length}), 0, 'or become an element');
	is($browser->evaluate('document.title'), 'Rate limits of postgres', 'or the title');
	my $bdi = $browser->evaluate(q{JSON.stringify([...document.querySelectorAll('section[aria-labelledby=refused] bdi')].map(e => e.textContent))});
	my %shown = map { $_ => 1 } @{ JSON::PP->new->decode($bdi) };
	ok($shown{ s/([\x{1}\x{1b}\x{ad}\x{202e}])/sprintf('U+%04X', ord $1)/ger }, 'but there it is, as text: ' . (s/[^ -~]/./gr)) foreach @hostile;
	$browser->quit;
}

crashed_ok($node, 0, 'the server has not crashed');
$node->stop;
done_testing();
