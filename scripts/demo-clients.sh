#!/usr/bin/env bash
#
# demo-clients.sh: eight clients against the documented limits
#
# Called by ./demo with a folder for its files, against the server that PGHOST
# and the rest of libpq's environment name. Exits with 1 unless every count is
# the documented one.

# Copyright (c) 2026, the fliplet_ratelimit developers

set -euo pipefail

FILES=$1
CLIENTS=8

# Any number will do: the advisory lock behind which the clients line up.
GATE=429

# The parts of a refusal that never change
MESSAGE="You've made too many attempts in a short period of time, please try again in a few seconds. Read more about rate limiting and how you may be affected by reading our documentation."
REFERENCE=https://developers.fliplet.com/Rate-limiting-for-API.html

WRONG=

title() { printf '\n%s%s%s\n' "$BOLD" "$*" "$PLAIN"; }

# Set VERDICT: ok if the rest of the arguments is a command that succeeds,
# else the complaint in $1, and the demo has failed.
judge() {
	local complaint=$1
	shift
	if "$@"; then
		VERDICT=${GREEN}ok$PLAIN
	else
		VERDICT="$RED$complaint$PLAIN"
		WRONG=yes
	fi
}

# Arithmetic on seconds, and comparisons: shell numbers are whole.
calc() { awk "BEGIN { printf \"%.3f\", $1 }"; }
holds() { awk "BEGIN { exit !($1) }"; }

# psql without the user's own settings, printing bare values
query() {
	psql -X -A -t -q "$@"
}

# Wait until SQL condition $1 holds.
wait_for() {
	local tries=0
	until [ "$(query -c "SELECT $1")" = t ]; do
		tries=$((tries + 1))
		if [ "$tries" -gt 600 ]; then
			printf '%s\n' "demo: gave up waiting until $1" >&2
			exit 1
		fi
		sleep 0.05
	done
}

# ---------------------------------------------------------------- the bursts

# The gate is an advisory lock. Its keeper, a session of its own that is told
# what to do through a pipe, holds it while the clients connect.
mkfifo "$FILES/gate"
query <"$FILES/gate" >/dev/null &
exec 9>"$FILES/gate"

shut_gate() {
	echo "SELECT pg_advisory_lock($GATE);" >&9
	wait_for "EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted)"
}

open_gate() {
	echo "SELECT pg_advisory_unlock($GATE);" >&9
}

# What one client does: line up at the gate, then make $4 requests of scope
# $1, key $2 and API $3. Each is a statement, hence a transaction, of its own,
# and psql goes on after a refusal.
client_script() {
	local i
	echo '\set VERBOSITY verbose'
	echo "SELECT pg_advisory_lock_shared($GATE) IS NULL;"
	echo "SELECT 'at ' || extract(epoch FROM clock_timestamp());"
	for ((i = 0; i < $4; i++)); do
		echo "SELECT fl_rate_check('$1', '$2', '$3');"
	done
	echo "SELECT 'at ' || extract(epoch FROM clock_timestamp());"
}

# Let all clients make $4 requests each, at once, and print what came of them:
# $5 in all should be granted within $6 seconds.
burst() {
	local scope=$1 key=$2 api=$3 each=$4 limit=$5 period=$6
	local requests=$((CLIENTS * $4)) client clients=() granted refused took

	rm -f "$FILES"/out.* "$FILES"/err.*
	client_script "$scope" "$key" "$api" "$each" >"$FILES/script.sql"
	shut_gate
	for ((client = 1; client <= CLIENTS; client++)); do
		query -f "$FILES/script.sql" \
			>"$FILES/out.$client" 2>"$FILES/err.$client" 9>&- &
		clients+=($!)
	done
	wait_for "$CLIENTS = (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
	open_gate
	wait "${clients[@]}" || :

	# A grant is answered by a number, what remains; a refusal by the error.
	granted=$(cat "$FILES"/out.* | grep -c -E '^[0-9]+$' || :)
	refused=$(cat "$FILES"/err.* | grep -c '^psql:.*ERROR:  PT429: ' || :)
	took=$(cat "$FILES"/out.* | awk '
		$1 == "at" && (!first || $2 < first) { first = $2 }
		$1 == "at" && $2 > last { last = $2 }
		END { printf "%.3f", last - first }')

	# A limit can only be counted by a burst that is over well before the
	# first grant comes free again.
	if holds "$took > 0 && $took < $period / 2"; then
		judge "expected $limit and $((requests - limit))" \
			[ "$granted $refused" = "$limit $((requests - limit))" ]
	else
		judge 'too slow to tell' false
	fi
	printf '  %-13s %-6s %11s %9d %9d %9d %7s s  %s\n' "$api" "$scope" \
		"$limit in $period s" "$requests" "$granted" "$refused" "$took" "$VERDICT"
	# Whatever else the clients were told
	cat "$FILES"/err.* | sed -n 's/^psql:[^ ]* //; s/^\(ERROR\|FATAL\|PANIC\):/  \1:/p; /^psql: /p' |
		grep -v 'ERROR:  PT429: ' | sort | uniq -c | head -n 5 || :
}

# Who got the grants of the burst at hand, in order of the clients
shares() {
	local client
	for ((client = 1; client <= CLIENTS; client++)); do
		printf '%s ' "$(grep -c -E '^[0-9]+$' "$FILES/out.$client" || :)"
	done
}

title "$CLIENTS clients at once, asking for more than they may have"
printf '  %-13s %-6s %11s %9s %9s %9s %9s\n' \
	API scope limit requests granted refused took
burst user 42 data-sources 50 200 10
SHARES=$(shares)
burst user 42 communicate 5 20 30
burst user 42 audit-logs 8 30 10
burst user 42 ai 5 10 60
burst app 7 app-actions 15 60 60
exec 9>&-
printf '  (The %d clients got %sof the grants for data-sources.)\n' "$CLIENTS" "$SHARES"

# ---------------------------------------------------------------- one refusal

# Make one request as a new client; its answers go to files.
ask() {
	query -v VERBOSITY=verbose -c "SELECT fl_rate_check('user', '42', 'data-sources')" \
		>"$FILES/answer" 2>"$FILES/error" || :
}

was_granted() { grep -q -E '^[0-9]+$' "$FILES/answer"; }
was_refused() { grep -q '^ERROR:  PT429: ' "$FILES/error"; }

# Print a field of the error that the client received, which may be of
# several lines.
field() {
	awk -v name="$1" '
		/^[A-Z ]+:  / { inside = (index($0, name ":  ") == 1); sub(/^[A-Z ]+:  /, "") }
		inside { print }' "$FILES/error"
}

# Is text $1 the documented JSON, these three keys and no others?
is_documented() {
	[ "$(query -v body="$1" -v message="$MESSAGE" -v reference="$REFERENCE" <<-'SQL'
		SELECT :'body'::jsonb - 'nextValidRequestDate' =
			jsonb_build_object('message', :'message', 'referenceUrl', :'reference')
			AND :'body'::jsonb ->> 'nextValidRequestDate' ~
			'^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$';
	SQL
	)" = t ]
}

now() { date +%s.%N; }

title 'One refusal, as the client received it'
ask
if ! was_refused; then
	printf '%s\n' "${RED}The request was not refused:$PLAIN"
	cat "$FILES/answer" "$FILES/error"
	exit 1
fi
body=$(field DETAIL)
printf '  SQLSTATE PT429. %s Its DETAIL:\n%s\n' "$(field HINT)" "$body"
judge 'This is not the documented JSON.' is_documented "$body"
[ "$VERDICT" = "${GREEN}ok$PLAIN" ] || printf '%s\n' "$VERDICT"

# ---------------------------------------------------------------- its date

date=$(query -v body="$body" <<<"SELECT :'body'::jsonb ->> 'nextValidRequestDate';")
due=$(date -d "$date" +%s.%N)

title 'Is its date true?'
# Early by half a second, if there is so much time: refused still. (It costs
# nothing, so the date remains the same.)
if holds "$due - $(now) > 1"; then
	printf '  sleeping %s s ... ' "$(calc "$due - 0.5 - $(now)")"
	sleep "$(calc "$due - 0.5 - $(now)")"
	ask
	if holds "$(now) < $due"; then
		judge 'granted too early' was_refused
		printf 'half a second before the date: refused  %s\n' "$VERDICT"
	else
		printf '\n'
	fi
fi
if holds "$due > $(now)"; then
	printf '  sleeping %s s ... ' "$(calc "$due - $(now)")"
	# One millisecond more, for the rounding of what sleep is given
	sleep "$(calc "$due + 0.001 - $(now)")"
fi
ask
judge "not granted: $(cat "$FILES/error")" was_granted
printf 'at the date: granted  %s\n' "$VERDICT"

if [ -n "$WRONG" ]; then
	title "${RED}Something is not as documented, see above."
	exit 1
fi
title 'All as documented.'
