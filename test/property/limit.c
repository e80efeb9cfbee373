/*-------------------------------------------------------------------------
 *
 * limit.c
 *	  One limit: the real state, its oracle, and a log of what happened.
 *
 * Every operation is done to the real state and to the oracle, and what they
 * answer is compared.  The log of what was really served is kept apart from
 * both; at the end of a trace it is held against the rule.
 *
 * Where memory was short, or a record is large, the state may know less than
 * the oracle ("exact" is off); then a grant of the real code must be a grant
 * of the oracle's, and that is all.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "property.h"

static void
add_event(Limit *l, int64 time, int64 cost, int64 id)
{
	if (l->nevents == l->size)
	{
		l->size = l->size ? 2 * l->size : 32;
		l->events = realloc(l->events, l->size * sizeof(Event));
		if (l->events == NULL)
			abort();
	}
	l->events[l->nevents].time = time;
	l->events[l->nevents].cost = cost;
	l->events[l->nevents].id = id;
	l->nevents++;
}

/* Take cost off the oldest events of (after, until] */
static void
take_from_events(Limit *l, int128 after, int64 until, int64 cost)
{
	while (cost > 0)
	{
		Event	   *oldest = NULL;
		int64		part;

		for (int i = 0; i < l->nevents; i++)
		{
			Event	   *e = &l->events[i];

			if (e->cost > 0 && e->time > after && e->time <= until &&
				(oldest == NULL || e->time < oldest->time))
				oldest = e;
		}
		if (oldest == NULL)
			return;
		part = Min(cost, oldest->cost);
		oldest->cost -= part;
		cost -= part;
	}
}

/* The real code has spent; say so to the oracle and to the log */
void
limit_log(Limit *l, int64 slot, int64 cost, int64 id)
{
	oracle_spend(&l->oracle, &l->rule, slot, cost);
	add_event(l, slot, cost, id);
}

/* Spend, at now or for a reservation at its slot */
bool
limit_spend(Limit *l, int64 now, int64 slot, int64 cost, bool merge,
			Reservation *reservation)
{
	static int64 last_id = 0;
	FlrDebt		debt;
	bool		spent;

	memset(&debt, 0x5A, sizeof(debt));

	/* with room seen to beforehand, or without */
	if (blocks.refusals == 0 && chance(50))
		check(HERE(l, RECORD),
			  flr_reserve_room(arena, &l->rule, &l->state, slot, cost),
			  "no room, although there are blocks");
	spent = flr_spend(arena, &l->rule, &l->state, now, slot, cost,
					  merge, &debt);
	SAY("%s " INT64_FORMAT " at " INT64_FORMAT "%s",
		reservation ? "reserve" : "spend", cost, slot,
		spent ? "" : ": no memory");
	if (!spent)
	{
		check(HERE(l, RECORD), blocks.refusals > 0,
			  "not spent, although there are blocks");
		return false;
	}
	l->changes++;
	if (reservation)
	{
		reservation->slot = slot;
		reservation->cost = cost;
		reservation->id = ++last_id;
		reservation->debt = debt;
		reservation->rule = l->rule;
		reservation->calendar = l->calendar;
		reservation->changes = l->changes;
		reservation->level = oracle_meter(&l->oracle, &l->rule, now);
		reservation->now = now;
		l->last_slot = Max(l->last_slot, slot);
	}
	limit_log(l, slot, cost, reservation ? last_id : 0);
	return true;
}

/* The usual request, in one step: advance, decide, spend */
void
limit_take(Limit *l, int64 now, int64 cost)
{
	int64		remaining = 0;
	bool		taken = flr_take(arena, &l->rule, &l->state, now, cost, &remaining);
	bool		granted;

	oracle_advance(&l->oracle, &l->rule, now);
	granted = oracle_grants(&l->oracle, &l->rule, now, cost);
	SAY("take " INT64_FORMAT " at " INT64_FORMAT ": %s", cost, now,
		taken ? "granted" : "refused");
	if (l->exact)
		check(HERE(l, TAKE), taken == granted, "cost " INT64_FORMAT " at "
			  INT64_FORMAT " must be %s", cost, now,
			  granted ? "granted" : "refused");
	else
		check(HERE(l, TAKE), granted || !taken, "cost " INT64_FORMAT " at "
			  INT64_FORMAT " must be refused", cost, now);
	if (!taken)
		return;
	l->changes++;
	limit_log(l, now, cost, 0);
	check(HERE(l, TAKE), l->exact ?
		  remaining == oracle_available(&l->oracle, &l->rule, now) :
		  remaining == flr_available(arena, &l->rule, &l->state, now),
		  "remaining " INT64_FORMAT " after " INT64_FORMAT " at " INT64_FORMAT,
		  remaining, cost, now);
}

/*
 * The meter of the bucket is where the real code says.  That is only called
 * where more than one level would do, after something was given back while
 * others wait; check_bucket() has the last word.
 */
static void
follow_meter(Limit *l)
{
	const FlrState *s = &l->state;

	oracle_set_meter(&l->oracle, (int128) s->total * s->runs.bucket.period +
					 s->runs.bucket.remainder, s->base,
					 s->runs.bucket.period);
}

void
limit_refund(Limit *l, int64 now, int64 cost)
{
	const FlrRule *r = &l->rule;
	int64		start = now - r->period;
	int64		end = now;
	int64		back = flr_refund(arena, r, &l->state, now, cost);
	int64		expected;
	bool		waiting = r->algorithm == FLR_TOKEN_BUCKET &&
	l->last_slot > now;

	SAY("refund " INT64_FORMAT ": " INT64_FORMAT, cost, back);
	expected = oracle_refund(&l->oracle, r, now, l->exact ? cost : back);
	l->changes++;
	check(HERE(l, REFUND), back >= 0 && back <= cost, "refunded "
		  INT64_FORMAT, back);
	if (waiting)
	{
		l->gave_back = true;
		check(HERE(l, REFUND), back <= expected, "refunded " INT64_FORMAT
			  ", should be at most " INT64_FORMAT, back, expected);
		follow_meter(l);
	}
	else if (l->exact)
		check(HERE(l, REFUND), back == expected, "refunded " INT64_FORMAT
			  ", should be " INT64_FORMAT, back, expected);

	if (r->algorithm == FLR_TOKEN_BUCKET)
		add_event(l, now, -back, 0);
	else if (r->algorithm == FLR_SLIDING_WINDOW)
		take_from_events(l, start, now, back);
	else
	{
		oracle_window(r, now, &start, &end);
		take_from_events(l, (int128) start - 1, end - 1, back);
	}
}

/*
 * Cancel a reservation, by the rule under which it was made.  Its slot may
 * just have passed.
 */
void
limit_cancel(Limit *l, int64 now, Reservation *reservation)
{
	const FlrRule *r = &reservation->rule;
	int64		slot = reservation->slot;
	int64		cost = reservation->cost;
	bool		untouched = reservation->changes == l->changes;
	int128		there;
	int128		level;
	int64		back;
	int64		start;
	int64		end;

	if (r->calendar)
		reservation->rule.calendar_arg = &reservation->calendar;
	there = oracle_there(&l->oracle, r, slot);
	level = oracle_meter(&l->oracle, r, now);
	back = flr_cancel(arena, r, &l->state, slot, cost, reservation->debt);
	SAY("cancel " INT64_FORMAT " at " INT64_FORMAT ": " INT64_FORMAT,
		cost, slot, back);
	l->changes++;
	check(HERE(l, CANCEL), back >= 0 && back <= cost, "took back "
		  INT64_FORMAT, back);
	if (r->algorithm == FLR_TOKEN_BUCKET)
	{
		if (untouched)
		{
			oracle_set_meter(&l->oracle, reservation->level,
							 reservation->now, r->period);
			oracle_advance(&l->oracle, r, now);
			limit_check_record(l);
			check(HERE(l, CANCEL),
				  flr_available(arena, r, &l->state, now) ==
				  oracle_available(&l->oracle, r, now),
				  "available is not what it would be without the reservation");
		}
		else
		{
			/* others came after it and count on the level */
			l->gave_back = true;
			follow_meter(l);
			if (r->period == l->rule.period &&
				r->max_requests == l->rule.max_requests)
				check(HERE(l, CANCEL),
					  oracle_meter(&l->oracle, r, now) <= level,
					  "the level has risen");
		}
	}
	else
	{
		/* a refund may have taken some of it; whoever else was served, was */
		if (l->exact)
			check(HERE(l, CANCEL), back == Min(there, cost), "took back "
				  INT64_FORMAT " of the %s recorded there", back,
				  text128(there));
		oracle_cancel(&l->oracle, r, slot, cost);
	}

	/*
	 * It will not be served.  If it has been refunded as well, what was given
	 * back twice is somebody else's who is recorded at the same place.
	 */
	for (int i = 0; i < l->nevents; i++)
		if (l->events[i].id == reservation->id)
		{
			int64		twice = back - l->events[i].cost;

			l->events[i].cost = 0;
			if (r->algorithm == FLR_FIXED_WINDOW)
			{
				oracle_window(r, slot, &start, &end);
				take_from_events(l, (int128) start - 1, end - 1, twice);
			}
			else if (r->algorithm == FLR_SLIDING_WINDOW)
				take_from_events(l, (int128) slot - 1, slot, twice);
		}
}

void
limit_age(Limit *l, int64 by)
{
	SAY("age by " INT64_FORMAT, by);
	flr_age(arena, &l->rule, &l->state, by);
	oracle_age(&l->oracle, by);
	for (int i = 0; i < l->nevents; i++)
		l->events[i].time -= by;
	l->last_slot -= by;
	l->aged = true;
	l->changes++;
}

/* ---------- the whole trace ---------- */

/* No window of the log has more than max_requests */
static void
check_history(Limit *l, int promise)
{
	const FlrRule *r = &l->rule;

	for (int i = 0; i < l->nevents; i++)
	{
		int64		end = l->events[i].time;
		int128		start = (int128) end - r->period;
		int128		sum = 0;

		if (l->events[i].cost <= 0)
			continue;
		if (r->algorithm == FLR_FIXED_WINDOW)
		{
			int64		first;

			oracle_window(r, end, &first, &end);
			start = (int128) first - 1;
			end--;
		}
		for (int j = 0; j < l->nevents; j++)
			if (l->events[j].time > start && l->events[j].time <= end)
				sum += l->events[j].cost;
		if (!check(promise, sum <= r->max_requests,
				   "%s were served in the period that ends at " INT64_FORMAT,
				   text128(sum), end))
			return;
	}
}

/* An ideal bucket that is served at the granted times never overflows */
static void
check_bucket(Limit *l, int promise)
{
	const FlrRule *r = &l->rule;
	int128		level = 0;
	int64		last = PG_INT64_MIN / 2;

	/* insertion sort: what came first stays first among equal times */
	for (int i = 1; i < l->nevents; i++)
	{
		Event		e = l->events[i];
		int			j;

		for (j = i; j > 0 && l->events[j - 1].time > e.time; j--)
			l->events[j] = l->events[j - 1];
		l->events[j] = e;
	}
	for (int i = 0; i < l->nevents; i++)
	{
		const Event *e = &l->events[i];

		level -= (int128) r->max_requests * (e->time - last);
		level = Max(level, 0);
		level += (int128) e->cost * r->period;
		level = Max(level, 0);
		last = e->time;
		if (e->cost > 0 &&
			!check(promise, level <= (int128) r->burst * r->period,
				   "level %s/" INT64_FORMAT " at " INT64_FORMAT
				   " with " INT64_FORMAT " served, more than the burst",
				   text128(level), r->period, last, e->cost))
			return;
	}
}

/* The end of a trace: hold the log against the rule, if it was one rule */
void
limit_end(Limit *l, int promise)
{
	if (!l->steady || trace_failed)
		return;
	if (l->rule.algorithm == FLR_TOKEN_BUCKET)
		check_bucket(l, l->gave_back ? (int) BUCKET_GIVEBACK : promise);
	else if (l->rule.algorithm == FLR_SLIDING_WINDOW || !l->aged)
		check_history(l, promise);
}
