/*-------------------------------------------------------------------------
 *
 * look.c
 *	  Compare what the real code says with what the oracle says.
 *
 * Nothing here changes a limit, except that time passes.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "property.h"

static int
by_time(const void *a, const void *b)
{
	int64		x = ((const Spending *) a)->time;
	int64		y = ((const Spending *) b)->time;

	return x < y ? -1 : x > y;
}

/* The runs of the real record; also an empty list is somewhere */
int
limit_dump(const Limit *l, Spending **list)
{
	static Spending none;
	static Spending *runs = NULL;
	static int	size = 0;
	FlrCursor	cursor;
	int			n = 0;

	if (l->rule.algorithm != FLR_TOKEN_BUCKET)
		for (flr_record_start(&cursor, arena, &l->state); cursor.left > 0;
			 flr_record_next(&cursor))
		{
			if (n == size)
			{
				size = size ? 2 * size : 64;
				runs = realloc(runs, size * sizeof(Spending));
				if (runs == NULL)
					abort();
			}
			runs[n].time = cursor.time;
			runs[n].cost = cursor.cost;
			n++;
		}
	*list = n > 0 ? runs : &none;
	return n;
}

/* The real record or level against the oracle's */
void
limit_check_record(Limit *l)
{
	Spending   *runs;
	Spending   *sorted = l->oracle.spent;
	int			nruns;
	int			n = l->oracle.n;
	int			j = 0;
	uint64		total = 0;

	if (l->rule.algorithm == FLR_TOKEN_BUCKET)
	{
		const FlrState *s = &l->state;
		int64		base = Max(s->base, l->oracle.base);
		int128		level = (int128) s->total * s->runs.bucket.period +
		s->runs.bucket.remainder;

		/* compare the two at one time, and in one unit */
		if (s->runs.bucket.period != l->rule.period)
			return;
		level -= (int128) l->rule.max_requests * (base - s->base);
		level = Max(level, 0);
		check(HERE(l, RECORD),
			  level == oracle_meter(&l->oracle, &l->rule, base),
			  "level %s at " INT64_FORMAT ", should be %s", text128(level), base,
			  text128(oracle_meter(&l->oracle, &l->rule, base)));
		return;
	}

	nruns = limit_dump(l, &runs);
	for (int i = 0; i < nruns; i++)
	{
		total += (uint64) runs[i].cost;
		check(HERE(l, RECORD), runs[i].cost > 0 &&
			  (i == 0 || runs[i].time > runs[i - 1].time),
			  "run %d of %d is (" INT64_FORMAT ", " INT64_FORMAT ")", i, nruns,
			  runs[i].time, runs[i].cost);
	}
	check(HERE(l, RECORD), total == l->state.total &&
		  (uint32) nruns == l->state.nruns,
		  "the record's sum or number of runs is wrong");
	if (!l->exact)
		return;

	if (n > 1)
		qsort(sorted, n, sizeof(Spending), by_time);
	for (int i = 0; i < nruns; i++)
	{
		int128		sum = 0;

		for (; j < n && sorted[j].time == runs[i].time; j++)
			sum += sorted[j].cost;
		check(HERE(l, RECORD), sum == runs[i].cost,
			  "run (" INT64_FORMAT ", " INT64_FORMAT "), should have cost %s",
			  runs[i].time, runs[i].cost, text128(sum));
	}
	check(HERE(l, RECORD), j == n, "a spending at " INT64_FORMAT
		  " is not in the record", j < n ? sorted[j].time : 0);
}

/* A state of its own, in blocks of its own, with the same content */
void
state_clone(FlrState *copy, const FlrState *state)
{
	FlrBlockId	block = flr_first_block(state);
	FlrBlockId *link = &copy->runs.chain.first;

	*copy = *state;
	while (block != 0)
	{
		FlrBlockId	fresh = arena->take(arena);

		memcpy(flr_block(arena, fresh), flr_block(arena, block),
			   FLR_BLOCK_SIZE);
		*link = fresh;
		if (flr_last_block(state) == block)
			copy->runs.chain.last = fresh;
		link = &((FlrChain *) flr_block(arena, fresh))->next;
		block = *link;
	}
}

bool
same_instant(int64 a, int64 b)
{
	return a == b || (a >= FAR_AWAY && b >= FAR_AWAY);
}

static int64
available_at(FlrState *state, const FlrRule *rule, int64 t)
{
	flr_advance(arena, rule, state, t);
	return flr_available(arena, rule, state, t);
}

/* Bring the limit up to now */
void
limit_advance(Limit *l, int64 now)
{
	flr_advance(arena, &l->rule, &l->state, now);
	oracle_advance(&l->oracle, &l->rule, now);
}

/* Compare everything that can be asked without spending */
void
limit_look(Limit *l, int64 now)
{
	const FlrRule *r = &l->rule;
	int64		capacity = limit_capacity(l);
	int64		available = flr_available(arena, r, &l->state, now);
	int64		used = flr_used(arena, r, &l->state, now);
	int64		expected = oracle_available(&l->oracle, r, now);
	int128		in_use = oracle_used(&l->oracle, r, now);
	int64		reset_at = flr_reset_at(arena, r, &l->state, now);
	int64		first = oracle_reset_at(&l->oracle, r, now);
	int64		expiry = flr_expiry(arena, r, &l->state);
	FlrState	copy;

	check(HERE(l, AVAILABLE), flr_capacity(r) == capacity,
		  "capacity " INT64_FORMAT ", should be " INT64_FORMAT,
		  flr_capacity(r), capacity);
	check(HERE(l, AVAILABLE), available == expected,
		  "available " INT64_FORMAT " at " INT64_FORMAT ", should be "
		  INT64_FORMAT, available, now, expected);
	check(HERE(l, AVAILABLE), used == Min(in_use, PG_INT64_MAX),
		  "used " INT64_FORMAT " at " INT64_FORMAT ", should be %s", used, now,
		  text128(in_use));
	check(HERE(l, AVAILABLE), available == 0 ||
		  flr_slot(arena, r, &l->state, now, available) == now,
		  "what is available is not granted");
	check(HERE(l, AVAILABLE), available == PG_INT64_MAX ||
		  flr_slot(arena, r, &l->state, now, available + 1) != now,
		  "more than what is available is granted");

	check(HERE(l, RESET_AT), same_instant(reset_at, first),
		  "reset_at " INT64_FORMAT ", should be " INT64_FORMAT, reset_at, first);
	if (reset_at < FAR_AWAY && reset_at > now)
	{
		state_clone(&copy, &l->state);
		check(HERE(l, RESET_AT),
			  available_at(&copy, r, reset_at - 1) <= available &&
			  available_at(&copy, r, reset_at) > available,
			  "more is not available at " INT64_FORMAT " for the first time",
			  reset_at);
		flr_record_clear(arena, &copy);
	}

	if (expiry >= FAR_AWAY)
		check(HERE(l, EXPIRY), r->algorithm == FLR_TOKEN_BUCKET && in_use > 0,
			  "never expires");
	else
	{
		int64		t = Max(expiry, now);

		check(HERE(l, EXPIRY), oracle_available(&l->oracle, r, t) == capacity,
			  "something is in use after the expiry " INT64_FORMAT, expiry);
		if (in_use > 0)
			check(HERE(l, EXPIRY), expiry > now, "expired, but in use");
		if (r->algorithm == FLR_SLIDING_WINDOW && l->oracle.n > 0)
			check(HERE(l, EXPIRY),
				  expiry <= oracle_last(&l->oracle) + r->retention,
				  "expires late, at " INT64_FORMAT, expiry);
		state_clone(&copy, &l->state);
		check(HERE(l, EXPIRY), available_at(&copy, r, t) == capacity &&
			  available_at(&copy, r, t + below(r->period)) == capacity,
			  "not all is available after the expiry " INT64_FORMAT, expiry);
		flr_record_clear(arena, &copy);
	}
}

/* The slot for a cost, as the real code sees it */
int64
limit_slot(Limit *l, int64 from, int64 cost)
{
	const FlrRule *r = &l->rule;
	int64		slot = flr_slot(arena, r, &l->state, from, cost);
	int64		first = oracle_first(&l->oracle, r, from, cost);
	FlrState	copy;

	SAY("slot for " INT64_FORMAT " from " INT64_FORMAT ": " INT64_FORMAT,
		cost, from, slot);
	check(HERE(l, GRANTS), (slot == from) ==
		  oracle_grants(&l->oracle, r, from, cost),
		  "cost " INT64_FORMAT " at " INT64_FORMAT " must be %s", cost, from,
		  slot == from ? "refused" : "granted");
	check(HERE(l, SLOT), same_instant(slot, first), "slot for " INT64_FORMAT " from "
		  INT64_FORMAT " is " INT64_FORMAT ", should be " INT64_FORMAT,
		  cost, from, slot, first);
	if (slot >= FAR_AWAY || trace_failed)
		return FLR_NEVER;

	check(HERE(l, SLOT), flr_slot(arena, r, &l->state, slot, cost) == slot,
		  "the slot itself is not a slot");
	if (slot > from)
	{
		int64	   *list;
		int			n = oracle_candidates(&l->oracle, r, from, cost, &list);

		/* ask as a caller would who comes at these times */
		state_clone(&copy, &l->state);
		for (int i = 0; i < n && list[i] < slot; i++)
			check(HERE(l, SLOT), available_at(&copy, r, list[i]) < cost,
				  "granted at " INT64_FORMAT " already", list[i]);
		check(HERE(l, SLOT), available_at(&copy, r, slot - 1) < cost &&
			  available_at(&copy, r, slot) >= cost,
			  "not granted at the slot " INT64_FORMAT " for the first time", slot);
		flr_record_clear(arena, &copy);
	}
	return slot;
}
