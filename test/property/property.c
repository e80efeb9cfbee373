/*-------------------------------------------------------------------------
 *
 * property.c
 *	  Run random traces and report on each promise in TAP.
 *
 * property [-s seed] [-n traces]			all groups
 * property [-s seed] -g group -t number	one trace, operation by operation
 *
 * FLR_SEED and FLR_TRACES in the environment stand for -s and -n.  Of all
 * traces that break a promise the shortest is printed.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <signal.h>
#include <unistd.h>

#include "property.h"

#define DEFAULT_SEED 20260101
#define DEFAULT_TRACES 500000

/* A trace takes milliseconds; this is for an endless loop. */
#define TRACE_TIMEOUT 20

static const char *const promises[NUM_PROMISES] = {
	[OF(FLR_SLIDING_WINDOW, GRANTS)] = "sliding window: granted if and only if every window the request would be in has room for it",
	[OF(FLR_SLIDING_WINDOW, SLOT)] = "sliding window: the slot is the first instant that grants, to the microsecond",
	[OF(FLR_SLIDING_WINDOW, AVAILABLE)] = "sliding window: what is available is the largest cost that is granted",
	[OF(FLR_SLIDING_WINDOW, RESET_AT)] = "sliding window: reset_at is the first instant at which more is available",
	[OF(FLR_SLIDING_WINDOW, EXPIRY)] = "sliding window: nothing is in use from the expiry on",
	[OF(FLR_SLIDING_WINDOW, RECORD)] = "sliding window: the record is what was spent and is reserved, in order",
	[OF(FLR_SLIDING_WINDOW, TAKE)] = "sliding window: a request in one step is decided and recorded like one in several",
	[OF(FLR_SLIDING_WINDOW, HISTORY)] = "sliding window: a whole trace has no interval of one period with more than max_requests",
	[OF(FLR_SLIDING_WINDOW, REFUND)] = "sliding window: a refund gives back the oldest spending of the window, at most what is there",
	[OF(FLR_SLIDING_WINDOW, CANCEL)] = "sliding window: a cancelled reservation leaves nothing behind",

	[OF(FLR_TOKEN_BUCKET, GRANTS)] = "token bucket: granted if and only if the level leaves room for it",
	[OF(FLR_TOKEN_BUCKET, SLOT)] = "token bucket: the slot is the first instant that grants, to the microsecond",
	[OF(FLR_TOKEN_BUCKET, AVAILABLE)] = "token bucket: what is available is the largest cost that is granted",
	[OF(FLR_TOKEN_BUCKET, RESET_AT)] = "token bucket: reset_at is the first instant at which more is available",
	[OF(FLR_TOKEN_BUCKET, EXPIRY)] = "token bucket: nothing is missing from the expiry on",
	[OF(FLR_TOKEN_BUCKET, RECORD)] = "token bucket: the level is exact and never drifts",
	[OF(FLR_TOKEN_BUCKET, TAKE)] = "token bucket: a request in one step is decided and recorded like one in several",
	[OF(FLR_TOKEN_BUCKET, HISTORY)] = "token bucket: served at the granted times, an ideal bucket never exceeds the burst",
	[OF(FLR_TOKEN_BUCKET, REFUND)] = "token bucket: a refund gives back at most what is missing",
	[OF(FLR_TOKEN_BUCKET, CANCEL)] = "token bucket: a cancelled reservation leaves nothing behind",

	[OF(FLR_FIXED_WINDOW, GRANTS)] = "fixed window: granted if and only if its window has room for it",
	[OF(FLR_FIXED_WINDOW, SLOT)] = "fixed window: the slot is the first instant that grants, to the microsecond",
	[OF(FLR_FIXED_WINDOW, AVAILABLE)] = "fixed window: what is available is the largest cost that is granted",
	[OF(FLR_FIXED_WINDOW, RESET_AT)] = "fixed window: reset_at is the first instant at which more is available",
	[OF(FLR_FIXED_WINDOW, EXPIRY)] = "fixed window: nothing is in use from the expiry on",
	[OF(FLR_FIXED_WINDOW, RECORD)] = "fixed window: the record is what was spent and is reserved, window by window",
	[OF(FLR_FIXED_WINDOW, TAKE)] = "fixed window: a request in one step is decided and recorded like one in several",
	[OF(FLR_FIXED_WINDOW, HISTORY)] = "fixed window: a whole trace has no window with more than max_requests",
	[OF(FLR_FIXED_WINDOW, REFUND)] = "fixed window: a refund gives back spending of this window, at most what is there",
	[OF(FLR_FIXED_WINDOW, CANCEL)] = "fixed window: a cancelled reservation leaves nothing behind",

	[BUCKET_GIVEBACK] = "token bucket: refunds and cancellations among reservations never make it exceed the burst",
	[COMMON_GRANTS] = "several limits: granted if and only if all of them grant",
	[COMMON_SLOT] = "several limits: the slot is the first instant that all of them grant, to the microsecond",
	[COMMON_HISTORY] = "several limits: no window of a whole trace has more than max_requests",
	[COMMON_BUCKET] = "several limits: a bucket that waits for a slower limit never exceeds the burst",
	[LARGE_EXACT] = "large record: exact up to 4096 runs",
	[LARGE_NEVER_MORE] = "large record: never more than max_requests",
	[LARGE_RESERVED] = "large record: never more than max_requests, reservations included",
	[LARGE_LATENESS] = "large record: late by at most 1/4096 of the period",
	[LARGE_MEMORY] = "large record: the number of runs is bounded",
	[SHARED_NEVER_EARLY] = "large record, rules of several periods: nothing leaves early",
	[SHARED_LATENESS] = "large record, rules of several periods: for each, late by less than 1/4096 of its period",
	[SHARED_EXACT] = "large record, rules of several periods: exact up to 4096 runs",
	[SHARED_MEMORY] = "large record, rules of several periods: the number of runs is bounded",
	[FULL_UNCHANGED] = "no memory: where no room is found, the record is as it was",
	[FULL_ROOM] = "no memory: where room was found, the spending is recorded exactly",
	[FULL_NEVER_MORE] = "no memory: merged spending never grants more than max_requests",
	[FULL_RESERVED] = "no memory: merged spending never grants more than max_requests, reservations included",
	[FULL_MERGE] = "no memory: spending fails only where no run can take it, and then changes nothing",
	[SAVED_EXACT] = "saved: loaded by another clock, a counter has the very runs and answers as before",
	[SAVED_RESERVED] = "saved: reservations count as spent when they are loaded, and no less is in use than before",
	[SAVED_NUMBERS] = "saved: what else is kept of a counter is read as it was written",
	[SAVED_BYTES] = "saved: the bytes fit into the room for them, and are the same when saved again",
	[SAVED_BROKEN] = "saved: bytes of which some are missing, with more behind them, or of another version are refused",
	[SAVED_NO_MEMORY] = "saved: without memory nothing is loaded, and no block is lost",
	[BLOCKS_BALANCED] = "blocks: each one taken is given back, once",
	[BLOCKS_UNTOUCHED] = "blocks: none is written after it was given back",
	[HASH_SPREAD] = "hash: keys of an adversary's choice spread over stripes, pages and tags as if by lot",
	[HASH_SECRET] = "hash: under another secret the same keys fall elsewhere",
};

typedef struct Result
{
	int64		checks;
	int64		failures;
	int			group;			/* the shortest trace that failed */
	int64		number;
	int64		steps;
} Result;

static Result results[NUM_PROMISES];
static uint64 run_seed = DEFAULT_SEED;
static int	current_group;
static int64 current_number;
static int64 trace_start;

bool		verbose = false;
bool		trace_failed = false;
int64		steps_done = 0;

/* ---------- checks ---------- */

void
say(const char *format,...)
{
	va_list		args;

	printf("#   ");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
}

/* An int128 in decimal, in one of a few static buffers */
const char *
text128(int128 value)
{
	static char buffers[8][48];
	static int	next = 0;
	char	   *p = buffers[next++ % 8] + 47;
	bool		minus = value < 0;

	*p = '\0';
	do
	{
		int			digit = (int) (value % 10);

		*--p = (char) ('0' + (digit < 0 ? -digit : digit));
		value /= 10;
	} while (value != 0);
	if (minus)
		*--p = '-';
	return p;
}

/* Count a check of a promise; keep the shortest trace that breaks it */
bool
check(int promise, bool holds, const char *format,...)
{
	Result	   *r = &results[promise];

	r->checks++;
	if (holds)
		return true;
	if (verbose)
	{
		va_list		args;

		printf("#   BROKEN \"%s\": ", promises[promise]);
		va_start(args, format);
		vprintf(format, args);
		va_end(args);
		printf("\n");
	}
	if (r->failures++ == 0 || steps_done - trace_start < r->steps)
	{
		r->group = current_group;
		r->number = current_number;
		r->steps = steps_done - trace_start;
	}
	trace_failed = true;
	return false;
}

/* ---------- traces ---------- */

static void
run_trace(int group, int64 number)
{
	current_group = group;
	current_number = number;
	random_start(run_seed + ((uint64) group << 56) +
				 (uint64) number * UINT64CONST(0xD1342543DE82EF95));
	blocks.random = random_bits();
	blocks.refusals = 0;
	trace_failed = false;
	trace_start = steps_done;

	alarm(TRACE_TIMEOUT);
	groups[group].trace();
	alarm(0);

	if (!trace_failed)
		check(BLOCKS_BALANCED, blocks.ntaken == 0,
			  "%d blocks were not given back", blocks.ntaken);
	else if (blocks.ntaken != 0)
	{
		/* the wreck of a failed trace must not spoil the next one */
		arena_free();
		arena_init();
	}
}

/*
 * Say which trace it was when an assertion fails, when nothing ever ends, or
 * when it crashes (the sanitizers have more to say about that)
 */
static void
on_signal(int signo)
{
	printf("# signal %d in: -s " UINT64_FORMAT " -g %d -t " INT64_FORMAT "\n",
		   signo, run_seed, current_group, current_number);
	printf("Bail out!\n");
	fflush(stdout);
	_exit(1);
}

/* Print the operations of the shortest trace that broke a promise */
static void
show(const Result *result)
{
	Result		saved[NUM_PROMISES];
	Result		r = *result;
	int64		steps = steps_done;

	printf("# shortest trace: property -s " UINT64_FORMAT " -g %d -t "
		   INT64_FORMAT " (%s)\n",
		   run_seed, r.group, r.number, groups[r.group].name);
	memcpy(saved, results, sizeof(results));
	verbose = true;
	run_trace(r.group, r.number);
	verbose = false;
	memcpy(results, saved, sizeof(results));
	steps_done = steps;
}

static int
report(int only_group)
{
	int			broken = 0;

	printf("1..%d\n", NUM_PROMISES);
	for (int i = 0; i < NUM_PROMISES; i++)
	{
		bool		ok = results[i].failures == 0 && results[i].checks > 0;

		if (results[i].checks == 0 && only_group >= 0)
		{
			printf("ok %d - %s # SKIP not in this group\n", i + 1, promises[i]);
			continue;
		}
		printf("%sok %d - %s\n", ok ? "" : "not ", i + 1, promises[i]);
		printf("# " INT64_FORMAT " checks\n", results[i].checks);
		if (!ok)
		{
			broken++;
			printf("# " INT64_FORMAT " failures\n", results[i].failures);
			if (results[i].failures > 0)
				show(&results[i]);
		}
	}
	return broken;
}

static int64
number_from(const char *text)
{
	char	   *end;
	int64		value = strtoll(text, &end, 10);

	if (*text == '\0' || *end != '\0')
	{
		fprintf(stderr, "\"%s\" is not a number\n", text);
		exit(2);
	}
	return value;
}

int
main(int argc, char **argv)
{
	int64		traces = DEFAULT_TRACES;
	int64		done = 0;
	int			only_group = -1;
	int64		only_trace = -1;
	int			broken;
	int			c;

	if (getenv("FLR_SEED"))
		run_seed = (uint64) number_from(getenv("FLR_SEED"));
	if (getenv("FLR_TRACES"))
		traces = number_from(getenv("FLR_TRACES"));
	while ((c = getopt(argc, argv, "s:n:g:t:")) != -1)
		switch (c)
		{
			case 's':
				run_seed = (uint64) number_from(optarg);
				break;
			case 'n':
				traces = number_from(optarg);
				break;
			case 'g':
				only_group = (int) number_from(optarg);
				break;
			case 't':
				only_trace = number_from(optarg);
				break;
			default:
				fprintf(stderr,
						"usage: %s [-s seed] [-n traces] [-g group [-t number]]\n",
						argv[0]);
				return 2;
		}
	if (only_group >= ngroups || (only_trace >= 0 && only_group < 0))
	{
		fprintf(stderr, "groups are 0 to %d\n", ngroups - 1);
		return 2;
	}

	signal(SIGABRT, on_signal);
	signal(SIGALRM, on_signal);
#ifndef WATCHED
	signal(SIGSEGV, on_signal);
	signal(SIGBUS, on_signal);
#endif
	arena_init();
	if (only_trace >= 0)
	{
		verbose = true;
		run_trace(only_group, only_trace);
		printf("# %s\n", trace_failed ? "failed" : "passed");
		return trace_failed ? 1 : 0;
	}

	for (int g = 0; g < ngroups; g++)
	{
		int64		n = Max(traces * groups[g].share / 10000, 1);
		int64		before = steps_done;

		if (only_group >= 0 && g != only_group)
			continue;
		for (int64 i = 0; i < n; i++)
			run_trace(g, i);
		done += n;
		printf("# group %d, %s: " INT64_FORMAT " traces, " INT64_FORMAT
			   " steps\n", g, groups[g].name, n, steps_done - before);
		fflush(stdout);
	}
	printf("# seed " UINT64_FORMAT ": " INT64_FORMAT " traces, " INT64_FORMAT
		   " steps\n", run_seed, done, steps_done);
	broken = report(only_group);
	arena_free();
	return broken == 0 ? 0 : 1;
}
