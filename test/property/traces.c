/*-------------------------------------------------------------------------
 *
 * traces.c
 *	  The traces: who asks for what, and when.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "property.h"

#define MAX_LIMITS 5

/* about 30 years */
#define FAR_CLOCK INT64CONST(1000000000000000)

/* When a trace begins */
int64
pick_start(void)
{
	switch (below(5))
	{
		case 0:
			return 0;
		case 1:
			return below(2000) - 1000;
		case 2:
			return -below(INT64CONST(1) << 59);
		case 3:
			return below(INT64CONST(1) << 59);
		default:
			return INT64CONST(1600000000000000) + below(1000000);
	}
}

/* Mostly short, so that a failure is easy to read; some run into many blocks */
static int64
pick_steps(void)
{
	if (chance(3))
		return 100 + below(150);
	return 3 + below(chance(50) ? 10 : 40);
}

/* Most reservations follow from the limit itself, some from a slower one */
int64
pick_from(const Limit *l, int64 now)
{
	return chance(60) ? now : now + below(l->rule.period * (1 + below(3)));
}

/* Forget whose slot is not later than "until": served, there is no way back */
void
forget_served(Waiting *waiting, int64 until)
{
	for (int i = waiting->n - 1; i >= 0; i--)
		if (waiting->list[i].slot <= until)
			waiting->list[i] = waiting->list[--waiting->n];
}

/* One of those who wait gives up */
void
cancel_any(Limit *l, Waiting *waiting, int64 now)
{
	int			i;

	if (waiting->n == 0)
		return;
	i = (int) below(waiting->n);
	limit_cancel(l, now, &waiting->list[i]);
	waiting->list[i] = waiting->list[--waiting->n];
}

/* ---------- one limit ---------- */

/* Everything moves into the past; what it looks like from now is compared */
static void
age_limit(Limit *l, Waiting *waiting, int64 now)
{
	int64		by = limit_pick_time(l, now) - now;

	limit_age(l, by);
	for (int i = 0; i < waiting->n; i++)
		waiting->list[i].slot -= by;
	/* a fixed window's edges do not move with what is in it */
	if (l->rule.algorithm == FLR_FIXED_WINDOW)
		waiting->n = 0;
	limit_advance(l, now);
	limit_look(l, now);
}

static void
one_limit(FlrAlgorithm algorithm)
{
	Limit		l;
	Waiting		waiting = {0};
	int64		now = pick_start();
	int64		steps = pick_steps();
	int			changes = chance(40) ? 8 : 0;
	int			mood = 0;

	limit_init(&l, algorithm);
	for (int64 i = 0; i < steps && !trace_failed; i++)
	{
		int64		cost;
		int64		slot;
		int			op = (int) below(100);

		/* at times everybody reserves, or everybody gives up */
		steps_done++;
		if (chance(3))
			mood = (int) below(4);
		if (mood == 1 && chance(70))
			op = 50 + (int) below(18);
		else if (mood == 2 && chance(70))
			op = 68 + (int) below(10);
		if ((mood != 1 && mood != 2) || chance(20))
			now = limit_pick_time(&l, now);
		SAY("now " INT64_FORMAT, now);
		/* a cancellation comes without */
		if (op >= 20 && (op < 68 || op >= 78 || chance(50)))
			limit_advance(&l, now);

		/* a few who slept until their slot give up nevertheless */
		forget_served(&waiting, chance(70) ? now : now - l.rule.period);

		cost = limit_pick_cost(&l, now);
		if (op >= 20 && op < 68 && chance(60))
			limit_look(&l, now);
		if (op < 20)
			limit_take(&l, now, cost);
		else if (op < 50)
		{
			if (limit_slot(&l, now, cost) == now && !trace_failed)
				limit_spend(&l, now, now, cost, false, NULL);
		}
		else if (op < 68)
		{
			slot = limit_slot(&l, pick_from(&l, now), cost);
			if (slot != FLR_NEVER && waiting.n < MAX_WAITING &&
				!limit_beyond(&l, now, slot) && !trace_failed)
				limit_spend(&l, now, slot, cost, false,
							&waiting.list[waiting.n++]);
		}
		else if (op < 78)
			cancel_any(&l, &waiting, now);
		else if (op < 86)
			limit_refund(&l, now, chance(10) ? PG_INT64_MAX : cost);
		else if (op < 88)
			age_limit(&l, &waiting, now);
		else if (op < 88 + changes)
		{
			limit_change(&l, now);
			limit_advance(&l, now);
			forget_served(&waiting, now);
			limit_look(&l, now);
		}
		else if (op == 97)
		{
			/* another limit of the request may have found no room */
			slot = limit_slot(&l, now, cost);
			if (slot < FAR_AWAY)
				flr_reserve_room(arena, &l.rule, &l.state, slot, cost);
		}
		else if (op == 99 && changes && chance(30))
		{
			algorithm = (FlrAlgorithm) below(3);
			limit_restart(&l, algorithm);
			waiting.n = 0;
		}
		if (chance(40) && !trace_failed)
			limit_check_record(&l);
	}
	limit_end(&l, HERE(&l, HISTORY));
	limit_free(&l);
}

static void
sliding_trace(void)
{
	one_limit(FLR_SLIDING_WINDOW);
}

static void
bucket_trace(void)
{
	one_limit(FLR_TOKEN_BUCKET);
}

static void
fixed_trace(void)
{
	one_limit(FLR_FIXED_WINDOW);
}

/* ---------- several limits at once ---------- */

typedef struct Several
{
	Limit		l[MAX_LIMITS];
	const FlrRule *rules[MAX_LIMITS];
	const FlrState *states[MAX_LIMITS];
	const Oracle *oracles[MAX_LIMITS];
	int64		offsets[MAX_LIMITS];
	int			n;
} Several;

static bool
all_grant(const Several *s, int64 t, int64 cost)
{
	for (int i = 0; i < s->n; i++)
		if (!oracle_grants(s->oracles[i], s->rules[i], t + s->offsets[i], cost))
			return false;
	return true;
}

/* As all_grant(), asked of the real code by a caller who comes at t */
static bool
all_really_grant(const Several *s, int64 t, int64 cost)
{
	bool		granted = true;

	for (int i = 0; i < s->n; i++)
	{
		FlrState	copy;

		state_clone(&copy, s->states[i]);
		flr_advance(arena, s->rules[i], &copy, t + s->offsets[i]);
		granted &= flr_available(arena, s->rules[i], &copy,
								 t + s->offsets[i]) >= cost;
		flr_record_clear(arena, &copy);
	}
	return granted;
}

static int64
common_slot(const Several *s, int64 from, int64 cost)
{
	int64		slot = flr_common_slot(arena, s->rules, s->states, s->offsets,
									   s->n, from, cost);
	int64		first = oracle_common(s->oracles, s->rules, s->offsets, s->n,
									  from, cost);

	SAY("common slot for " INT64_FORMAT " from " INT64_FORMAT ": "
		INT64_FORMAT, cost, from, slot);
	check(COMMON_GRANTS, (slot == from) == all_grant(s, from, cost),
		  "cost " INT64_FORMAT " at " INT64_FORMAT " must be %s", cost, from,
		  slot == from ? "refused" : "granted");
	check(COMMON_SLOT, same_instant(slot, first), "slot " INT64_FORMAT ", should be "
		  INT64_FORMAT, slot, first);
	if (slot < FAR_AWAY)
	{
		check(COMMON_SLOT, all_really_grant(s, slot, cost),
			  "not granted at the slot " INT64_FORMAT, slot);
		check(COMMON_SLOT, slot == from ||
			  !all_really_grant(s, slot - 1, cost),
			  "granted before the slot " INT64_FORMAT, slot);
		if (slot > from)
		{
			int64		t = from + below(slot - from);

			check(COMMON_SLOT, !all_really_grant(s, t, cost),
				  "granted at " INT64_FORMAT " already", t);
		}
	}
	return slot;
}

static void
several_init(Several *s)
{
	s->n = 1 + (int) below(MAX_LIMITS);
	for (int i = 0; i < s->n; i++)
	{
		Limit	   *l = &s->l[i];

		limit_init(l, (FlrAlgorithm) below(3));
		/* the time of the calendar is far from that of other clocks */
		if (l->rule.algorithm == FLR_FIXED_WINDOW || chance(20))
			l->offset = chance(30) ? 0 : below(2 * FAR_CLOCK) - FAR_CLOCK;
		limit_say(l);
		s->rules[i] = &l->rule;
		s->states[i] = &l->state;
		s->oracles[i] = &l->oracle;
		s->offsets[i] = l->offset;
	}
}

static void
several_end(Several *s)
{
	for (int i = 0; i < s->n; i++)
	{
		Limit	   *l = &s->l[i];

		SAY("history of limit %d", i);
		if (!trace_failed)
			limit_check_record(l);
		limit_end(l, l->rule.algorithm == FLR_TOKEN_BUCKET ? COMMON_BUCKET :
				  COMMON_HISTORY);
	}
	for (int i = 0; i < s->n; i++)
		limit_free(&s->l[i]);
}

/* Spend in all of them; r, if any, is one reservation for each */
static void
several_spend(Several *s, int64 now, int64 slot, int64 cost, Reservation *r)
{
	for (int i = 0; i < s->n; i++)
	{
		SAY("in limit %d:", i);
		limit_spend(&s->l[i], now + s->offsets[i], slot + s->offsets[i],
					cost, false, r ? &r[i] : NULL);
	}
}

static bool
several_beyond(const Several *s, int64 now, int64 slot)
{
	for (int i = 0; i < s->n; i++)
		if (limit_beyond(&s->l[i], now, slot))
			return true;
	return false;
}

static void
several_trace(void)
{
	Several		s;
	Reservation waiting[MAX_WAITING][MAX_LIMITS];
	int			nwaiting = 0;
	int64		now = pick_start();
	int64		steps = pick_steps();
	bool		gives_back = chance(50);
	int			changes = chance(20) ? 5 : 0;

	several_init(&s);
	for (int64 step = 0; step < steps && !trace_failed; step++)
	{
		Limit	   *l = &s.l[below(s.n)];
		int64		cost;
		int64		slot;
		int			op = (int) below(100);

		steps_done++;
		now = limit_pick_time(l, now);
		SAY("now " INT64_FORMAT, now);
		for (int i = 0; i < s.n; i++)
			limit_advance(&s.l[i], now + s.offsets[i]);
		for (int j = nwaiting - 1; j >= 0; j--)
			if (waiting[j][0].slot <= now + s.offsets[0])
				memcpy(waiting[j], waiting[--nwaiting], sizeof(waiting[j]));
		cost = limit_pick_cost(l, now + l->offset);
		if (chance(20))
			limit_look(l, now + l->offset);

		if (op < 50)
		{
			if (common_slot(&s, now, cost) == now && !trace_failed)
				several_spend(&s, now, now, cost, NULL);
		}
		else if (op < 75)
		{
			slot = common_slot(&s, chance(70) ? now :
							   now + below(l->rule.period), cost);
			if (slot < FAR_AWAY && nwaiting < MAX_WAITING &&
				!several_beyond(&s, now, slot) && !trace_failed)
				several_spend(&s, now, slot, cost, waiting[nwaiting++]);
		}
		else if (op < 85 && gives_back && nwaiting > 0)
		{
			int			j = (int) below(nwaiting);

			for (int i = 0; i < s.n; i++)
				limit_cancel(&s.l[i], now + s.offsets[i], &waiting[j][i]);
			memcpy(waiting[j], waiting[--nwaiting], sizeof(waiting[j]));
		}
		else if (op < 92 && gives_back)
			for (int i = 0; i < s.n; i++)
				limit_refund(&s.l[i], now + s.offsets[i], cost);
		else if (op < 92 + changes)
		{
			limit_change(l, now + l->offset);
			limit_advance(l, now + l->offset);
		}
	}
	several_end(&s);
}

const Group groups[] = {
	{"sliding window", sliding_trace, 4000},
	{"token bucket", bucket_trace, 2000},
	{"fixed window", fixed_trace, 1500},
	{"several limits", several_trace, 1500},
	{"no memory", full_trace, 1000},
	{"no memory, steps", full_step_trace, 100},
	{"large record", large_trace, 10},
	{"flood", flood_trace, 1},
	{"shared", shared_trace, 1},
	{"hash", spread_trace, 1},
	{"saved", saved_trace, 500},
};

const int	ngroups = lengthof(groups);
