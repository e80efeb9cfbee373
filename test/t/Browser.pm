
# Browser.pm: look at a page in chromium, without a window
#
# Speaks the DevTools protocol over a pair of pipes, so it needs nothing but
# Debian's package chromium and Perl. A page is opened from a file, at some width
# and in some colour scheme; what it asked for and what it complained of is kept.

# Copyright (c) 2026, the fliplet_ratelimit developers

package Browser;

use strict;
use warnings;

use Fcntl qw(F_DUPFD);
use File::Temp;
use IO::Select;
use JSON::PP;
use MIME::Base64;
use POSIX qw(WNOHANG dup2);

# Nobody waits longer than this for an answer, in seconds.
use constant PATIENCE => 120;

# A browser that is running, or nothing where there is none or it cannot run. It
# keeps its sandbox where the machine allows for one.
sub new
{
	my ($class) = @_;
	my ($program) = grep { -x } map { ("$_/chromium", "$_/chromium-browser", "$_/google-chrome") } split(/:/, $ENV{PATH}), '/usr/bin';

	return unless $program;
	foreach my $more ([], ['--no-sandbox'])
	{
		my $self = $class->start($program, @$more);

		return $self if eval { $self->call('Browser.getVersion') };
		$self->quit;
	}
	return;
}

sub start
{
	my ($class, $program, @more) = @_;
	my $folder = File::Temp->newdir;

	pipe(my $in, my $to) && pipe(my $from, my $out) or die "no pipe: $!";
	my $pid = fork // die "no child: $!";
	if ($pid == 0)
	{
		# it reads from 3 and writes to 4, which may be ours at the moment
		my ($read, $write) = map { fcntl($_, F_DUPFD, 10) } $in, $out;

		dup2($read, 3);
		dup2($write, 4);
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>', '/dev/null');
		open(STDERR, '>', '/dev/null');
		$ENV{HOME} = "$folder";
		exec $program, qw(--headless --remote-debugging-pipe --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run
		  --disable-background-networking --disable-component-update --disable-sync --disable-extensions),
		  "--user-data-dir=$folder", @more, 'about:blank'
		  or POSIX::_exit(127);
	}
	close $in;
	close $out;
	$to->autoflush(1);
	return bless { pid => $pid, to => $to, from => $from, folder => $folder, buffer => '', id => 0, events => [] }, $class;
}

# Call a method of the protocol; returns its result.
sub call
{
	my ($self, $method, %params) = @_;
	my $id = ++$self->{id};
	local $SIG{PIPE} = 'IGNORE';

	print { $self->{to} } encode_json({ id => $id, method => $method, params => \%params,
			$self->{session} ? (sessionId => $self->{session}) : () }) . "\0"
	  or die "the browser is gone\n";
	while (1)
	{
		my $message = $self->receive;

		if (($message->{id} // 0) == $id)
		{
			die "$method: $message->{error}{message}\n" if $message->{error};
			return $message->{result};
		}
		push @{ $self->{events} }, $message if $message->{method};
	}
}

# The next message
sub receive
{
	my ($self) = @_;

	my $end;

	while (($end = index($self->{buffer}, "\0")) < 0)
	{
		IO::Select->new($self->{from})->can_read(PATIENCE) or die "the browser does not answer\n";
		sysread($self->{from}, $self->{buffer}, 1 << 20, length $self->{buffer}) or die "the browser is gone\n";
	}
	return decode_json(substr(substr($self->{buffer}, 0, $end + 1, ''), 0, $end));
}

# Open a file: width and height in CSS pixels, scheme (light or dark), scale,
# mobile. Returns the browser, when the page is there.
sub open_page
{
	my ($self, $file, %opt) = @_;

	delete $self->{session};
	my $target = $self->call('Target.createTarget', url => 'about:blank')->{targetId};
	$self->{session} = $self->call('Target.attachToTarget', targetId => $target, flatten => JSON::PP::true)->{sessionId};
	$self->call("$_.enable") foreach qw(Page Runtime Network Log);
	$self->call('Emulation.setDeviceMetricsOverride', width => 0 + ($opt{width} // 1200), height => 0 + ($opt{height} // 900),
		deviceScaleFactor => 0 + ($opt{scale} // 1), mobile => $opt{mobile} ? JSON::PP::true : JSON::PP::false);
	$self->call('Emulation.setEmulatedMedia', features => [ { name => 'prefers-color-scheme', value => $opt{scheme} // 'light' } ]);
	$self->{events} = [];
	$self->call('Page.navigate', url => "file://$file");
	push @{ $self->{events} }, $self->receive
	  until grep { $_->{method} eq 'Page.loadEventFired' } @{ $self->{events} };
	return $self;
}

# What the page has asked for, and what it, or the browser of it, complained of
sub requests
{
	my ($self) = @_;

	return map { $_->{params}{request}{url} } grep { $_->{method} eq 'Network.requestWillBeSent' } @{ $self->{events} };
}

sub complaints
{
	my ($self) = @_;

	return map { encode_json($_->{params}) }
	  grep { $_->{method} =~ /^(Log\.entryAdded|Runtime\.consoleAPICalled|Runtime\.exceptionThrown)$/ } @{ $self->{events} };
}

# The value of a JavaScript expression
sub evaluate
{
	my ($self, $expression) = @_;
	my $answer = $self->call('Runtime.evaluate', expression => $expression, returnByValue => JSON::PP::true);

	die encode_json($answer->{exceptionDetails}) . "\n" if $answer->{exceptionDetails};
	return $answer->{result}{value};
}

# Write a picture: all of the page, or as much of it from the top as height says.
sub picture
{
	my ($self, $file, $height) = @_;
	my $size = $self->call('Page.getLayoutMetrics')->{cssContentSize};
	my $answer = $self->call('Page.captureScreenshot', format => 'png', captureBeyondViewport => JSON::PP::true,
		clip => { x => 0, y => 0, width => $size->{width}, height => 0 + ($height || $size->{height}), scale => 1 });

	open(my $to, '>:raw', $file) or die "could not write \"$file\": $!\n";
	print $to decode_base64($answer->{data});
	close($to) or die "could not write \"$file\": $!\n";
	return;
}

# End it, and those that it started with it.
sub quit
{
	my ($self) = @_;

	my $pid = delete $self->{pid} // return;
	delete $self->{session};
	eval { $self->call('Browser.close') };
	close $self->{to};
	foreach (1 .. 100)
	{
		return if waitpid($pid, WNOHANG);
		select(undef, undef, undef, 0.1);
	}
	kill KILL => $pid;
	waitpid($pid, 0);
	return;
}

sub DESTROY
{
	local ($?, $@);
	$_[0]->quit;
	return;
}

1;
