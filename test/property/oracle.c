/*-------------------------------------------------------------------------
 *
 * oracle.c
 *	  The definitions of the three algorithms, at the pace of a proof.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "oracle.h"

#define MAX_LIST 8192

void
oracle_init(Oracle *o)
{
	memset(o, 0, sizeof(*o));
}

void
oracle_free(Oracle *o)
{
	free(o->spent);
	oracle_init(o);
}

/* Nothing was ever spent */
void
oracle_reset(Oracle *o)
{
	o->n = 0;
	o->level = 0;
	o->base = 0;
	o->period = 0;
}

/* ---------- sliding window ---------- */

/* The cost recorded in (u - period, u] */
static int128
load_at(const Oracle *o, int128 u, int64 period)
{
	int128		sum = 0;

	for (int i = 0; i < o->n; i++)
		if (o->spent[i].time > u - period && o->spent[i].time <= u)
			sum += o->spent[i].cost;
	return sum;
}

/*
 * The highest load at any u in [t, t + period).  The load rises only where
 * something was spent, so these instants and t itself are enough.
 */
static int128
peak_from(const Oracle *o, int64 t, int64 period)
{
	int128		peak = load_at(o, t, period);

	for (int i = 0; i < o->n; i++)
	{
		int64		u = o->spent[i].time;

		if (u > t && u < (int128) t + period)
		{
			int128		load = load_at(o, u, period);

			if (load > peak)
				peak = load;
		}
	}
	return peak;
}

/* ---------- fixed window ---------- */

void
oracle_window(const FlrRule *rule, int64 t, int64 *start, int64 *end)
{
	if (rule->calendar)
		rule->calendar(rule, t, start, end);
	else
	{
		int128		since = (int128) t - rule->anchor;
		int128		into = since % rule->period;

		if (into < 0)
			into += rule->period;
		*start = t - (int64) into;
		*end = *start + rule->period;
	}
}

static int128
count_in(const Oracle *o, int64 start, int64 end)
{
	int128		sum = 0;

	for (int i = 0; i < o->n; i++)
		if (o->spent[i].time >= start && o->spent[i].time < end)
			sum += o->spent[i].cost;
	return sum;
}

/* ---------- token bucket, as a meter that fills and drains ---------- */

/*
 * The level in 1/period tokens of the rule.  The meter drains max_requests of
 * these a microsecond.  Before a reservation's slot it is what must drain
 * until the slot on top of what will be there at the slot.
 */
static int128
meter_at(const Oracle *o, const FlrRule *rule, int64 t)
{
	int128		level = o->level;

	/* nothing was spent, or it is as if */
	if (level == 0)
		return 0;

	/* another period: fractions of a token are rounded up */
	if (o->period != rule->period)
	{
		int128		whole = level / o->period;
		int128		part = level % o->period;

		level = whole * rule->period +
			(part * rule->period + o->period - 1) / o->period;
	}
	level -= (int128) rule->max_requests * ((int128) t - o->base);
	return level > 0 ? level : 0;
}

/* ---------- all three ---------- */

static int64
capacity(const FlrRule *rule)
{
	/* max_requests 0 blocks, whatever the burst */
	if (rule->max_requests == 0)
		return 0;
	return rule->algorithm == FLR_TOKEN_BUCKET ? rule->burst : rule->max_requests;
}

/* What is missing from the capacity at t; it can be more than there is */
int128
oracle_used(const Oracle *o, const FlrRule *rule, int64 t)
{
	int64		start,
				end;

	switch (rule->algorithm)
	{
		case FLR_SLIDING_WINDOW:
			return peak_from(o, t, rule->period);
		case FLR_FIXED_WINDOW:
			oracle_window(rule, t, &start, &end);
			return count_in(o, start, end);
		case FLR_TOKEN_BUCKET:
			return (meter_at(o, rule, t) + rule->period - 1) / rule->period;
	}
	return 0;
}

/* The largest cost that is granted at t */
int64
oracle_available(const Oracle *o, const FlrRule *rule, int64 t)
{
	int128		left = capacity(rule) - oracle_used(o, rule, t);

	return left > 0 ? (int64) left : 0;
}

bool
oracle_grants(const Oracle *o, const FlrRule *rule, int64 t, int64 cost)
{
	return cost <= oracle_available(o, rule, t);
}

static int
by_time(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}

/*
 * Every instant from "from" on at which a refusal can turn into a grant, in
 * order.
 */
int
oracle_candidates(const Oracle *o, const FlrRule *rule, int64 from, int64 cost,
				  int64 **list)
{
	static int64 found[MAX_LIST];
	int			n = 0;

	found[n++] = from;
	if (rule->algorithm == FLR_TOKEN_BUCKET)
	{
		int128		excess = meter_at(o, rule, from) +
		(int128) cost * rule->period - (int128) rule->burst * rule->period;

		if (excess > 0 && rule->max_requests > 0)
		{
			int128		t = from + (excess + rule->max_requests - 1) / rule->max_requests;

			if (t < FLR_NEVER)
				found[n++] = (int64) t;
		}
	}
	else
	{
		if (o->n >= MAX_LIST)
			abort();
		for (int i = 0; i < o->n; i++)
		{
			int64		start,
						end;

			if (rule->algorithm == FLR_SLIDING_WINDOW)
				end = o->spent[i].time + rule->period;
			else
				oracle_window(rule, o->spent[i].time, &start, &end);
			if (end > from)
				found[n++] = end;
		}
	}
	qsort(found, n, sizeof(int64), by_time);
	*list = found;
	return n;
}

/* The first instant from "from" on that grants the cost */
int64
oracle_first(const Oracle *o, const FlrRule *rule, int64 from, int64 cost)
{
	int64	   *list;
	int			n;

	if (cost > capacity(rule))
		return FLR_NEVER;
	n = oracle_candidates(o, rule, from, cost, &list);
	for (int i = 0; i < n; i++)
		if (oracle_grants(o, rule, list[i], cost))
			return list[i];
	return FLR_NEVER;
}

/*
 * The first instant from "from" on that all of them grant.  Each keeps time
 * of its own: offsets[i] later than the common one.
 */
int64
oracle_common(const Oracle *const *o, const FlrRule *const *rules,
			  const int64 *offsets, int n, int64 from, int64 cost)
{
	static int64 all[MAX_LIST];
	int			nall = 0;

	for (int i = 0; i < n; i++)
	{
		int64	   *list;
		int			nlist = oracle_candidates(o[i], rules[i],
											  from + offsets[i], cost, &list);

		if (nall + nlist > MAX_LIST)
			abort();
		for (int j = 0; j < nlist; j++)
			if ((int128) list[j] - offsets[i] < FAR_AWAY)
				all[nall++] = list[j] - offsets[i];
	}
	qsort(all, nall, sizeof(int64), by_time);

	for (int j = 0; j < nall; j++)
	{
		int			i;

		for (i = 0; i < n; i++)
			if (!oracle_grants(o[i], rules[i], all[j] + offsets[i], cost))
				break;
		if (i == n)
			return all[j];
	}
	return FLR_NEVER;
}

/* The first instant after now at which more is available than now */
int64
oracle_reset_at(const Oracle *o, const FlrRule *rule, int64 now)
{
	int64		available = oracle_available(o, rule, now);

	if (available >= capacity(rule))
		return FLR_NEVER;
	return oracle_first(o, rule, now, available + 1);
}

/* The last instant at which anything was spent or is reserved */
int64
oracle_last(const Oracle *o)
{
	int64		last = PG_INT64_MIN;

	for (int i = 0; i < o->n; i++)
		if (o->spent[i].time > last)
			last = o->spent[i].time;
	return last;
}

static void
remove_at(Oracle *o, int i)
{
	o->spent[i] = o->spent[--o->n];
}

/*
 * It is "now": forget what no rule that shares the record can see any more.
 * The meter shows what it shows; a rule that changes later drains it from
 * here on.
 */
void
oracle_advance(Oracle *o, const FlrRule *rule, int64 now)
{
	int64		start = PG_INT64_MAX,
				end;

	if (rule->algorithm == FLR_TOKEN_BUCKET)
	{
		/* where no time has passed, nothing is rounded to another period */
		if (now != o->base)
			oracle_set_meter(o, meter_at(o, rule, now), now, rule->period);
		return;
	}
	if (rule->algorithm == FLR_FIXED_WINDOW)
		oracle_window(rule, now, &start, &end);
	for (int i = o->n - 1; i >= 0; i--)
		if (o->spent[i].time <= (int128) now - rule->retention &&
			o->spent[i].time < start)
			remove_at(o, i);
}

void
oracle_set_meter(Oracle *o, int128 level, int64 base, int64 period)
{
	o->level = level;
	o->base = base;
	o->period = period;
}

int128
oracle_meter(const Oracle *o, const FlrRule *rule, int64 t)
{
	return meter_at(o, rule, t);
}

/*
 * A fixed window counts, so what is spent in it is spent at its start: a rule
 * that is changed later sees it there.
 */
void
oracle_spend(Oracle *o, const FlrRule *rule, int64 slot, int64 cost)
{
	int64		end;

	if (rule->algorithm == FLR_TOKEN_BUCKET)
	{
		oracle_set_meter(o, meter_at(o, rule, slot) +
						 (int128) cost * rule->period, slot, rule->period);
		return;
	}
	if (rule->algorithm == FLR_FIXED_WINDOW)
		oracle_window(rule, slot, &slot, &end);
	if (o->n == o->size)
	{
		o->size = o->size ? 2 * o->size : 32;
		o->spent = realloc(o->spent, o->size * sizeof(Spending));
		if (o->spent == NULL)
			abort();
	}
	o->spent[o->n].time = slot;
	o->spent[o->n].cost = cost;
	o->n++;
}

/* Take back up to "cost" of the oldest spendings after "after", up to "until" */
static int64
take_oldest(Oracle *o, int128 after, int128 until, int64 cost)
{
	int64		left = cost;

	while (left > 0)
	{
		int			oldest = -1;

		for (int i = 0; i < o->n; i++)
			if (o->spent[i].time > after && o->spent[i].time <= until &&
				(oldest < 0 || o->spent[i].time < o->spent[oldest].time))
				oldest = i;
		if (oldest < 0)
			break;
		if (o->spent[oldest].cost > left)
		{
			o->spent[oldest].cost -= left;
			left = 0;
		}
		else
		{
			left -= o->spent[oldest].cost;
			remove_at(o, oldest);
		}
	}
	return cost - left;
}

/* Give back the oldest spending that still counts; answers how much */
int64
oracle_refund(Oracle *o, const FlrRule *rule, int64 now, int64 cost)
{
	int64		start,
				end;
	int128		level;
	int128		whole;

	switch (rule->algorithm)
	{
		case FLR_SLIDING_WINDOW:
			return take_oldest(o, (int128) now - rule->period, now, cost);
		case FLR_FIXED_WINDOW:
			oracle_window(rule, now, &start, &end);
			return take_oldest(o, (int128) start - 1, (int128) end - 1, cost);
		case FLR_TOKEN_BUCKET:
			level = meter_at(o, rule, now);
			whole = oracle_used(o, rule, now);
			level -= (int128) cost * rule->period;
			oracle_set_meter(o, level > 0 ? level : 0, now, rule->period);
			return cost < whole ? cost : (int64) whole;
	}
	return 0;
}

/* What is recorded where a reservation for this slot is */
int128
oracle_there(const Oracle *o, const FlrRule *rule, int64 slot)
{
	int64		end;

	if (rule->algorithm == FLR_FIXED_WINDOW)
		oracle_window(rule, slot, &slot, &end);
	return count_in(o, slot, slot + 1);
}

/* Take a reservation back from where it was recorded */
int64
oracle_cancel(Oracle *o, const FlrRule *rule, int64 slot, int64 cost)
{
	int64		end;

	if (rule->algorithm == FLR_FIXED_WINDOW)
		oracle_window(rule, slot, &slot, &end);
	return take_oldest(o, (int128) slot - 1, slot, cost);
}

/* Everything happened that much earlier */
void
oracle_age(Oracle *o, int64 by)
{
	for (int i = 0; i < o->n; i++)
		o->spent[i].time -= by;
	o->base -= by;
}
