#!/usr/bin/perl
#
# meta.pl: is META.json what PGXN wants, and do all files agree on the version?
#
#   meta.pl FOLDER             the top of the source
#
# The rules are those of the PGXN Meta Spec 1.0.0. Prints TAP.

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use JSON::PP;
use Test::More;

my ($top) = @ARGV;
my $meta = eval { JSON::PP->new->utf8->decode(contents('META.json')) };
ok(ref $meta eq 'HASH', 'META.json is a JSON object') or BAIL_OUT($@);

my $version = qr/^(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)(?:-?[a-zA-Z][-0-9A-Za-z]*)?$/;
my $range = qr/^(?:(?:==|!=|<=?|>=?)\s*)?(?:0|\d+\.\d+\.\d+\S*)$/;
my $term = qr{^[^\s/\\\x00-\x1f\x7f]{2,}$};
my @licenses = qw(agpl_3 apache_1_1 apache_2_0 artistic_1 artistic_2 bsd freebsd gfdl_1_2 gfdl_1_3 gpl_1 gpl_2 gpl_3
  lgpl_2_1 lgpl_3_0 mit mozilla_1_0 mozilla_1_1 openssl perl_5 postgresql qpl_1_0 ssleay sun zlib open_source
  restricted unrestricted unknown);

# ---- what the specification requires

foreach my $key (qw(name version abstract maintainer license provides meta-spec))
{
	ok(filled($meta->{$key}), "\"$key\" is there");
}
like($meta->{name}, $term, 'the name is a term');
like($meta->{version}, $version, 'the version is a semantic one');
is($meta->{'meta-spec'}{version}, '1.0.0', 'the specification is that of version 1.0.0');
is_deeply([ grep { ref || !/\S/ } listed($meta->{maintainer}) ], [], 'maintainers are names');
is_deeply([ grep { my $license = $_; !grep { $license eq $_ } @licenses } listed($meta->{license}) ], [], 'licenses are known ones')
  unless ref $meta->{license} eq 'HASH';
my %provides = %{ $meta->{provides} };
cmp_ok(scalar keys %provides, '>', 0, 'something is provided');
foreach my $name (sort keys %provides)
{
	like($name, $term, "$name: the name is a term");
	like($provides{$name}{version}, $version, "$name: the version is a semantic one");
	ok(filled($provides{$name}{file}), "$name: there is a file");
}

# ---- what it leaves open, but not how

like($meta->{release_status} // 'stable', qr/^(?:stable|testing|unstable)$/, 'the status is a known one');
is_deeply([ grep { ref || !m{^[^/\\\x00-\x1f\x7f]{1,255}$} } listed($meta->{tags} // []) ], [], 'tags are short texts');
my @relations = map { my $phase = $_; map { ("$phase $_" => $meta->{prereqs}{$phase}{$_}) } keys %{ $meta->{prereqs}{$phase} } } keys %{ $meta->{prereqs} // {} };
my %relations = @relations;
is_deeply([ grep { !/^(?:configure|build|test|runtime|develop) (?:requires|recommends|suggests|conflicts)$/ } keys %relations ], [], 'requirements are of known kinds');
is_deeply([ grep { my $range_of = $_; grep { !/$range/ } split /\s*,\s*/, $range_of } map { values %$_ } values %relations ], [], 'and of versions');
is_deeply(
	[ grep { !/^(?:abstract|description|generated_by|license|maintainer|meta-spec|name|no_index|prereqs|provides|release_status|resources|tags|version|[xX]_.*)$/ } keys %$meta ],
	[], 'no other keys');

# ---- what is around it

my %control = contents("$meta->{name}.control") =~ /^(\w+)\s*=\s*'([^']*)'/mg;
my $of_control = join '.', (split(/\./, $control{default_version}), 0, 0)[ 0 .. 2 ];
is($meta->{version}, $of_control, 'the version is that of the control file');
is($meta->{abstract}, $control{comment}, 'the abstract is its comment');
is($provides{ $meta->{name} }{version}, $of_control, 'the extension has it too');
is($provides{ $meta->{name} }{file}, "src/$meta->{name}--$control{default_version}.sql", 'and its file is the script of that version');
foreach my $name (sort keys %provides)
{
	ok(-f "$top/$_", "$name: there is $_") foreach grep { defined } @{ $provides{$name} }{qw(file docfile)};
}
my ($of_debian) = contents('debian/changelog') =~ /^\S+ \((.*)-[^-]*\)/;
is($of_debian, $of_control, 'the version in debian/changelog is this one');
my ($of_changes) = contents('CHANGELOG.md') =~ /^## (\S+)/;
is($of_changes, $control{default_version}, 'so is the last one in CHANGELOG.md');
my $debian_control = contents('debian/control.in');
my ($written_for) = contents('debian/control') =~ /^Package: postgresql-(\d+)-/m;
is(contents('debian/control'), $debian_control =~ s/PGVERSION/$written_for/gr, 'debian/control is what debian/control.in says, for one version of the server');

done_testing();

# Something, and not nothing
sub filled
{
	my ($value) = @_;
	return ref $value eq 'HASH' ? %$value > 0 : ref $value eq 'ARRAY' ? @$value > 0 : defined $value && $value =~ /\S/;
}

# One or several
sub listed { return ref $_[0] eq 'ARRAY' ? @{ $_[0] } : $_[0] }

sub contents
{
	open my $in, '<', "$top/$_[0]" or die "$top/$_[0]: $!\n";
	local $/;
	return scalar <$in>;
}
