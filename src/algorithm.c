/*-------------------------------------------------------------------------
 *
 * algorithm.c
 *	  The three rate-limiting algorithms, as functions of integers.
 *
 * Sliding window ("sliding window log").  S(u) is the cost recorded in
 * (u - period, u].  A request of cost c is granted at t iff S(u) + c <=
 * max_requests for every u in [t, t + period); only reservations can make
 * that more than a statement about t itself.  Up to FLR_EXACT_RUNS runs are
 * exact; beyond, a run swallows what is spent within the same step of
 * period / FLR_EXACT_RUNS and moves to the later time, which is now, so that
 * spending leaves the window late by less than one step and never early.
 * Where rules of different periods share a record, steps suit the shortest at
 * first, and wider ones as runs grow older than what shorter rules look back at:
 * now and then such runs are joined.
 * Reservations neither swallow nor are swallowed: moving what has been spent
 * to a time that is still to come would hide it until then.
 *
 * Token bucket.  The Generic Cell Rate Algorithm of ITU-T I.371 in the form of
 * a leaky bucket as a meter: a level that drains by max_requests units a
 * microsecond, one token being period units.  A request is granted iff the
 * level leaves room for it below burst tokens.  A reservation raises the
 * level above the brim at once, which is what makes later requests queue
 * behind it; while one is pending, nothing is refunded.  Where the slot lies beyond the bucket's own (another limit was
 * slower), the level also keeps what would have drained away unused until
 * then, so that it is right, and not too low, from the slot on.
 *
 * Fixed window.  A count per window of the calendar, kept as runs at the
 * starts of windows.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "port/pg_bitutils.h"

#include "algorithm.h"

/* So many runs come before others are joined again. */
#define THINNING_RUNS	(FLR_EXACT_RUNS / 8)

/* Up to here narrow runs reach, with some room for reservations. */
#define NARROW_PERIOD	(INT64CONST(3600) * 1000000)

/* a + b, or FLR_NEVER when that is out of range */
static inline int64
later(int64 a, int128 b)
{
	return b >= (int128) FLR_NEVER - a ? FLR_NEVER : (int64) (a + b);
}

/* A sum of costs, cut to what a cost can be. */
static inline int64
to_cost(uint64 sum)
{
	return sum > (uint64) PG_INT64_MAX ? PG_INT64_MAX : (int64) sum;
}

/* ------------------------------------------------------------------------
 * Sliding window
 * ------------------------------------------------------------------------
 */

/*
 * A walk through the instants at which S(u) changes: runs enter at their own
 * time and leave a period later.
 */
typedef struct Sweep
{
	FlrCursor	enter;			/* first run that has not entered yet */
	FlrCursor	leave;			/* first run that has not left yet */
	uint64		sum;			/* S(u), modulo 2^64 */
	int64		period;
} Sweep;

/* Make a sweep stand at u; it never moves back. */
static inline void
sweep_to(Sweep *sweep, int64 u)
{
	while (sweep->enter.left > 0 && sweep->enter.time <= u)
	{
		sweep->sum += (uint64) sweep->enter.cost;
		flr_record_next(&sweep->enter);
	}
	while (sweep->leave.left > sweep->enter.left &&
		   sweep->leave.time <= u - sweep->period)
	{
		sweep->sum -= (uint64) sweep->leave.cost;
		flr_record_next(&sweep->leave);
	}
}

/* Start a sweep at u. */
static inline void
sweep_start(Sweep *sweep, FlrArena *arena, const FlrState *state,
			int64 period, int64 u)
{
	flr_record_start(&sweep->enter, arena, state);
	sweep->leave = sweep->enter;
	sweep->sum = 0;
	sweep->period = period;
	sweep_to(sweep, u);
}

/* The next instant at which a run leaves; there must be one inside. */
static inline int64
sweep_next_leave(const Sweep *sweep)
{
	return later(sweep->leave.time, sweep->period);
}

/* The largest S(u) for u in [from, from + period). */
static int64
sliding_peak(FlrArena *arena, const FlrRule *rule, const FlrState *state,
			 int64 from)
{
	Sweep		sweep;
	uint64		peak;

	if (state->nruns == 0)
		return 0;
	if (flr_record_last_time(arena, state) <= from)
	{
		/* no reservations: the sum can only fall from here on */
		FlrCursor	cursor;

		return to_cost(state->total -
					   flr_record_seek(&cursor, arena, state,
									   from - rule->period));
	}

	sweep_start(&sweep, arena, state, rule->period, from);
	peak = sweep.sum;
	while (sweep.enter.left > 0 && sweep.enter.time < from + rule->period)
	{
		sweep_to(&sweep, sweep.enter.time);
		peak = Max(peak, sweep.sum);
	}
	return to_cost(peak);
}

/*
 * The first t >= from such that S(u) <= ceiling for every u in
 * [t, t + period); ceiling >= 0.
 */
static int64
sliding_first(FlrArena *arena, const FlrRule *rule, const FlrState *state,
			  int64 from, int64 ceiling)
{
	Sweep		sweep;
	int64		t = from;

	if (state->nruns == 0)
		return from;
	if (flr_record_last_time(arena, state) <= from)
	{
		/* no reservations: wait until enough of the oldest has left */
		FlrCursor	cursor;
		uint64		sum = state->total -
		flr_record_seek(&cursor, arena, state, from - rule->period);

		for (; cursor.left > 0 && sum > (uint64) ceiling;
			 flr_record_next(&cursor))
		{
			t = Max(from, later(cursor.time, rule->period));
			sum -= (uint64) cursor.cost;
		}
		return t;
	}

	sweep_start(&sweep, arena, state, rule->period, from);
	for (;;)
	{
		/* out of a stretch that is too full, by what leaves next */
		while (sweep.sum > (uint64) ceiling)
		{
			t = sweep_next_leave(&sweep);
			sweep_to(&sweep, t);
		}
		/* good from t on: until when? */
		if (sweep.enter.left == 0 || sweep.enter.time >= t + rule->period)
			return t;
		sweep_to(&sweep, sweep.enter.time);
	}
}

/*
 * The width of the steps in which rules that share a record have what is looked
 * back at for so long; 0: none, it is exact.
 */
static inline int64
common_step(int64 period)
{
	int64		step = period / FLR_EXACT_RUNS;

	return step > 0 ? INT64CONST(1) << pg_leftmost_one_pos64(step) : 0;
}

/* The width of the steps in which a rule spends. */
static inline int64
spending_step(const FlrRule *rule)
{
	return rule->shortest == rule->retention ? rule->period / FLR_EXACT_RUNS :
		common_step(rule->shortest);
}

/* By which rules runs may be joined, and when. */
typedef struct Thinning
{
	const FlrRule *rule;
	int64		now;
} Thinning;

/*
 * flr_record_join() callback.  No rule sees the difference but those that look back
 * further than last, and to each of them it is less than one step.  Steps are
 * powers of two, so that those of different widths have edges in common: joined
 * again and again as it grows older, a run never leaves the widest of them.  (By
 * another clock, as after a restart, they have others, and it may be a step more.)
 */
static bool
may_join(const void *arg, int64 first, int64 last)
{
	const Thinning *thinning = arg;
	const FlrRule *rule = thinning->rule;
	int64		age = thinning->now - last;
	int64		step;

	if (age < rule->shortest)
		return false;
	step = common_step(age > rule->second ? rule->retention : age);
	return step > 0 && flr_floor_to(first, step) == flr_floor_to(last, step);
}

/*
 * Have the record of rules of different periods not grow beyond what they need: one
 * run a step, for each of the widths of steps there are.  Looks at all of it, and
 * so does nothing unless some have come since it last did.
 */
static void
thin_out(FlrArena *arena, const FlrRule *rule, FlrState *state, int64 now)
{
	Thinning	thinning = {rule, now};

	if (rule->shortest == rule->retention || rule->tentative ||
		state->nruns < FLR_EXACT_RUNS + THINNING_RUNS ||
		flr_record_grown(arena, state) < THINNING_RUNS)
		return;
	flr_record_join(arena, state, may_join, &thinning);
}

/* ------------------------------------------------------------------------
 * Token bucket
 * ------------------------------------------------------------------------
 */

/* The level in units at the time it was last brought up to date. */
static inline int128
bucket_level(const FlrState *state, int64 period)
{
	int64		remainder = state->runs.bucket.remainder;

	if (remainder > 0 && state->runs.bucket.period != period)
	{
		int128		scaled = (int128) remainder * period;
		int64		old = state->runs.bucket.period;

		remainder = (int64) ((scaled + old - 1) / old);
	}
	return (int128) (int64) state->total * period + remainder;
}

/* The level at t, not before the state's own time. */
static inline int128
bucket_level_at(const FlrRule *rule, const FlrState *state, int64 t)
{
	int128		level = bucket_level(state, rule->period);

	/* the distance may be more than 2^63, the product is less than 2^127 */
	if (level > 0 && t > state->base)
		level -= (int128) ((uint64) t - (uint64) state->base) *
			rule->max_requests;
	return level > 0 ? level : 0;
}

/* Store a level, which is right at t. */
static void
bucket_store(const FlrRule *rule, FlrState *state, int64 t, int128 level)
{
	int64		period = rule->period;

	if (level <= 0)
	{
		state->total = 0;
		state->runs.bucket.remainder = 0;
	}
	else if (level <= PG_INT64_MAX)
	{
		state->total = (uint64) ((int64) level / period);
		state->runs.bucket.remainder = (int64) level % period;
	}
	else if (level / period >= PG_INT64_MAX)
	{
		state->total = PG_INT64_MAX;
		state->runs.bucket.remainder = 0;
	}
	else
	{
		state->total = (uint64) (level / period);
		state->runs.bucket.remainder = (int64) (level % period);
	}
	state->runs.bucket.period = period;
	state->base = t;
}

/* The first t >= from at which the level is at most ceiling. */
static int64
bucket_first(const FlrRule *rule, const FlrState *state, int64 from,
			 int128 ceiling)
{
	int128		excess = bucket_level_at(rule, state, from) - ceiling;

	if (excess <= 0)
		return from;
	if (rule->max_requests == 0)
		return FLR_NEVER;
	if (excess <= PG_INT64_MAX - rule->max_requests)
		return later(from, ((int64) excess + rule->max_requests - 1) /
					 rule->max_requests);
	return later(from, (excess + rule->max_requests - 1) / rule->max_requests);
}

/* Whole tokens missing at t, a started one counting. */
static int64
bucket_missing(const FlrRule *rule, const FlrState *state, int64 t)
{
	int128		level = bucket_level_at(rule, state, t);

	if (level <= PG_INT64_MAX - rule->period)
		return ((int64) level + rule->period - 1) / rule->period;
	level = (level + rule->period - 1) / rule->period;
	return level > PG_INT64_MAX ? PG_INT64_MAX : (int64) level;
}

/* ------------------------------------------------------------------------
 * Fixed window
 * ------------------------------------------------------------------------
 */

/* The window [*start, *end) that holds t. */
static inline void
fixed_window(const FlrRule *rule, int64 t, int64 *start, int64 *end)
{
	if (rule->calendar)
		rule->calendar(rule, t, start, end);
	else
	{
		*start = rule->anchor + flr_floor_to(t - rule->anchor, rule->period);
		*end = later(*start, rule->period);
	}
}

/* The cost recorded in [start, end). */
static int64
fixed_count(FlrArena *arena, const FlrState *state, int64 start, int64 end)
{
	FlrCursor	cursor;
	int64		count = 0;

	for (flr_record_start(&cursor, arena, state);
		 cursor.left > 0 && cursor.time < end; flr_record_next(&cursor))
		if (cursor.time >= start)
			count += Min(cursor.cost, PG_INT64_MAX - count);
	return count;
}

/* ------------------------------------------------------------------------
 * What the algorithms have in common
 * ------------------------------------------------------------------------
 */

/* Make an empty state. */
void
flr_state_init(FlrState *state)
{
	flr_record_init(state);
}

/* Set the period of a rule that shares its state with none, so far. */
void
flr_rule_set_period(FlrRule *rule, int64 period)
{
	rule->period = period;
	rule->retention = period;
	rule->second = period;
	rule->shortest = period;
}

/* Have a rule know of another one, or of itself, that shares its state. */
void
flr_rule_share(FlrRule *rule, const FlrRule *other)
{
	/* a sliding window's retention may be what it knows of others */
	int64		looks = other->algorithm == FLR_SLIDING_WINDOW ?
	other->period : other->retention;

	if (looks > rule->retention)
	{
		rule->second = rule->retention;
		rule->retention = looks;
	}
	else if (looks < rule->retention &&
			 (rule->second == rule->retention || looks > rule->second))
		rule->second = looks;
	rule->shortest = Min(rule->shortest, looks);
	rule->drain = Max(rule->drain, other->drain);
}

/*
 * Bring a state up to now: forget what no rule looks back at.  Nothing needs
 * it to have been done, but afterwards no time before now may be asked about.
 */
void
flr_advance(FlrArena *arena, const FlrRule *rule, FlrState *state, int64 now)
{
	int64		horizon = now - rule->retention;
	int64		start = FLR_NEVER;
	int64		end;

	if (rule->algorithm == FLR_TOKEN_BUCKET)
	{
		if (state->total == 0 && state->runs.bucket.remainder == 0)
			state->runs.bucket.waits_until = now;
		if (now > state->base)
			bucket_store(rule, state, now, bucket_level_at(rule, state, now));
		return;
	}
	if (state->nruns == 0 || rule->tentative)
		return;
	if (rule->algorithm == FLR_FIXED_WINDOW)
		fixed_window(rule, now, &start, &end);
	while (state->nruns > 0)
	{
		int64		time = flr_record_first_time(arena, state);

		if (time > horizon || time >= start)
			break;
		flr_record_pop(arena, state);
	}
}

/* The largest cost that a rule can ever grant at once. */
int64
flr_capacity(const FlrRule *rule)
{
	if (rule->max_requests == 0)
		return 0;
	return rule->algorithm == FLR_TOKEN_BUCKET ? rule->burst :
		rule->max_requests;
}

/*
 * The cost in use at now, in the sense that capacity less this is available.
 * More than the capacity after a limit was lowered or where reservations
 * queue.
 */
int64
flr_used(FlrArena *arena, const FlrRule *rule, const FlrState *state,
		 int64 now)
{
	int64		start;
	int64		end;

	switch (rule->algorithm)
	{
		case FLR_SLIDING_WINDOW:
			return sliding_peak(arena, rule, state, now);
		case FLR_TOKEN_BUCKET:
			return bucket_missing(rule, state, now);
		case FLR_FIXED_WINDOW:
			fixed_window(rule, now, &start, &end);
			return fixed_count(arena, state, start, end);
	}
	return 0;
}

/* The same, counting what any of the rules that share the state looks back at. */
int64
flr_used_by_any(FlrArena *arena, const FlrRule *rule, const FlrState *state,
				int64 now)
{
	FlrRule		widest = *rule;
	int64		start;
	int64		end;

	if (rule->algorithm == FLR_FIXED_WINDOW)
	{
		fixed_window(rule, now, &start, &end);
		return fixed_count(arena, state, Min(start, now - rule->retention + 1),
						   end);
	}
	widest.period = rule->retention;
	return flr_used(arena, rule->algorithm == FLR_TOKEN_BUCKET ? rule : &widest,
					state, now);
}

/* The largest cost that a request at now may have, 0 for none. */
int64
flr_available(FlrArena *arena, const FlrRule *rule, const FlrState *state,
			  int64 now)
{
	int64		used = flr_used(arena, rule, state, now);
	int64		capacity = flr_capacity(rule);

	return used >= capacity ? 0 : capacity - used;
}

/*
 * The first instant, not before from, at which a request of this cost is
 * granted if nothing else is spent; FLR_NEVER when the cost can never fit.
 */
int64
flr_slot(FlrArena *arena, const FlrRule *rule, const FlrState *state,
		 int64 from, int64 cost)
{
	int64		start;
	int64		end;

	if (cost > flr_capacity(rule))
		return FLR_NEVER;
	switch (rule->algorithm)
	{
		case FLR_SLIDING_WINDOW:
			return sliding_first(arena, rule, state, from,
								 rule->max_requests - cost);
		case FLR_TOKEN_BUCKET:
			return bucket_first(rule, state, from,
								(int128) (rule->burst - cost) * rule->period);
		case FLR_FIXED_WINDOW:
			for (;;)
			{
				fixed_window(rule, from, &start, &end);
				if (fixed_count(arena, state, start, end) <=
					rule->max_requests - cost)
					return from;
				if (end == FLR_NEVER)
					return FLR_NEVER;
				from = end;
			}
	}
	return FLR_NEVER;
}

/*
 * The first instant, not before from, at which all of n rules grant the cost.
 * Found by iteration: where one rule pushes the instant on, the others are
 * asked again, because with reservations a later instant need not be granted
 * where an earlier one was.  offsets[i] is what the time of rule i is ahead of
 * from's.
 */
int64
flr_common_slot(FlrArena *arena, const FlrRule *const *rules,
				const FlrState *const *states, const int64 *offsets, int n,
				int64 from, int64 cost)
{
	int			agreed = 0;

	for (int i = 0; agreed < n; i = (i + 1) % n)
	{
		int64		slot = later(from, offsets[i]);

		if (slot != FLR_NEVER)
			slot = flr_slot(arena, rules[i], states[i], slot, cost);
		if (slot != FLR_NEVER)
			slot = later(slot, -(int128) offsets[i]);
		if (slot == FLR_NEVER)
			return FLR_NEVER;
		if (slot > from)
		{
			from = slot;
			agreed = 0;
		}
		agreed++;
	}
	return from;
}

/*
 * The first instant after now at which more is available than now, FLR_NEVER
 * when nothing is spent.
 */
int64
flr_reset_at(FlrArena *arena, const FlrRule *rule, const FlrState *state,
			 int64 now)
{
	int64		capacity = flr_capacity(rule);
	int64		used;
	int64		start;
	int64		end;

	if (rule->algorithm == FLR_SLIDING_WINDOW && state->nruns > 0 &&
		state->total <= (uint64) capacity &&
		flr_record_last_time(arena, state) <= now)
	{
		int64		first = flr_record_first_time(arena, state);

		/* all of the record counts: the first run is the first to leave */
		if (first > now - rule->period)
			return later(first, rule->period);
	}
	used = flr_used(arena, rule, state, now);
	if (used == 0 || capacity == 0)
		return FLR_NEVER;
	used = Min(used, capacity);
	switch (rule->algorithm)
	{
		case FLR_SLIDING_WINDOW:
			return sliding_first(arena, rule, state, now, used - 1);
		case FLR_TOKEN_BUCKET:
			return bucket_first(rule, state, now,
								(int128) (used - 1) * rule->period);
		case FLR_FIXED_WINDOW:
			for (;;)
			{
				fixed_window(rule, now, &start, &end);
				if (fixed_count(arena, state, start, end) < used)
					return now;
				if (end == FLR_NEVER)
					return FLR_NEVER;
				now = end;
			}
	}
	return FLR_NEVER;
}

/* Where a rule records a request that is served at slot. */
static inline int64
record_time(const FlrRule *rule, int64 slot)
{
	int64		end;

	if (rule->algorithm == FLR_FIXED_WINDOW)
		fixed_window(rule, slot, &slot, &end);
	return slot;
}

/* Do the runs of this rule have to be wide? */
static inline bool
wants_wide(const FlrRule *rule)
{
	return rule->retention > NARROW_PERIOD ||
		rule->algorithm == FLR_FIXED_WINDOW;
}

/*
 * See to it that flr_spend() of the same slot and cost finds its memory.
 * False when there is none; the state then is as it was.
 */
bool
flr_reserve_room(FlrArena *arena, const FlrRule *rule, FlrState *state,
				 int64 slot, int64 cost)
{
	if (rule->algorithm == FLR_TOKEN_BUCKET)
		return true;
	return flr_record_reserve(arena, state, record_time(rule, slot), cost,
							  wants_wide(rule));
}

/*
 * Could flr_spend() of the same slot and cost, with merging, do without
 * memory?  Only if it is now: see above.
 */
bool
flr_can_merge(FlrArena *arena, const FlrRule *rule, const FlrState *state,
			  int64 now, int64 slot, int64 cost)
{
	return rule->algorithm == FLR_TOKEN_BUCKET ||
		(slot == now &&
		 flr_record_can_merge(arena, state, record_time(rule, slot), cost));
}

/*
 * Spend cost at slot, which is now or, for a reservation, later.  False, and
 * nothing is spent, when there is no memory; if merge is set and slot is now,
 * the run before then takes the cost and moves to now.  *debt is what
 * flr_cancel() wants to know.
 */
bool
flr_spend(FlrArena *arena, const FlrRule *rule, FlrState *state, int64 now,
		  int64 slot, int64 cost, bool merge, FlrDebt *debt)
{
	int64		not_before = FLR_NEVER;
	int64		time;

	debt->units = 0;
	debt->stamp = 0;
	if (rule->algorithm == FLR_TOKEN_BUCKET)
	{
		int128		level = bucket_level_at(rule, state, now);
		int128		drained = (int128) Max(slot - now, 0) *
		rule->max_requests;

		debt->units = (int128) cost * rule->period;
		if (drained > level)
			debt->units += drained - level;
		bucket_store(rule, state, level > 0 ? Max(now, state->base) : now,
					 level + debt->units);
		debt->stamp = ++state->runs.bucket.stamp;
		state->runs.bucket.waits_until = level > 0 ?
			Max(slot, state->runs.bucket.waits_until) : slot;
		return true;
	}

	time = record_time(rule, slot);
	if (rule->algorithm == FLR_SLIDING_WINDOW)
	{
		int64		step = slot == now && state->nruns >= FLR_EXACT_RUNS ?
		spending_step(rule) : 0;

		if (flr_record_append(arena, state, time, cost, step))
			return true;
		if (step > 0)
			not_before = flr_floor_to(time, step);
	}
	if (flr_record_add(arena, state, time, cost, wants_wide(rule), not_before))
	{
		if (rule->algorithm == FLR_SLIDING_WINDOW)
			thin_out(arena, rule, state, now);
		return true;
	}
	return merge && slot == now && flr_record_merge(arena, state, time, cost);
}

/*
 * The usual request in one step: flr_advance(), flr_available(), and if the
 * cost fits now, flr_spend().  False, and nothing is spent, if it does not fit
 * or there is no memory; else *remaining is what is available afterwards.
 */
bool
flr_take(FlrArena *arena, const FlrRule *rule, FlrState *state, int64 now,
		 int64 cost, int64 *remaining)
{
	FlrDebt		debt;

	if (rule->algorithm == FLR_SLIDING_WINDOW && state->nruns > 0)
	{
		if (flr_record_first_time(arena, state) <= now - rule->retention)
			flr_advance(arena, rule, state, now);

		/* if it fits beside all of the record, it fits beside a part */
		if (state->total <= (uint64) rule->max_requests &&
			cost <= rule->max_requests - (int64) state->total &&
			rule->shortest == rule->retention &&
			flr_record_append(arena, state, now, cost,
							  unlikely(state->nruns >= FLR_EXACT_RUNS) ?
							  rule->period / FLR_EXACT_RUNS : 0))
		{
			*remaining = rule->max_requests - (int64) state->total;
			return true;
		}
	}
	else
		flr_advance(arena, rule, state, now);
	*remaining = flr_available(arena, rule, state, now) - cost;
	return *remaining >= 0 &&
		flr_spend(arena, rule, state, now, now, cost, false, &debt);
}

/*
 * Give back up to cost of what was spent, the oldest first and no
 * reservations.  Returns what was given back.
 */
int64
flr_refund(FlrArena *arena, const FlrRule *rule, FlrState *state, int64 now,
		   int64 cost)
{
	FlrCursor	cursor;
	int64		start = now - rule->period;
	int64		end = now;
	int64		left = cost;

	if (rule->algorithm == FLR_TOKEN_BUCKET)
	{
		int128		level = bucket_level_at(rule, state, now);

		/* what is still reserved relies on the level as it is */
		if (state->runs.bucket.waits_until > now)
			return 0;
		state->runs.bucket.stamp++;
		left -= Min(cost, bucket_missing(rule, state, now));
		bucket_store(rule, state, Max(now, state->base),
					 level - (int128) cost * rule->period);
		return cost - left;
	}
	if (rule->algorithm == FLR_FIXED_WINDOW)
	{
		fixed_window(rule, now, &start, &end);
		start--;
		end--;
	}
	while (left > 0)
	{
		int64		part;

		/* the oldest run in (start, end] */
		flr_record_start(&cursor, arena, state);
		while (cursor.left > 0 && cursor.time <= start)
			flr_record_next(&cursor);
		if (cursor.left == 0 || cursor.time > end)
			break;
		part = Min(left, cursor.cost);
		if (part < left && cursor.left < state->nruns)
		{
			/* several, and others stay before them: all at once */
			left -= flr_record_withdraw(arena, state, start, end, left);
			break;
		}
		flr_record_subtract(arena, &cursor, part);
		left -= part;
	}
	return cost - left;
}

/*
 * Take a reservation back, or what is still there of it.  A token bucket takes
 * it back only if nothing was spent or given back since: a later reservation
 * may have been promised what comes after this one, and would be served too
 * soon.  Returns what was taken back.
 */
int64
flr_cancel(FlrArena *arena, const FlrRule *rule, FlrState *state, int64 slot,
		   int64 cost, FlrDebt debt)
{
	FlrCursor	cursor;
	int64		part;

	if (rule->algorithm == FLR_TOKEN_BUCKET)
	{
		if (state->runs.bucket.stamp != debt.stamp)
			return 0;
		state->runs.bucket.stamp++;
		bucket_store(rule, state, state->base,
					 bucket_level(state, rule->period) - debt.units);
		return cost;
	}
	flr_record_start(&cursor, arena, state);
	slot = record_time(rule, slot);
	while (cursor.left > 0 && cursor.time < slot)
		flr_record_next(&cursor);
	if (cursor.left == 0 || cursor.time != slot)
		return 0;
	part = Min(cost, cursor.cost);
	flr_record_subtract(arena, &cursor, part);
	return part;
}

/* The first instant at which a bucket is full by all rules that share it. */
static int64
bucket_expiry(const FlrRule *rule, const FlrState *state)
{
	int64		own = bucket_first(rule, state, state->base, 0);
	int128		tokens = (int128) state->total + (state->runs.bucket.remainder > 0);
	int64		slowest = later(state->base, tokens * rule->drain);

	if (rule->drain == 0)
		return own;
	return rule->max_requests == 0 ? slowest : Max(own, slowest);
}

/*
 * The instant from which on a state is worth nothing to its rule, and to those that
 * share it; FLR_NEVER where that cannot be told, since a rule lets nothing drain.
 */
int64
flr_expiry(FlrArena *arena, const FlrRule *rule, const FlrState *state)
{
	int64		start;
	int64		end;

	switch (rule->algorithm)
	{
		case FLR_TOKEN_BUCKET:
			if (state->total == 0 && state->runs.bucket.remainder == 0)
				return bucket_expiry(rule, state);
			return Max(bucket_expiry(rule, state),
					   later(state->base, rule->tentative));
		case FLR_SLIDING_WINDOW:
			if (state->nruns == 0)
				break;
			return later(flr_record_last_time(arena, state), flr_life(rule));
		case FLR_FIXED_WINDOW:
			if (state->nruns == 0)
				break;
			start = flr_record_last_time(arena, state);
			fixed_window(rule, start, &start, &end);
			return Max(end, later(start, flr_life(rule)));
	}
	return PG_INT64_MIN;
}

/* Nothing is spent any more; reservations are forgotten as well. */
void
flr_clear(FlrArena *arena, FlrAlgorithm algorithm, FlrState *state)
{
	uint64		stamp = state->runs.bucket.stamp;

	flr_record_clear(arena, state);

	/* a reservation of before must not be taken back from what comes */
	if (algorithm == FLR_TOKEN_BUCKET)
		state->runs.bucket.stamp = stamp + 1;
}

/* Move a state by so many microseconds into the past. */
void
flr_age(FlrArena *arena, const FlrRule *rule, FlrState *state, int64 by)
{
	if (rule->algorithm == FLR_TOKEN_BUCKET)
	{
		state->base -= by;
		state->runs.bucket.waits_until -= by;
	}
	else
		flr_record_shift(arena, state, by);
}
