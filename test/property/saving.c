/*-------------------------------------------------------------------------
 *
 * saving.c
 *	  Traces through src/saved.c: a counter as bytes, and back.
 *
 * A limit lives as in the other traces.  Now and then it is written to bytes,
 * and these are read by another clock, as after a restart of the machine; what
 * was read has to answer as the limit itself does.  The limit goes on as if
 * nothing had happened.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "property.h"
#include "saved.h"

/* What can be saved: see there */
#define LATEST_TIME (PG_INT64_MAX / 4)

/* Behind the room for the bytes, to see who writes there */
#define GUARD_SIZE 16
#define GUARD 0x5A

#define OWNER 0xC3

/* ---------- what is saved beside the state ---------- */

/* As many small ones as large ones */
static uint64
any_number(void)
{
	return random_bits() >> below(64);
}

static int64
any_time(void)
{
	int64		time = (int64) (any_number() >> 3);

	return chance(50) ? -time : time;
}

static void
pick_saved(FlrSaved *saved, FlrAlgorithm algorithm)
{
	saved->algorithm = algorithm;
	saved->granted = any_number();
	saved->refused = any_number();
	saved->delayed = (uint32) any_number();
	saved->shadow_refused = (uint32) any_number();
	saved->last_request = any_time();
	saved->last_refused = chance(30) ? FLR_NEVER : any_time();
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

/* ---------- bytes ---------- */

/* A state as bytes, in memory of the size that was asked for and a guard */
static uint8 *
encode(const FlrSaved *saved, const FlrState *state, int64 offset,
	   size_t *size)
{
	size_t		room = flr_saved_room(state);
	uint8	   *bytes = malloc(room + GUARD_SIZE);
	bool		intact = true;

	if (bytes == NULL)
		abort();
	memset(bytes, GUARD, room + GUARD_SIZE);
	*size = flr_saved_encode(arena, saved, state, offset, bytes);
	for (int i = 0; i < GUARD_SIZE; i++)
		intact &= bytes[room + i] == GUARD;
	check(SAVED_BYTES, *size <= room && intact,
		  "%zu bytes, where there is room for %zu", *size, room);
	return bytes;
}

/*
 * Neither a beginning of the bytes nor more than the bytes is a counter, nor
 * one of another version.  The bytes are not what they were afterwards.
 */
static void
check_broken(uint8 *bytes, size_t size)
{
	/* 2^64 and the version */
	static const uint8 too_large[] = {
		0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02
	};
	FlrSaved	saved;

	for (size_t n = 0; n < size; n++)
		check(SAVED_BROKEN, !flr_saved_decode(bytes, n, &saved),
			  "the first %zu of %zu bytes are accepted", n, size);
	for (size_t n = 1; n <= GUARD_SIZE; n++)
	{
		bytes[size + n - 1] = (uint8) random_bits();
		check(SAVED_BROKEN, !flr_saved_decode(bytes, size + n, &saved),
			  "%zu bytes behind the %zu are accepted", n, size);
	}
	memmove(bytes + sizeof(too_large), bytes + 1, size - 1);
	memcpy(bytes, too_large, sizeof(too_large));
	check(SAVED_BROKEN,
		  !flr_saved_decode(bytes, size + sizeof(too_large) - 1, &saved),
		  "a number of more than 64 bits is accepted");
	bytes += sizeof(too_large) - 1;
	bytes[0] = (uint8) (2 + below(126));
	check(SAVED_BROKEN, !flr_saved_decode(bytes, size, &saved),
		  "version %u is accepted", bytes[0]);
}

/* ---------- what was loaded ---------- */

/* Is anything spent or reserved after now? */
static bool
reaches_beyond(const Limit *l, int64 now)
{
	const FlrState *s = &l->state;

	if (l->rule.algorithm == FLR_TOKEN_BUCKET)
		return s->base > now || s->runs.bucket.waits_until > now;
	return s->nruns > 0 && flr_record_last_time(arena, s) > now;
}

/* Are all times of a state those that can be saved? */
static bool
can_be_saved(const Limit *l, int64 offset)
{
	const FlrState *s = &l->state;
	int128		first = 0;
	int128		last = 0;

	if (l->rule.algorithm == FLR_TOKEN_BUCKET)
	{
		first = (int128) Min(s->base, s->runs.bucket.waits_until) + offset;
		last = (int128) Max(s->base, s->runs.bucket.waits_until) + offset;
	}
	else if (s->nruns > 0)
	{
		first = (int128) flr_record_first_time(arena, s) + offset;
		last = (int128) flr_record_last_time(arena, s) + offset;
	}
	return first >= -LATEST_TIME && last <= LATEST_TIME;
}

/*
 * The very runs, or the level, by another clock; in one run, and no later, what
 * comes after now
 */
static void
check_content(const Limit *l, const Limit *loaded, int64 now, int64 shift,
			  Promise promise)
{
	const FlrState *was = &l->state;
	const FlrState *is = &loaded->state;
	FlrCursor	from;
	FlrCursor	to;
	uint64		total = 0;

	if (l->rule.algorithm == FLR_TOKEN_BUCKET)
	{
		check(promise, is->total == was->total &&
			  is->runs.bucket.remainder == was->runs.bucket.remainder &&
			  is->runs.bucket.period == was->runs.bucket.period,
			  "the level is not what it was");
		check(promise, is->base == Min(was->base, now) + shift &&
			  is->runs.bucket.waits_until ==
			  Min(was->runs.bucket.waits_until, now) + shift,
			  "level at " INT64_FORMAT ", waits until " INT64_FORMAT, is->base,
			  is->runs.bucket.waits_until);
		return;
	}
	flr_record_start(&from, arena, was);
	flr_record_start(&to, arena, is);
	while (from.left > 0)
	{
		int64		time = Min(from.time, now);
		int128		cost = 0;

		for (; from.left > 0 && (time == now || from.time == time);
			 flr_record_next(&from))
			cost += from.cost;
		cost = Min(cost, PG_INT64_MAX);
		if (!check(promise, to.left > 0 && to.time == time + shift &&
				   to.cost == cost, "run (" INT64_FORMAT ", " INT64_FORMAT
				   "), should be (" INT64_FORMAT ", %s)", to.time, to.cost,
				   time + shift, text128(cost)))
			return;
		total += (uint64) to.cost;
		flr_record_next(&to);
	}
	check(promise, to.left == 0 && is->total == total,
		  "%u runs too many, or a wrong sum", to.left);
}

/* Is b what a is, by the other clock? */
static bool
same_shifted(int64 a, int64 b, int64 shift)
{
	return (int128) a + shift == b || (a == PG_INT64_MIN && b == a) ||
		(a >= FAR_AWAY && b >= FAR_AWAY / 2);
}

/* Everything that can be asked, of both */
static void
check_answers(const Limit *l, const Limit *loaded, int64 now, int64 shift)
{
	const FlrRule *r = &l->rule;
	int64		then = now + shift;
	int64		used = flr_used(arena, r, &l->state, now);
	int64		available = flr_available(arena, r, &l->state, now);
	int64		costs[] = {
		1, Max(available, 1), Min(available, PG_INT64_MAX - 1) + 1,
		Max(limit_capacity(l), 1), limit_pick_cost(l, now)
	};

	check(SAVED_EXACT,
		  flr_used(arena, &loaded->rule, &loaded->state, then) == used &&
		  flr_available(arena, &loaded->rule, &loaded->state, then) == available,
		  "used is not " INT64_FORMAT " any more, or available not "
		  INT64_FORMAT, used, available);
	check(SAVED_EXACT,
		  same_shifted(flr_reset_at(arena, r, &l->state, now),
					   flr_reset_at(arena, &loaded->rule, &loaded->state, then),
					   shift),
		  "reset_at is another");
	check(SAVED_EXACT,
		  same_shifted(flr_expiry(arena, r, &l->state),
					   flr_expiry(arena, &loaded->rule, &loaded->state),
					   shift),
		  "the expiry is another");
	for (int i = 0; i < (int) lengthof(costs); i++)
	{
		int64		from = pick_from(l, now);
		int64		slot = flr_slot(arena, r, &l->state, from, costs[i]);
		int64		found = flr_slot(arena, &loaded->rule, &loaded->state,
									 from + shift, costs[i]);

		check(SAVED_EXACT, same_shifted(slot, found, shift),
			  "slot for " INT64_FORMAT " from " INT64_FORMAT " is "
			  INT64_FORMAT ", was " INT64_FORMAT, costs[i], from, found, slot);
	}
}

/* The same, and requests that are granted or not, as time goes on */
static void
check_life(const Limit *l, const Limit *loaded, int64 now, int64 shift)
{
	Limit		was = *l;
	Limit		is = *loaded;

	if (is.rule.calendar)
		is.rule.calendar_arg = &is.calendar;
	state_clone(&was.state, &l->state);
	state_clone(&is.state, &loaded->state);
	check_answers(&was, &is, now, shift);
	for (int i = 0; i < 3 && !trace_failed; i++)
	{
		int64		cost = limit_pick_cost(l, now);
		int64		remaining = 0;
		int64		remains = 0;
		bool		taken;

		now = limit_pick_time(l, now);
		taken = flr_take(arena, &was.rule, &was.state, now, cost, &remaining);
		check(SAVED_EXACT,
			  flr_take(arena, &is.rule, &is.state, now + shift, cost,
					   &remains) == taken &&
			  (!taken || remains == remaining),
			  INT64_FORMAT " at " INT64_FORMAT " must be %s", cost, now,
			  taken ? "granted" : "refused");
		flr_advance(arena, &was.rule, &was.state, now);
		flr_advance(arena, &is.rule, &is.state, now + shift);
		check_answers(&was, &is, now, shift);
	}
	flr_record_clear(arena, &was.state);
	flr_record_clear(arena, &is.state);
}

/* What was after now is in use at now, beside what was in use anyway */
static void
check_reserved(const Limit *l, const Limit *loaded, int64 now, int64 shift)
{
	int64		used = flr_used(arena, &l->rule, &l->state, now);
	int64		uses = flr_used(arena, &loaded->rule, &loaded->state,
								now + shift);
	FlrCursor	cursor;
	int128		sum = 0;

	/* beyond 64 bits a sum is nothing that could be told */
	for (flr_record_start(&cursor, arena, &l->state); cursor.left > 0;
		 flr_record_next(&cursor))
		sum += cursor.cost;
	if (l->rule.algorithm == FLR_TOKEN_BUCKET || sum <= PG_UINT64_MAX)
		check(SAVED_RESERVED, uses >= used, "used " INT64_FORMAT ", was "
			  INT64_FORMAT, uses, used);
}

/* Load where there is no memory, or not much of it */
static void
check_no_memory(const uint8 *bytes, size_t size, int64 offset, int64 latest,
				int refusals, bool needs_memory)
{
	FlrState	state;
	FlrState	empty;
	int			taken = blocks.ntaken;
	bool		done;

	flr_state_init(&state);
	state.owner = OWNER;
	empty = state;
	blocks.refusals = refusals;
	done = flr_saved_load(arena, bytes, size, offset, latest, &state);
	blocks.refusals = 0;
	if (refusals == 100)
		check(SAVED_NO_MEMORY, done == !needs_memory, "%s",
			  done ? "loaded, with no memory" : "not loaded, without need");
	if (done)
		flr_record_clear(arena, &state);
	check(SAVED_NO_MEMORY, memcmp(&state, &empty, sizeof(FlrState)) == 0,
		  "not loaded, but the state is not empty");
	check(SAVED_NO_MEMORY, blocks.ntaken == taken, "%d blocks are lost",
		  blocks.ntaken - taken);
}

/* ---------- a restart ---------- */

/* Write the limit to bytes, and read them when another clock shows "then" */
static void
save_and_load(const Limit *l, int64 now)
{
	int64		wall = chance(50) ? pick_start() :
	INT64CONST(800000000000000) + below(1000000);
	int64		then = chance(60) ? below(2000000) : pick_start();
	int64		shift = then - now;
	int64		offset = wall - then;
	bool		beyond = reaches_beyond(l, now);
	bool		bucket = l->rule.algorithm == FLR_TOKEN_BUCKET;
	Promise		promise = beyond ? SAVED_RESERVED : SAVED_EXACT;
	Limit		loaded = *l;
	FlrSaved	saved;
	FlrSaved	read;
	uint8	   *bytes;
	uint8	   *again;
	size_t		size;
	size_t		size_again;
	int			taken;

	if (!can_be_saved(l, wall - now))
		return;
	SAY("save, " INT64_FORMAT " behind the wall clock; load, " INT64_FORMAT
		" behind, at " INT64_FORMAT, wall - now, offset, then);
	pick_saved(&saved, l->rule.algorithm);
	bytes = encode(&saved, &l->state, wall - now, &size);
	memset(&read, 0x5A, sizeof(read));
	check(SAVED_NUMBERS, flr_saved_decode(bytes, size, &read) &&
		  same_saved(&read, &saved), "not read, or other than written");

	/* a fixed window's edges are where they were by the wall clock */
	loaded.rule.anchor += shift;
	loaded.calendar.origin += shift;
	if (loaded.rule.calendar)
		loaded.rule.calendar_arg = &loaded.calendar;
	flr_state_init(&loaded.state);
	loaded.state.owner = OWNER;
	taken = blocks.ntaken;
	check(promise, flr_saved_load(arena, bytes, size, offset, then,
								  &loaded.state) &&
		  loaded.state.owner == OWNER, "not loaded, although there are blocks");
	taken = blocks.ntaken - taken;
	if (!trace_failed)
	{
		check_content(l, &loaded, now, shift, promise);
		if (beyond)
			check_reserved(l, &loaded, now, shift);
		if (!beyond || (bucket && l->state.base <= now))
			check_life(l, &loaded, now, shift);
		again = encode(&saved, &loaded.state, offset, &size_again);
		if (!beyond)
			check(SAVED_BYTES, size_again == size &&
				  memcmp(bytes, again, size) == 0, "%zu other bytes, were %zu",
				  size_again, size);
		free(again);
		check_no_memory(bytes, size, offset, then, 100, taken > 0);
		check_no_memory(bytes, size, offset, then, 30, taken > 0);
		check_broken(bytes, size);
	}
	free(bytes);
	flr_record_clear(arena, &loaded.state);
}

void
saved_trace(void)
{
	Limit		l;
	FlrRule    *r = &l.rule;
	Waiting		waiting = {0};
	int64		now = pick_start();
	int64		steps = 3 + below(chance(80) ? 30 : 200);
	bool		bulky = chance(30);
	int			changes = chance(30) ? 5 : 0;

	limit_init(&l, (FlrAlgorithm) below(3));
	if (bulky)
	{
		r->max_requests = r->burst = INT64CONST(1) << 40;
		if (chance(80) && r->period < 1000)
			flr_rule_set_period(r, 1000 + below(INT64CONST(1) << 34));
		limit_say(&l);
	}
	for (int64 i = 0; i < steps && !trace_failed; i++)
	{
		int64		cost;
		int64		slot;
		int			op = (int) below(100);

		steps_done++;
		if (bulky && chance(80))
			now += 1 + below(r->period / 64);	/* let many runs gather */
		else
			now = limit_pick_time(&l, now);
		SAY("now " INT64_FORMAT, now);
		limit_advance(&l, now);
		forget_served(&waiting, now);

		/* around what a narrow run can hold */
		cost = bulky && chance(2) ?
			(INT64CONST(1) << (31 + below(3))) - below(3) :
			limit_pick_cost(&l, now);
		if (op < 50)
			limit_take(&l, now, bulky ? Min(cost, INT64CONST(1) << 33) : cost);
		else if (op < 70)
		{
			slot = flr_slot(arena, r, &l.state, pick_from(&l, now), cost);
			if (slot != FLR_NEVER && waiting.n < MAX_WAITING &&
				!limit_beyond(&l, now, slot))
				limit_spend(&l, now, slot, cost, false,
							&waiting.list[waiting.n++]);
		}
		else if (op < 76)
			cancel_any(&l, &waiting, now);
		else if (op < 82)
			limit_refund(&l, now, cost);
		else if (op < 84)
		{
			limit_age(&l, limit_pick_time(&l, now) - now);
			waiting.n = 0;
			limit_advance(&l, now);
		}
		else if (op < 84 + changes)
		{
			limit_change(&l, now);
			forget_served(&waiting, now);
		}
		if (chance(20) && !trace_failed)
			save_and_load(&l, now);
	}
	if (!trace_failed)
		save_and_load(&l, now);
	limit_end(&l, HERE(&l, HISTORY));
	limit_free(&l);
}
