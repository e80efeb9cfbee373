# shellcheck shell=bash disable=SC2034	# the callers use what looks unused
#
# common.sh: what ./demo and ./check share
#
# Sourced, not run. It brings the machine's packages, makes one temporary
# folder in which everything happens, builds the extension there and starts
# throwaway servers. The caller sets ROOT (the checkout) beforehand and calls,
# in this order, need_packages, make_workdir, make_server_tree.
#
# Nothing is installed into the system's PostgreSQL. A PostgreSQL that is
# copied elsewhere finds its library and share folders relative to its own
# binaries (this is how PostgreSQL's own "make check" works), so the extension
# goes into a private copy, which is made of links apart from the binaries.
# That needs no root, disturbs no extension that is already there, and lets
# several runs work side by side.
#
# PostgreSQL refuses to run as root. For root, everything but apt therefore
# runs as an unprivileged user, who owns the temporary folder.

# Copyright (c) 2026, the fliplet_ratelimit developers

EXTENSION=fliplet_ratelimit
WORK=
RUN_USER=
APT_LOG=
SERVER_POLICY=
CLUSTER_POLICY=

# ---------------------------------------------------------------- messages

# A terminal gets colours, a log does not; TERM may well be unset.
if [ -t 1 ] && [ "${TERM:-dumb}" != dumb ] && [ -z "${NO_COLOR:-}" ]; then
	BOLD=$'\033[1m' GREEN=$'\033[32m' RED=$'\033[31m' PLAIN=$'\033[0m'
else
	BOLD='' GREEN='' RED='' PLAIN=''
fi

say() { printf '%s\n' "$*"; }
title() { printf '\n%s%s%s\n' "$BOLD" "$*" "$PLAIN"; }

# The reason, then the end. The exit trap cleans up.
die() {
	printf '%s%s: %s%s\n' "$RED" "${0##*/}" "$1" "$PLAIN" >&2
	shift
	for line in "$@"; do
		printf '  %s\n' "$line" >&2
	done
	exit 1
}

# ---------------------------------------------------------------- packages

is_installed() {
	[ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Run a command as root: directly, or through sudo.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	else
		sudo "$@"
	fi
}

# Print the major version of the newest server that Debian's packages have put
# here, if there is any that is new enough.
installed_version() {
	local dir version newest=
	for dir in /usr/lib/postgresql/*/bin/postgres; do
		[ -x "$dir" ] || continue
		version=${dir#/usr/lib/postgresql/}
		version=${version%%/*}
		case $version in
			'' | *[!0-9]*) continue ;;
		esac
		if [ "$version" -ge 15 ] && [ "$version" -gt "${newest:-0}" ]; then
			newest=$version
		fi
	done
	printf '%s' "$newest"
}

# Print the major version that this release of the distribution ships.
distribution_version() {
	local version
	version=$(LC_ALL=C apt-cache depends postgresql 2>/dev/null |
		sed -n 's/^ *Depends: postgresql-\([0-9][0-9]*\)$/\1/p' | head -n 1)
	printf '%s' "${version:-15}"
}

# Run apt-get quietly: its output matters only when it fails. Its log lies
# outside the folder of this run, whose owner may yet come with the packages.
apt_get() {
	local status=0
	APT_LOG=$(mktemp)
	as_root env DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get \
		-q -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 \
		-o Dpkg::Use-Pty=0 "$@" >"$APT_LOG" 2>&1 </dev/null || status=$?
	[ "$status" -eq 0 ] || tail -n 25 "$APT_LOG" >&2
	rm -f "$APT_LOG"
	APT_LOG=
	return "$status"
}

# Debian's server package makes a cluster, and starts it, as it is installed.
# Nobody asked for a running server here: prevent both, for the time of the
# installation alone.
hold_services() {
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		SERVER_POLICY=/usr/sbin/policy-rc.d
		printf '#!/bin/sh\nexit 101\n' | as_root tee "$SERVER_POLICY" >/dev/null
		as_root chmod 755 "$SERVER_POLICY"
	fi
	CLUSTER_POLICY=/etc/postgresql-common/createcluster.d/$EXTENSION.conf
	as_root mkdir -p "${CLUSTER_POLICY%/*}"
	echo 'create_main_cluster = false' |
		as_root tee "$CLUSTER_POLICY" >/dev/null
}

release_services() {
	[ -z "$SERVER_POLICY$CLUSTER_POLICY" ] ||
		as_root rm -f ${SERVER_POLICY:+"$SERVER_POLICY"} \
			${CLUSTER_POLICY:+"$CLUSTER_POLICY"}
	SERVER_POLICY=
	CLUSTER_POLICY=
}

# Bring what is missing. Arguments are package names, in which "@" stands for
# the server's major version; sets PG_CONFIG and PGVERSION.
#
# Which PostgreSQL: PG_CONFIG if set (then its server is used as it is), else
# PGVERSION if set, else the newest one installed, else the distribution's.
need_packages() {
	local package missing=() own_server=${PG_CONFIG:-} known=

	if [ -n "$own_server" ]; then
		PGVERSION=$("$own_server" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
		# One of the distribution's servers, called by another name
		[ "$("$own_server" --bindir)" != "/usr/lib/postgresql/$PGVERSION/bin" ] ||
			own_server=
	fi
	PGVERSION=${PGVERSION:-$(installed_version)}

	if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
		known=yes
		for package in "$@"; do
			case $package in
				*@*) [ -z "$own_server" ] || continue ;;
			esac
			# With no version to name yet, there is no such server either.
			if [ -z "$PGVERSION" ] && [ "${package#*@}" != "$package" ]; then
				missing+=("$package")
			elif ! is_installed "${package/@/$PGVERSION}"; then
				missing+=("$package")
			fi
		done
	fi

	if [ ${#missing[@]} -gt 0 ]; then
		if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
			die 'packages are missing, and only root can install them' \
				'Run this as root, or install them first:' \
				"apt-get install --no-install-recommends ${missing[*]//@/${PGVERSION:-15}}"
		fi
		say 'Fetching the package lists ...'
		apt_get update ||
			say 'Not all package lists could be fetched; going on with what there is.'
		PGVERSION=${PGVERSION:-$(distribution_version)}
		missing=("${missing[@]//@/$PGVERSION}")
		say "Installing ${missing[*]} (this takes a few minutes) ..."
		hold_services
		if ! apt_get install --no-install-recommends "${missing[@]}"; then
			die 'the packages above could not be installed'
		fi
		release_services
	fi

	PG_CONFIG=${own_server:-/usr/lib/postgresql/$PGVERSION/bin/pg_config}
	if [ -z "$known" ] && [ -z "$own_server" ]; then
		PG_CONFIG=$(command -v pg_config) ||
			die 'there is no apt here, and no pg_config on the PATH' \
				'Name your server by PG_CONFIG=/path/to/pg_config.'
		PGVERSION=$("$PG_CONFIG" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
	fi
	[ -f "$("$PG_CONFIG" --pgxs)" ] ||
		die "$PG_CONFIG belongs to a PostgreSQL without PGXS" \
			'Install its files for building extensions (postgresql-server-dev).'
	[ "$PGVERSION" -ge 15 ] ||
		die "$EXTENSION needs PostgreSQL 15 or later, this is $PGVERSION"
}

# Bring a package without which less is tested, if it exists and we may. What
# cannot be had is done without.
want_package() {
	if apt-cache show "$1" >/dev/null 2>&1 &&
		{ [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null; }; then
		(
			trap release_services EXIT
			need_packages "$1"
		) || say "Going on without $1."
	fi
}

# ---------------------------------------------------------------- the folder

# Run a command as the unprivileged user, in the background while we wait for
# it: bash runs a trap only between two foreground commands, and a request to
# stop shall not have to wait for the longest test. Job control is on for that
# moment because bash makes background commands ignore Ctrl-C without it.
as_user() {
	local child status=0
	set -m
	if [ -n "$RUN_USER" ]; then
		setpriv --reuid="$RUN_USER" --regid="$(id -g "$RUN_USER")" \
			--init-groups -- "$@" </dev/null &
	else
		"$@" </dev/null &
	fi
	child=$!
	set +m
	wait "$child" || status=$?
	return "$status"
}

# Everything that runs for us has its program or its current folder inside
# $WORK; print the process ids.
our_processes() {
	local proc
	for proc in /proc/[0-9]*; do
		[ -e "$proc/cwd" ] || [ -e "$proc/exe" ] || continue
		[ "${proc#/proc/}" -ne $$ ] || continue
		case $(readlink "$proc/cwd" 2>/dev/null || :)/:$(readlink "$proc/exe" 2>/dev/null || :) in
			"$WORK"/*:* | *:"$WORK"/*) printf '%s ' "${proc#/proc/}" ;;
		esac
	done
}

# Wait up to $1 tenths of a second for our processes to be gone.
wait_until_gone() {
	local tries=$1
	while [ -n "$(our_processes)" ]; do
		[ "$tries" -gt 0 ] || return 1
		tries=$((tries - 1))
		sleep 0.1
	done
}

# Leave nothing behind, whatever state we are in. Servers come first and are
# asked to stop at once but in order: a killed one leaves its shared memory.
clean_up() {
	local pidfile pids pid
	trap '' INT TERM HUP
	release_services
	[ -z "$APT_LOG" ] || rm -f "$APT_LOG"
	[ -n "$WORK" ] || return 0
	cd /
	pids=
	for pid in $(our_processes); do
		case $(readlink "/proc/$pid/exe" 2>/dev/null || :) in
			*/bin/postgres*) ;;
			*) pids="$pids $pid" ;;
		esac
	done
	# shellcheck disable=SC2086	# a list of numbers
	[ -z "$pids" ] || kill -TERM $pids 2>/dev/null || :
	# shellcheck disable=SC2044	# no name in there has a blank
	for pidfile in $(find "$WORK" -name postmaster.pid 2>/dev/null); do
		kill -QUIT "$(head -n 1 "$pidfile")" 2>/dev/null || :
	done
	if ! wait_until_gone 100; then
		# shellcheck disable=SC2046
		kill -KILL $(our_processes) 2>/dev/null || :
		wait_until_gone 50 || :
	fi
	if [ -n "${KEEP:-}" ]; then
		say "Kept as asked: $WORK"
	else
		rm -rf "$WORK" || rm -rf "$WORK"
	fi
	WORK=
}

trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Make the temporary folder, owned by the user who runs the servers, and move
# into it: the unprivileged user may not even be able to look at the checkout.
make_workdir() {
	local user base=${TMPDIR:-/tmp} variable

	# A unix socket's path may have 107 bytes, and make splits paths at blanks.
	case $base in
		*[[:space:]]*) base=/tmp ;;
	esac
	[ ${#base} -le 50 ] || base=/tmp

	if [ "$(id -u)" -eq 0 ]; then
		for user in postgres nobody; do
			if id -u "$user" >/dev/null 2>&1; then
				RUN_USER=$user
				break
			fi
		done
		[ -n "$RUN_USER" ] || die 'there is no unprivileged user to run a server as'
	fi
	WORK=$(mktemp -d "$base/$EXTENSION.XXXXXX")
	mkdir "$WORK/home" "$WORK/tmp" "$WORK/socket" "$WORK/log"
	copy_source "$WORK/src"
	[ -z "$RUN_USER" ] || chown -R "$RUN_USER:" "$WORK"
	cd "$WORK" || exit

	# The caller's own settings must not reach the servers, the clients or
	# make. A minimal machine has no other UTF-8 locale than this one; LANG
	# too, because PostgreSQL's test modules remove LC_ALL.
	for variable in $(compgen -e); do
		case $variable in
			PG_CONFIG | PGVERSION | PG_TEST_*) ;;
			PG* | LC_* | LANG | LANGUAGE | MAKE* | MFLAGS | COPT | PERL5LIB | PROVE* | TESTDIR)
				unset "$variable"
				;;
		esac
	done
	export LC_ALL=C.UTF-8 LANG=C.UTF-8 HOME="$WORK/home" TMPDIR="$WORK/tmp"
	if [ -n "$RUN_USER" ]; then
		export USER=$RUN_USER LOGNAME=$RUN_USER
	fi

	# initdb then turns to System V shared memory, which works as well, but
	# it is not what a real machine uses.
	as_user test -w /dev/shm ||
		say "Note: /dev/shm is not writable for ${RUN_USER:-this user}; the servers use System V shared memory. (\"chmod 1777 /dev/shm\" corrects it.)"
}

# Copy the source to $1 without history and without what a build in the
# checkout has left: object files of another compiler or server version would
# look up to date here.
copy_source() {
	mkdir "$1"
	tar -C "$ROOT" -cf - \
		--exclude=./.git --exclude=node_modules \
		--exclude='*.o' --exclude='*.so' --exclude='*.bc' --exclude='*.a' \
		--exclude=./results --exclude=./tmp_check --exclude=./output_iso \
		--exclude=./test/fuzz/build --exclude=./tmp_check_iso --exclude=regression.diffs \
		--exclude=regression.out --exclude=./log . |
		tar -C "$1" --no-same-owner -xf -
}

# ---------------------------------------------------------------- PostgreSQL

# Copy the folder that pg_config names by option $1 into the private tree at
# the same place, as links (or really, with $2 = real), unless it is there.
tree_dir() {
	local from to
	from=$("$PG_CONFIG" "$1")
	to=$WORK/server$from
	[ ! -e "$to" ] || return 0
	as_user mkdir -p "${to%/*}"
	case ${2:-link} in
		real) as_user cp -a "$from" "$to" ;;
		files) as_user cp -rs "$from" "$to" ;;
		link) as_user ln -s "$from" "$to" ;;
	esac
}

# Make a private copy of the server of PG_CONFIG, which is the copy's from here
# on.
copy_server() {
	local dir
	tree_dir --bindir real
	tree_dir --pkglibdir files
	tree_dir --sharedir files
	for dir in --includedir --pkgincludedir --includedir-server --libdir; do
		tree_dir "$dir"
	done
	# An extension of this name that the system has already is not the one
	# under test.
	dir=$WORK/server$("$PG_CONFIG" --pkglibdir)
	as_user rm -rf "$dir/$EXTENSION.so" "$dir/bitcode/$EXTENSION" \
		"$dir/bitcode/$EXTENSION.index.bc"
	find "$WORK/server$("$PG_CONFIG" --sharedir)/extension" -name "$EXTENSION*" -delete

	dir=$WORK/server$("$PG_CONFIG" --bindir)
	[ -x "$dir/pg_config" ] || as_user cp "$PG_CONFIG" "$dir/pg_config"
	PG_CONFIG=$dir/pg_config
}

# Make the private copy of the server under test, and use it: PG_CONFIG, PATH
# and BINDIR are its own.
make_server_tree() {
	[ ! -e "$WORK/server" ] || return 0
	copy_server
	BINDIR=${PG_CONFIG%/*}
	PATH=$BINDIR:/usr/local/bin:/usr/bin:/bin:$PATH
	export PATH PG_CONFIG

	as_user "$BINDIR/postgres" --version >"$WORK/log/version" 2>&1 ||
		die "programs cannot be run in $WORK" \
			'It may lie on a file system mounted with "noexec": set TMPDIR to another place.' \
			"$(tail -n 1 "$WORK/log/version")"
	SERVER_VERSION=$(sed 's/^[^0-9]*\([^ ]*\).*/\1/' "$WORK/log/version")
}

# Build the copy of the source in folder $1; more arguments go to make.
build_in() {
	local dir=$1
	shift
	as_user make -C "$dir" -j "$(nproc 2>/dev/null || echo 2)" \
		PG_CONFIG="$PG_CONFIG" "$@"
}

install_from() {
	as_user make -C "$1" PG_CONFIG="$PG_CONFIG" install
}

# Make and start a throwaway cluster named $1, reachable on a unix socket
# alone; sets PGHOST, PGPORT and PGUSER for its clients. fsync is off because
# nobody will miss this cluster. FLR_CONF has more lines of configuration.
start_cluster() {
	local data=$WORK/cluster-$1 log=$WORK/log/server-$1.log
	if ! as_user initdb -D "$data" -A trust -U postgres --no-locale -E UTF8 \
		--no-sync --no-instructions >"$WORK/log/initdb-$1.log" 2>&1; then
		cat "$WORK/log/initdb-$1.log" >&2
		return 1
	fi
	cat >>"$data/postgresql.conf" <<-CONF
		listen_addresses = ''
		unix_socket_directories = '$WORK/socket'
		port = 5432
		fsync = off
		log_line_prefix = '%m [%p] %q%a '
		${FLR_CONF:-}
	CONF
	if ! as_user pg_ctl -D "$data" -l "$log" -w -t 60 start >/dev/null 2>&1; then
		cat "$log" >&2
		return 1
	fi
	export PGHOST="$WORK/socket" PGPORT=5432 PGUSER=postgres
}

# Stop it in order, or at once if it hangs.
stop_cluster() {
	local mode
	for mode in fast immediate; do
		! as_user pg_ctl -D "$WORK/cluster-$1" -m "$mode" -w -t 20 stop \
			>/dev/null 2>&1 || break
	done
	unset PGHOST PGPORT PGUSER
}
