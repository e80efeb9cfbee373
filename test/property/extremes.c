/*-------------------------------------------------------------------------
 *
 * extremes.c
 *	  Traces with very many runs, and traces without memory.
 *
 * Here the record knows less than was spent; it must err on the safe side.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "property.h"

/* ---------- more runs than are kept exactly ---------- */

/* The exact ones, and one in each step of all that is kept */
#define MAX_RUNS(rule) \
	(FLR_EXACT_RUNS * (1 + (rule)->retention / (rule)->period) + 2)

void
large_trace(void)
{
	static const int64 periods[] = {
		8193, 50000, 1000007, 10000000, 60000000, 3600000000, 86400000000
	};
	Limit		l;
	FlrRule    *r = &l.rule;
	Waiting		waiting = {0};
	int64		now = pick_start();
	int64		late;
	int64		fill;
	bool		reserves = chance(50);
	Promise		promise = reserves ? LARGE_RESERVED : LARGE_NEVER_MORE;

	limit_init(&l, FLR_SLIDING_WINDOW);
	flr_rule_set_period(r, periods[below(lengthof(periods))]);
	if (chance(20))
		r->retention *= 2;
	r->max_requests = FLR_EXACT_RUNS + 50 + below(chance(50) ? 100 : 8000);
	limit_say(&l);
	late = r->period / FLR_EXACT_RUNS;

	/* as many as are kept exactly */
	fill = 1 + below(r->period / (FLR_EXACT_RUNS + 100));
	SAY("spend 1, %d times, " INT64_FORMAT " apart, from " INT64_FORMAT,
		FLR_EXACT_RUNS, fill, now);
	for (int i = 0; i < FLR_EXACT_RUNS; i++)
	{
		FlrDebt		debt;

		now += fill;
		limit_advance(&l, now);
		flr_spend(arena, r, &l.state, now, now, 1, false, &debt);
		limit_log(&l, now, 1, 0);
	}
	check(LARGE_EXACT, l.state.nruns == FLR_EXACT_RUNS,
		  "%u runs", l.state.nruns);
	check(LARGE_EXACT, flr_available(arena, r, &l.state, now) ==
		  oracle_available(&l.oracle, r, now), "available is not exact");
	limit_check_record(&l);
	l.exact = false;

	for (int i = 0; i < 250 && !trace_failed; i++)
	{
		int64		cost = chance(90) ? 1 : limit_pick_cost(&l, now);
		int64		from;
		int64		slot;
		int			op = (int) below(100);

		/* stay where there are many: at a slot, or a step further */
		steps_done++;
		if (chance(2))
			now = limit_pick_time(&l, now);
		else if (chance(20))
		{
			slot = flr_slot(arena, r, &l.state, now, cost);
			if (slot > now && slot < now + r->period)
				now = Max(now, slot - 1) + below(2);
		}
		else
			now += below(late + 2) / (1 + below(8));
		SAY("now " INT64_FORMAT, now);
		limit_advance(&l, now);
		forget_served(&waiting, now);

		from = now;
		if (reserves && op >= 60 && chance(70))
			from += below(chance(50) ? 2 * late + 2 : r->period);
		slot = flr_slot(arena, r, &l.state, from, cost);
		SAY("slot for " INT64_FORMAT " from " INT64_FORMAT ": " INT64_FORMAT,
			cost, from, slot);
		if (slot != FLR_NEVER)
		{
			check(promise, oracle_grants(&l.oracle, r, slot, cost),
				  "granted " INT64_FORMAT " at " INT64_FORMAT, cost, slot);
			if (!reserves)
				check(LARGE_LATENESS, slot <= from + late ||
					  !oracle_grants(&l.oracle, r, slot - late - 1, cost),
					  "slot " INT64_FORMAT " is too late", slot);
		}
		if (trace_failed || slot == FLR_NEVER)
			continue;
		if (op < 30)
			limit_take(&l, now, cost);
		else if (op < 60 && slot == now)
			limit_spend(&l, now, now, cost, false, NULL);
		else if (op < 80 && reserves && waiting.n < MAX_WAITING)
			limit_spend(&l, now, slot, cost, false,
						&waiting.list[waiting.n++]);
		else if (op < 90)
			cancel_any(&l, &waiting, now);
		else if (op >= 97)
			limit_refund(&l, now, cost);
		if (!reserves)
			check(LARGE_MEMORY, l.state.nruns <= MAX_RUNS(r),
				  "%u runs", l.state.nruns);
	}
	if (!trace_failed)
		limit_check_record(&l);
	limit_end(&l, promise);
	limit_free(&l);
}

/* However fast it goes, there are only so many runs */
void
flood_trace(void)
{
	FlrRule		rule = {.algorithm = FLR_SLIDING_WINDOW};
	FlrState	state;
	FlrDebt		debt;
	int64		remaining;
	int64		now = pick_start();

	rule.max_requests = PG_INT64_MAX;
	flr_rule_set_period(&rule, 10000 + below(chance(50) ? 100000 :
											INT64CONST(1) << 40));
	flr_state_init(&state);
	for (int i = 0; i < 30000; i++)
	{
		steps_done++;
		now += below(rule.period / 10000) + 1;
		flr_advance(arena, &rule, &state, now);
		if (chance(50))
			flr_spend(arena, &rule, &state, now, now, 1 + below(2), false,
					  &debt);
		else
			flr_take(arena, &rule, &state, now, 1, &remaining);
		check(LARGE_MEMORY, state.nruns <= MAX_RUNS(&rule),
			  "%u runs for period " INT64_FORMAT, state.nruns, rule.period);
	}
	flr_record_clear(arena, &state);
}

/* ---------- rules of several periods that share a record ---------- */

#define MAX_SHARING		4
#define SHARED_SPENDINGS	100000

/* What was spent, in the order of time: when, and how much up to then */
static int64 shared_times[SHARED_SPENDINGS];
static int64 shared_sums[SHARED_SPENDINGS + 1];
static int	nshared;

/* The cost of all that was spent after a time */
static int64
spent_after(int64 time)
{
	int			low = 0;
	int			high = nshared;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (shared_times[middle] > time)
			high = middle;
		else
			low = middle + 1;
	}
	return shared_sums[nshared] - shared_sums[low];
}

/* At most so many runs: young ones, those that have come since, and one a step */
static uint32
max_shared_runs(const FlrRule *rule)
{
	uint32		runs = 4 * FLR_EXACT_RUNS + FLR_EXACT_RUNS / 8 + 16;

	/* steps are rounded down to a power of two: up to twice as many */
	for (int64 age = rule->shortest; age < rule->second; age *= 2)
		runs += FLR_EXACT_RUNS;
	return runs;
}

/* Compare what is in use by a rule with what was spent, at a time from now on */
static void
look_at_shared(const FlrRule *rule, const FlrState *state, int64 at)
{
	int64		used = flr_used(arena, rule, state, at);
	int64		spent = spent_after(at - rule->period);
	int64		late = spent_after(at - rule->period -
								   rule->period / FLR_EXACT_RUNS);

	check(SHARED_NEVER_EARLY, used >= spent,
		  "in use " INT64_FORMAT ", spent " INT64_FORMAT ", period "
		  INT64_FORMAT, used, spent, rule->period);
	check(SHARED_LATENESS, used <= late,
		  "in use " INT64_FORMAT ", spent at most " INT64_FORMAT ", period "
		  INT64_FORMAT, used, late, rule->period);
	if (nshared <= FLR_EXACT_RUNS)
		check(SHARED_EXACT, used == spent, "in use " INT64_FORMAT ", spent "
			  INT64_FORMAT ", period " INT64_FORMAT, used, spent, rule->period);
}

/* Several rules spend in turns, quickly, slowly, and after pauses */
void
shared_trace(void)
{
	FlrRule		rules[MAX_SHARING];
	FlrState	state;
	int			n = 2 + (int) below(MAX_SHARING - 1);
	int64		now = pick_start();
	int64		period = 5000 + below(chance(50) ? 100000 : INT64CONST(1) << 30);
	int64		pace = 1;
	int			spender = 0;
	int64		cost_limit = chance(20) ? INT64CONST(1) << 32 : 3;
	bool		steady = chance(30);

	memset(rules, 0, sizeof(rules));
	for (int i = 0; i < n; i++)
	{
		rules[i].algorithm = FLR_SLIDING_WINDOW;
		rules[i].max_requests = PG_INT64_MAX;
		flr_rule_set_period(&rules[i], period);
		SAY("period " INT64_FORMAT, period);
		if (chance(90))
			period += below(period * (chance(50) ? 2 : 50));
	}
	for (int i = 0; i < n; i++)
		for (int j = 0; j < n; j++)
			flr_rule_share(&rules[i], &rules[j]);
	flr_state_init(&state);
	nshared = 0;
	while (nshared < SHARED_SPENDINGS && !trace_failed)
	{
		const FlrRule *rule;
		int64		cost = 1 + below(cost_limit);
		int64		remaining;
		FlrDebt		debt;

		steps_done++;
		if (nshared % 1000 == 0)
		{
			spender = (int) below(n);
			pace = rules[steady ? 0 : below(n)].period / (1000 + below(9000));
			if (chance(steady ? 1 : 10))
				now += below(rules[below(n)].period * 2);
		}
		rule = &rules[chance(95) ? spender : below(n)];
		now += below(2 * pace + 1);
		flr_advance(arena, rule, &state, now);
		if (chance(50))
			flr_spend(arena, rule, &state, now, now, cost, false, &debt);
		else
			flr_take(arena, rule, &state, now, cost, &remaining);
		shared_times[nshared] = now;
		shared_sums[nshared + 1] = shared_sums[nshared] + cost;
		nshared++;
		check(SHARED_MEMORY, state.nruns <= max_shared_runs(rule),
			  "%u runs, not more than %u", state.nruns, max_shared_runs(rule));
		check(SHARED_MEMORY, blocks.ntaken <=
			  (int) (state.nruns / (flr_is_wide(&state) ? FLR_CHAIN_WIDE :
									FLR_CHAIN_NARROW)) + 3,
			  "%d blocks for %u runs", blocks.ntaken, state.nruns);
		if (nshared % 97 == 0)
			for (int i = 0; i < n; i++)
				look_at_shared(&rules[i], &state, now +
							   (chance(50) ? 0 : below(rules[i].period)));
	}
	flr_record_clear(arena, &state);
}

/* ---------- no memory ---------- */

/* Is the record what it was, plus cost at time (cost 0: unchanged)? */
static bool
grown_by(const Limit *l, const Spending *before, int n, int64 time, int64 cost)
{
	Spending   *now;
	int			nnow = limit_dump(l, &now);
	int			j = 0;

	for (int i = 0; i < nnow; i++)
	{
		int64		expected = 0;

		if (j < n && before[j].time == now[i].time)
			expected = before[j++].cost;
		if (now[i].time == time)
		{
			expected += cost;
			cost = 0;
		}
		if (expected != now[i].cost)
			return false;
	}
	return j == n && cost == 0;
}

/*
 * Spend while there may be no memory.  First look for room, as callers do; who
 * was promised room needs no block any more, and who was not may merge.
 */
void
spend_without_memory(Limit *l, int64 now, int64 slot, int64 cost,
					 int refusals, Waiting *waiting)
{
	const FlrRule *r = &l->rule;
	Reservation *reservation = NULL;
	Spending   *before;
	Spending   *list;
	int			n = limit_dump(l, &list);
	int64		time = slot;
	int64		end;
	bool		room;
	bool		merge;
	bool		merges;

	if (slot > now)
		reservation = &waiting->list[waiting->n];
	if (r->algorithm == FLR_FIXED_WINDOW)
		oracle_window(r, slot, &time, &end);
	before = malloc((n + 1) * sizeof(Spending));
	if (before == NULL)
		abort();
	memcpy(before, list, n * sizeof(Spending));

	blocks.refusals = refusals;
	room = flr_reserve_room(arena, r, &l->state, slot, cost);
	SAY("room: %s", room ? "yes" : "no");
	check(FULL_UNCHANGED, grown_by(l, before, n, 0, 0),
		  "to look for room has changed the record");
	blocks.refusals = 100;
	merge = chance(70);
	merges = merge && flr_can_merge(arena, r, &l->state, now, slot, cost);

	if (!room && chance(30))
		SAY("goes away");
	else if (limit_spend(l, now, slot, cost, merge, reservation))
	{
		bool		exactly = grown_by(l, before, n, time, cost);

		if (room)
			check(FULL_ROOM, exactly, "the record has not grown by ("
				  INT64_FORMAT ", " INT64_FORMAT ")", time, cost);
		if (!exactly)
		{
			check(FULL_MERGE, merges, "merged, although no run can take it");
			l->exact = false;
		}
		if (reservation)
			waiting->n++;
	}
	else
	{
		check(FULL_ROOM, !room, "not spent, although there is room");
		check(FULL_MERGE, !merges,
			  "not spent, although a run can take it");
		check(FULL_MERGE, grown_by(l, before, n, 0, 0),
			  "not spent, but the record has changed");
	}
	blocks.refusals = 0;
	free(before);
}

void
full_trace(void)
{
	Limit		l;
	FlrRule    *r = &l.rule;
	Waiting		waiting = {0};
	int64		now = pick_start();
	int64		steps = 10 + below(chance(80) ? 30 : 200);
	int			refusals = chance(30) ? 100 : 30 + (int) below(60);
	bool		reserves = chance(50);
	bool		bulky = chance(20);
	Promise		promise = reserves ? FULL_RESERVED : FULL_NEVER_MORE;

	limit_init(&l, chance(70) ? FLR_SLIDING_WINDOW : FLR_FIXED_WINDOW);
	if (bulky)
		r->max_requests = INT64CONST(1) << 40;
	else if (chance(80))
		r->max_requests = 8 + below(60);
	if (chance(80) && r->period < 100)
		flr_rule_set_period(r, 100 + below(1000000));
	limit_say(&l);

	for (int64 i = 0; i < steps && !trace_failed; i++)
	{
		int64		cost = chance(70) ? 1 : limit_pick_cost(&l, now);
		int64		from;
		int64		slot;
		int			op = (int) below(100);

		/* around what a narrow run can hold */
		if (bulky && chance(5))
			cost = (INT64CONST(1) << (chance(50) ? 31 : 32)) - below(3);
		steps_done++;
		if (bulky && chance(80))
			now += 1 + below(r->period / 64);	/* let many runs gather */
		else
			now = limit_pick_time(&l, now);
		SAY("now " INT64_FORMAT, now);
		limit_advance(&l, now);
		forget_served(&waiting, now);

		if (op < 5)
			limit_refund(&l, now, cost);
		else if (op < 15)
			cancel_any(&l, &waiting, now);
		else
		{
			from = reserves && chance(40) ? pick_from(&l, now) : now;
			slot = flr_slot(arena, r, &l.state, from, cost);
			SAY("slot for " INT64_FORMAT " from " INT64_FORMAT ": "
				INT64_FORMAT, cost, from, slot);
			if (slot != FLR_NEVER)
				check(promise, oracle_grants(&l.oracle, r, slot, cost),
					  "granted " INT64_FORMAT " at " INT64_FORMAT, cost, slot);
			if (!trace_failed &&
				(slot == now || (slot != FLR_NEVER && reserves &&
								 waiting.n < MAX_WAITING)))
				spend_without_memory(&l, now, slot, cost, refusals, &waiting);
		}
		if (chance(30))
			limit_check_record(&l);
	}
	limit_end(&l, promise);
	limit_free(&l);
}

/*
 * Spending that joins a step that it does not fit into, with no memory to make it
 * fit: where room was found it is recorded all the same.
 */
void
full_step_trace(void)
{
	FlrRule		rule = {.algorithm = FLR_SLIDING_WINDOW};
	FlrState	state;
	int64		step;
	int64		now = pick_start();

	rule.max_requests = INT64CONST(1) << (40 + below(20));
	flr_rule_set_period(&rule, FLR_EXACT_RUNS *
						(2 + below(INT64CONST(1) << 20)));
	step = rule.period / FLR_EXACT_RUNS;
	flr_state_init(&state);
	while (state.nruns < FLR_EXACT_RUNS)
	{
		FlrDebt		debt;

		now += step / 2 + 1;
		if (!flr_spend(arena, &rule, &state, now, now, 1, false, &debt))
			abort();
	}
	blocks.refusals = chance(50) ? 100 : 90;
	for (int i = 0; i < 20; i++)
	{
		int64		cost = (INT64CONST(1) << (29 + below(4))) - below(3);
		uint64		total;
		bool		room;
		bool		spent;
		FlrDebt		debt;

		steps_done++;
		now += below(step / 20 + 2);
		flr_advance(arena, &rule, &state, now);
		total = state.total;
		if (cost > flr_available(arena, &rule, &state, now))
			continue;
		room = flr_reserve_room(arena, &rule, &state, now, cost);
		SAY("now " INT64_FORMAT ", cost " INT64_FORMAT ", room: %s", now, cost,
			room ? "yes" : "no");
		if (!room)
			continue;
		spent = flr_spend(arena, &rule, &state, now, now, cost, chance(50),
						  &debt);
		check(FULL_ROOM, spent, "not spent, although there is room");
		check(FULL_ROOM, state.total == total + (uint64) cost,
			  "recorded " UINT64_FORMAT " of " INT64_FORMAT,
			  state.total - total, cost);
	}
	blocks.refusals = 0;
	flr_record_clear(arena, &state);
}
