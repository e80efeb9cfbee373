/*-------------------------------------------------------------------------
 *
 * fuzz_saved.c
 *	  Bytes that claim to be a saved counter, through src/saved.c.
 *
 * The bytes lie in memory of exactly their size.  Most are refused.  What is
 * accepted has to load into a state that src/algorithm.c can live with, and
 * that is saved and loaded again without becoming another; whatever the
 * numbers are, nothing overflows.
 *
 * The input: three bytes that choose the rule and the clocks, then the bytes
 * of the counter.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "fuzz.h"
#include "property.h"
#include "saved.h"

#define PICK(list, number) ((list)[(number) % lengthof(list)])

#define OWNER 0xC3

/* About 30 years, and half of what a saved time can be */
#define FAR_CLOCK INT64CONST(1000000000000000)
#define LATEST (PG_INT64_MAX / 8)

static const int64 limits[] = {
	0, 1, 5, 100, INT64CONST(1) << 32, INT64CONST(1) << 62, PG_INT64_MAX
};

static const int64 periods[] = {
	1, 7, 1000000, INT64CONST(3600000000), INT64CONST(86400000000),
	FLR_MAX_PERIOD
};

static const int64 clocks[] = {
	0, 1, 2000000, -2000000, FAR_CLOCK, -FAR_CLOCK, LATEST, -LATEST
};

/* For arena.c as well */
bool
check(int promise, bool holds, const char *format,...)
{
	va_list		args;

	if (holds)
		return true;
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	abort();
}

#define REQUIRE(condition) \
	check(0, condition, "%s:%d: not so: %s", __FILE__, __LINE__, #condition)

static uint8 *
allocate(size_t size)
{
	uint8	   *bytes = malloc(size);

	if (bytes == NULL)
		abort();
	return bytes;
}

static bool
same_saved(const FlrSaved *a, const FlrSaved *b)
{
	return a->algorithm == b->algorithm && a->granted == b->granted &&
		a->refused == b->refused && a->delayed == b->delayed &&
		a->shadow_refused == b->shadow_refused &&
		a->last_request == b->last_request &&
		a->last_refused == b->last_refused;
}

/* A state that nobody could tell from one that has always been here */
static void
check_state(const FlrSaved *saved, const FlrState *state, int64 latest)
{
	FlrCursor	cursor;
	uint64		total = 0;
	int64		before = PG_INT64_MIN;

	REQUIRE(state->owner == OWNER);
	if (saved->algorithm == FLR_TOKEN_BUCKET)
	{
		int64		remainder = state->runs.bucket.remainder;
		int64		period = state->runs.bucket.period;

		REQUIRE(state->nruns == 0 && state->flags == 0);
		REQUIRE(state->total <= PG_INT64_MAX);
		REQUIRE(period >= 0 && period <= FLR_MAX_PERIOD);
		REQUIRE(remainder >= 0 && (remainder == 0 || remainder < period));
		REQUIRE(state->base <= latest &&
				state->runs.bucket.waits_until <= latest);
		return;
	}
	for (flr_record_start(&cursor, arena, state); cursor.left > 0;
		 flr_record_next(&cursor))
	{
		REQUIRE(cursor.time > before && cursor.time <= latest);
		REQUIRE(cursor.cost > 0);
		before = cursor.time;
		total += (uint64) cursor.cost;
	}
	REQUIRE(state->total == total);
}

/* Are two states of this algorithm the same? */
static bool
same_state(FlrAlgorithm algorithm, const FlrState *a, const FlrState *b)
{
	FlrCursor	x;
	FlrCursor	y;

	if (a->total != b->total || a->nruns != b->nruns)
		return false;
	if (algorithm == FLR_TOKEN_BUCKET)
		return a->base == b->base &&
			memcmp(&a->runs.bucket, &b->runs.bucket, sizeof(a->runs.bucket)) == 0;
	flr_record_start(&x, arena, a);
	flr_record_start(&y, arena, b);
	for (; x.left > 0; flr_record_next(&x), flr_record_next(&y))
		if (x.time != y.time || x.cost != y.cost)
			return false;
	return true;
}

/* Saved and loaded again, it is what it was */
static void
check_again(const FlrSaved *saved, const FlrState *state, int64 offset,
			int64 latest)
{
	size_t		room = flr_saved_room(state);
	uint8	   *bytes = allocate(room);
	size_t		size = flr_saved_encode(arena, saved, state, offset, bytes);
	FlrSaved	read;
	FlrState	copy;

	REQUIRE(size <= room);
	REQUIRE(flr_saved_decode(bytes, size, &read));
	REQUIRE(same_saved(&read, saved));
	REQUIRE(!flr_saved_decode(bytes, size - 1, &read));
	if (size < room)
	{
		bytes[size] = 0;
		REQUIRE(!flr_saved_decode(bytes, size + 1, &read));
	}
	flr_state_init(&copy);
	REQUIRE(flr_saved_load(arena, bytes, size, offset, latest, &copy));
	REQUIRE(same_state(saved->algorithm, state, &copy));
	flr_record_clear(arena, &copy);
	free(bytes);
}

/* Everything that is asked of a state, and what passes with time */
static void
check_life(const FlrRule *rule, FlrState *state, int64 now)
{
	const int64 times[] = {now, now + 1, now + rule->period, now + FLR_MAX_PERIOD};
	int64		capacity = flr_capacity(rule);
	int64		remaining;

	for (int i = 0; i < (int) lengthof(times); i++)
	{
		int64		t = times[i];
		int64		used;
		int64		available;

		flr_advance(arena, rule, state, t);
		used = flr_used(arena, rule, state, t);
		available = flr_available(arena, rule, state, t);
		REQUIRE(used >= 0 && available >= 0 && available <= capacity);
		REQUIRE(flr_slot(arena, rule, state, t, 1) >= t);
		REQUIRE(capacity == 0 ||
				flr_slot(arena, rule, state, t, capacity) >= t);
		if (available > 0)
			REQUIRE(flr_slot(arena, rule, state, t, available) == t);
		REQUIRE(flr_reset_at(arena, rule, state, t) >= t);
		if (flr_expiry(arena, rule, state) <= t)
			REQUIRE(used == 0);
		if (flr_take(arena, rule, state, t, 1, &remaining))
			REQUIRE(available > 0);
	}
	(void) flr_refund(arena, rule, state, times[lengthof(times) - 1],
					  PG_INT64_MAX);
}

static void
run(const uint8_t *choices, const uint8 *bytes, size_t size)
{
	FlrRule		rule = {0};
	FlrSaved	saved;
	FlrState	state;
	FlrState	scarce;
	bool		loaded;
	int64		offset = PICK(clocks, choices[2]);
	int64		latest = PICK(clocks, choices[2] >> 4);

	if (!flr_saved_decode(bytes, size, &saved))
		return;
	rule.algorithm = saved.algorithm;
	rule.max_requests = PICK(limits, choices[0]);
	rule.burst = PICK(limits, choices[0] >> 4);
	flr_rule_set_period(&rule, PICK(periods, choices[1]));
	if (choices[1] >= 128)
		rule.retention += PICK(periods, choices[1] >> 4);

	/* where there is not much memory, all of it or nothing */
	flr_state_init(&state);
	state.owner = OWNER;
	scarce = state;
	blocks.refusals = choices[1];
	loaded = flr_saved_load(arena, bytes, size, offset, latest, &scarce);
	blocks.refusals = 0;
	if (!loaded)
		REQUIRE(memcmp(&scarce, &state, sizeof(FlrState)) == 0 &&
				blocks.ntaken == 0);
	REQUIRE(flr_saved_load(arena, bytes, size, offset, latest, &state));
	REQUIRE(!loaded || same_state(saved.algorithm, &state, &scarce));
	flr_record_clear(arena, &scarce);
	check_state(&saved, &state, latest);
	check_again(&saved, &state, offset, latest);
	check_life(&rule, &state, latest);
	flr_record_clear(arena, &state);
	REQUIRE(blocks.ntaken == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8	   *bytes;

	if (size <= 3)
		return 0;
	bytes = allocate(size - 3);
	memcpy(bytes, data + 3, size - 3);
	arena_init();
	run(data, bytes, size - 3);
	arena_free();
	free(bytes);
	return 0;
}
