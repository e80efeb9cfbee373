/*-------------------------------------------------------------------------
 *
 * rules.c
 *	  Limits to try, and costs and times that are likely to matter.
 *
 * Small numbers, so that limits are reached all the time and equal times are
 * usual; the ends of every range; and what is next to an edge.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "property.h"

/* Time stays far enough from the ends for any sum with a few periods. */
#define LATEST (INT64CONST(1) << 61)

#define PICK(list) ((list)[below(lengthof(list))])

static int64
pick_max(void)
{
	static const int64 extreme[] = {
		0, 1, 4096, 4097, 5000,
		(INT64CONST(1) << 32) - 1, INT64CONST(1) << 32, (INT64CONST(1) << 32) + 1,
		INT64CONST(1) << 62, PG_INT64_MAX - 1, PG_INT64_MAX
	};

	switch (below(10))
	{
		case 0:
			return PICK(extreme);
		case 1:
			return 1;
		case 2:
			return 20 + below(200);
		default:
			return 2 + below(12);
	}
}

static int64
pick_period(void)
{
	static const int64 extreme[] = {
		1, 2, 3, 4095, 4096, 4097,
		(INT64CONST(1) << 31) - 1, INT64CONST(1) << 31, (INT64CONST(1) << 31) + 1,
		INT64CONST(1) << 32, (INT64CONST(1) << 32) + 1, INT64CONST(1) << 33,
		FLR_MAX_PERIOD / 2, FLR_MAX_PERIOD
	};
	static const int64 usual[] = {
		INT64CONST(1000000), INT64CONST(10000000), INT64CONST(30000000),
		INT64CONST(60000000), INT64CONST(3600000000), INT64CONST(86400000000)
	};

	switch (below(4))
	{
		case 0:
			return PICK(extreme);
		case 1:
			return PICK(usual);
		case 2:
			return 1 + below(20);
		default:
			return 1 + below(1000);
	}
}

/* Windows of irregular lengths, over and over */
static void
irregular(const FlrRule *rule, int64 t, int64 *start, int64 *end)
{
	const Calendar *calendar = rule->calendar_arg;
	int128		cycle = 0;
	int128		into;

	for (int i = 0; i < calendar->n; i++)
		cycle += calendar->length[i];
	into = ((int128) t - calendar->origin) % cycle;
	if (into < 0)
		into += cycle;
	*start = t - (int64) into;
	for (int i = 0;; i++)
	{
		*end = *start + calendar->length[i];
		if (t < *end)
			return;
		*start = *end;
	}
}

static void
pick_calendar(Limit *l)
{
	Calendar   *c = &l->calendar;

	l->rule.anchor = chance(30) ? 0 : below(1000000) - 500000;
	l->rule.calendar = NULL;
	l->rule.calendar_arg = NULL;
	if (l->rule.algorithm != FLR_FIXED_WINDOW || chance(50))
		return;
	c->n = 1 + (int) below(4);
	c->origin = l->rule.anchor;
	for (int i = 0; i < c->n; i++)
	{
		/* months, say: some longer than the period, some shorter */
		int64		quarter = l->rule.period / 4;

		c->length[i] = l->rule.period - quarter + below(2 * quarter + 1);
	}
	l->rule.calendar = irregular;
	l->rule.calendar_arg = c;
}

int64
limit_capacity(const Limit *l)
{
	if (l->rule.max_requests == 0)
		return 0;
	return l->rule.algorithm == FLR_TOKEN_BUCKET ? l->rule.burst :
		l->rule.max_requests;
}

void
limit_say(const Limit *l)
{
	const FlrRule *r = &l->rule;
	static const char *const names[] = {"sliding", "bucket", "fixed"};

	SAY("rule %s max_requests=" INT64_FORMAT " period=" INT64_FORMAT
		" burst=" INT64_FORMAT " retention=" INT64_FORMAT
		" anchor=" INT64_FORMAT " offset=" INT64_FORMAT,
		names[r->algorithm], r->max_requests, r->period, r->burst,
		r->retention, r->anchor, l->offset);
	if (r->calendar)
		for (int i = 0; i < l->calendar.n; i++)
			SAY("  calendar: origin " INT64_FORMAT ", window of " INT64_FORMAT,
				l->calendar.origin, l->calendar.length[i]);
}

static void
pick_rule(Limit *l, FlrAlgorithm algorithm)
{
	FlrRule    *r = &l->rule;

	r->algorithm = algorithm;
	r->max_requests = pick_max();
	flr_rule_set_period(r, pick_period());
	r->burst = chance(50) ? r->max_requests : pick_max();
	if (chance(20))
		r->retention += below(Min(r->period * 3, FLR_MAX_PERIOD - r->period) + 1);
	pick_calendar(l);
	limit_say(l);
}

void
limit_init(Limit *l, FlrAlgorithm algorithm)
{
	memset(l, 0, sizeof(*l));
	l->exact = true;
	l->steady = true;
	l->last_slot = PG_INT64_MIN / 2;
	oracle_init(&l->oracle);
	/* the memory of a state is not initialized */
	memset(&l->state, 0x5A, sizeof(l->state));
	flr_state_init(&l->state);
	pick_rule(l, algorithm);
}

void
limit_free(Limit *l)
{
	blocks.refusals = 0;
	flr_record_clear(arena, &l->state);
	oracle_free(&l->oracle);
	free(l->events);
}

/* Another algorithm starts afresh */
void
limit_restart(Limit *l, FlrAlgorithm algorithm)
{
	SAY("clear");
	flr_record_clear(arena, &l->state);
	flr_state_init(&l->state);
	oracle_reset(&l->oracle);
	l->nevents = 0;
	l->steady = true;
	l->aged = false;
	l->gave_back = false;
	l->last_slot = PG_INT64_MIN / 2;
	l->changes++;
	pick_rule(l, algorithm);
}

/*
 * Is a reservation of this slot beyond what can be told?  A bucket would owe
 * more than 2^63 tokens, or what comes after the slot would be FAR_AWAY.
 */
bool
limit_beyond(const Limit *l, int64 now, int64 slot)
{
	return slot >= FAR_AWAY / 2 ||
		(l->rule.algorithm == FLR_TOKEN_BUCKET &&
		 (int128) l->rule.max_requests * (slot - now) / l->rule.period >=
		 PG_INT64_MAX - l->rule.burst);
}

/*
 * Does a record hold more than 64 bits of cost?  Only a period that was made
 * longer would ever look at so much.
 */
static bool
limit_brimful(const Limit *l)
{
	int128		sum = 0;

	for (int i = 0; i < l->oracle.n; i++)
		sum += l->oracle.spent[i].cost;
	return sum > PG_UINT64_MAX;
}

/* Change the definition and keep what was spent */
void
limit_change(Limit *l, int64 now)
{
	FlrRule    *r = &l->rule;
	int64		old_retention = r->retention;

	if (r->algorithm == FLR_TOKEN_BUCKET)
		oracle_advance(&l->oracle, r, now);
	if (chance(60))
	{
		if (chance(30))
			r->max_requests = pick_max();
		else
		{
			/* a little up or down */
			r->max_requests -= Min(r->max_requests, 3);
			r->max_requests = Min(r->max_requests, PG_INT64_MAX - 7) + below(7);
		}
		if (chance(50))
			r->burst = r->max_requests;
	}
	if (chance(60) && !limit_brimful(l))
	{
		switch (below(4))
		{
			case 0:
				r->period = Max(1, r->period / 2);
				break;
			case 1:
				r->period = Min(FLR_MAX_PERIOD, r->period * 2);
				break;
			case 2:
				r->period = Min(FLR_MAX_PERIOD, r->period + 1);
				break;
			default:
				r->period = pick_period();
		}
		pick_calendar(l);
	}
	flr_rule_set_period(r, r->period);
	if (!chance(50))
		r->retention = Max(r->period, old_retention);
	l->steady = false;
	l->changes++;
	limit_say(l);
}

/* A cost that is likely to matter */
int64
limit_pick_cost(const Limit *l, int64 now)
{
	int64		capacity = limit_capacity(l);
	int64		available;

	switch (below(8))
	{
		case 0:
			available = oracle_available(&l->oracle, &l->rule, now);
			if (chance(50))
				available--;
			return Max(1, available);
		case 1:
			available = oracle_available(&l->oracle, &l->rule, now);
			return available == PG_INT64_MAX ? available : available + 1;
		case 2:
			return 1 + below(capacity);
		case 3:
			if (chance(80))
				return 1 + below(Min(capacity, 20));
			return chance(50) ? (INT64CONST(1) << 62) + below(100) :
				capacity == PG_INT64_MAX ? capacity : capacity + 1;
		default:
			return 1 + (chance(30) ? below(3) : 0);
	}
}

/* The next time: again and again an instant at which something changes */
int64
limit_pick_time(const Limit *l, int64 now)
{
	const FlrRule *r = &l->rule;
	int64		t = now;

	now += l->offset;
	switch (below(10))
	{
		case 0:
		case 1:
		case 2:
			return now - l->offset;
		case 3:
			t = now + 1;
			break;
		case 4:
			t = now + below(r->period);
			break;
		case 5:
			t = now + r->period - 1 + below(3);
			break;
		case 6:
			if (l->oracle.n > 0)
			{
				const Spending *s = &l->oracle.spent[below(l->oracle.n)];

				t = s->time - 1 + below(3);
				if (chance(70))
					t += chance(20) ? r->retention : r->period;
				break;
			}
			t = oracle_first(&l->oracle, r, now, 1 + below(3));
			if (t == FLR_NEVER)
				return now - l->offset;
			t -= below(2);
			break;
		case 7:
			t = chance(20) ? now + r->period * (1 + below(5)) : now;
			break;
		default:
			t = now + below(r->period / 8 + 2);
			break;
	}
	return t > now && t - l->offset < LATEST ? t - l->offset :
		now - l->offset;
}
