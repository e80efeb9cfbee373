/*-------------------------------------------------------------------------
 *
 * spread.c
 *	  Keys of an adversary's choice, through src/hash.h.
 *
 * A counter is found by a hash of its key: some of its bits choose the stripe,
 * and so the lock, others the page and the tag within the stripe.  Whoever
 * could choose keys that meet there could slow everybody else down.  So sets
 * of keys with a structure, of which a weak hash would keep something, have to
 * spread as evenly as if each had been drawn by lot, and not more evenly
 * either; and where they fall has to depend on the secret.
 *
 * The measure is Pearson's chi-squared over 256 classes.  It may not leave
 * bounds that 255 degrees of freedom leave with a probability below exp(-24),
 * or 4e-11, on either side.  Source: B. Laurent and P. Massart, "Adaptive
 * estimation of a quadratic functional by model selection", 2000, lemma 1:
 *
 *		P(X - k >= 2 sqrt(k x) + 2 x) <= exp(-x)
 *		P(k - X >= 2 sqrt(k x)) <= exp(-x)
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "property.h"
#include "hash.h"

#define NUM_CLASSES	256
#define NUM_KEYS	100000
#define NUM_CHOSEN	4096		/* keys chosen to meet in one stripe */
#define KEY_SIZE	56

/* k = 255, x = 24: 2 sqrt(k x) = 156.5 */
#define LEAST_CHI_SQUARED	(255 - 157)
#define MOST_CHI_SQUARED	(255 + 157 + 48)

/* Sets of keys: the number-th key, its size is returned. */
typedef int (*MakeKey) (char *key, int number);

/* 0, 1, 2, ...: what bigint keys look like */
static int
sequential_key(char *key, int number)
{
	return sprintf(key, "%d", number);
}

/* A long beginning in common, which ends where the hash begins a new word */
static int
same_prefix_key(char *key, int number)
{
	return sprintf(key, "organisation/0123456789/user/000000000000/%d", number);
}

/* A long end in common */
static int
same_suffix_key(char *key, int number)
{
	return sprintf(key, "%06d@users.of.one.organisation.example.com", number);
}

/* Both, with the difference in one byte of the middle and one near the end */
static int
same_around_key(char *key, int number)
{
	memset(key, 'a', KEY_SIZE);
	key[20] = (char) (number & 255);
	key[21] = (char) (number >> 8 & 255);
	key[KEY_SIZE - 2] = (char) (number >> 16);
	return KEY_SIZE;
}

/* Each differs in one bit from the one before it: a Gray code */
static int
gray_key(char *key, int number)
{
	int			gray = number ^ (number >> 1);

	memset(key, 'a', KEY_SIZE);
	for (int bit = 0; bit < 17; bit++)
		if ((gray >> bit) & 1)
			key[3 * bit] ^= (char) (1 << (bit % 8));
	return KEY_SIZE;
}

/* All that differ from one key in one bit or in two */
static int
near_key(char *key, int number)
{
	int			first = 0;
	int			others = 8 * KEY_SIZE;

	memset(key, 'a', KEY_SIZE);
	while (number >= others)
	{
		number -= others--;
		first++;
	}
	/* one bit where both are the same */
	key[first / 8] ^= (char) (1 << (first % 8));
	if (number > 0)
		key[(first + number) / 8] ^= (char) (1 << ((first + number) % 8));
	return KEY_SIZE;
}

StaticAssertDecl(8 * KEY_SIZE * (8 * KEY_SIZE + 1) / 2 >= NUM_KEYS,
				 "there are as many near keys");

static const struct
{
	const char *name;
	MakeKey		make;
}			sets[] = {
	{"sequential", sequential_key},
	{"a common prefix", same_prefix_key},
	{"a common suffix", same_suffix_key},
	{"a common prefix and suffix", same_around_key},
	{"one bit from the one before", gray_key},
	{"one or two bits from one key", near_key},
};

/* What a hash decides; see flr_stripe_of(), flr_page_of() and flr_tag_of() */
typedef enum Part
{
	STRIPE,
	PAGE,
	TAG,
	NUM_PARTS
} Part;

static const char *const part_names[] = {"stripe", "page", "tag"};

static int
part_of(FlrHash hash, Part part)
{
	switch (part)
	{
		case STRIPE:
			return (int) ((uint32) hash.lo % NUM_CLASSES);
		case PAGE:
			return (int) (hash.hi % NUM_CLASSES);
		default:
			return (int) (hash.hi >> 56);
	}
}

/* The hash of a scope's key, as copy.h makes it */
static FlrHash
subject_of(FlrHash secret, const char *key, int size)
{
	return flr_siphash(flr_siphash(secret, "user", 4), key, size);
}

static FlrHash
pick_secret(void)
{
	FlrHash		secret;

	secret.lo = random_bits();
	secret.hi = random_bits();
	return secret;
}

/* The same but for one bit */
static FlrHash
change_secret(FlrHash secret)
{
	uint64		bit = UINT64CONST(1) << below(64);

	if (chance(50))
		secret.lo ^= bit;
	else
		secret.hi ^= bit;
	return secret;
}

/* Are so many things in those classes as by lot? */
static void
check_spread(Promise promise, const int *counts, int n, const char *what,
			 const char *where)
{
	double		expected = (double) n / NUM_CLASSES;
	double		chi_squared = 0;

	for (int i = 0; i < NUM_CLASSES; i++)
		chi_squared += (counts[i] - expected) * (counts[i] - expected) / expected;
	steps_done++;
	SAY("%s, %s: chi-squared %.1f", what, where, chi_squared);
	check(promise, chi_squared >= LEAST_CHI_SQUARED &&
		  chi_squared <= MOST_CHI_SQUARED,
		  "%s: the %s has chi-squared %.1f", what, where, chi_squared);
}

/* Keys that were chosen, knowing one secret, to meet in one stripe */
static void
check_chosen(FlrHash known, FlrHash other)
{
	int			counts[NUM_CLASSES] = {0};
	int			stripe = (int) below(NUM_CLASSES);
	int			n = 0;

	for (int i = 0; n < NUM_CHOSEN; i++)
	{
		char		key[KEY_SIZE];
		int			size = sequential_key(key, i);

		if (part_of(subject_of(known, key, size), STRIPE) != stripe)
			continue;
		counts[part_of(subject_of(other, key, size), STRIPE)]++;
		n++;
	}
	check_spread(HASH_SECRET, counts, n, "keys chosen for one stripe",
				 "stripe under another secret");
}

/* One secret, all sets of keys */
void
spread_trace(void)
{
	FlrHash		secret = pick_secret();
	FlrHash		other = change_secret(secret);

	SAY("secrets " UINT64_FORMAT " " UINT64_FORMAT ", "
		UINT64_FORMAT " " UINT64_FORMAT,
		secret.lo, secret.hi, other.lo, other.hi);
	for (int s = 0; s < (int) lengthof(sets); s++)
	{
		int			counts[NUM_PARTS][NUM_CLASSES] = {{0}};
		int			moved[NUM_CLASSES] = {0};

		for (int i = 0; i < NUM_KEYS; i++)
		{
			char		key[KEY_SIZE + 1];
			int			size = sets[s].make(key, i);
			FlrHash		hash = subject_of(secret, key, size);
			FlrHash		elsewhere = subject_of(other, key, size);

			for (int part = 0; part < NUM_PARTS; part++)
				counts[part][part_of(hash, part)]++;
			moved[(part_of(elsewhere, STRIPE) - part_of(hash, STRIPE) +
				   NUM_CLASSES) % NUM_CLASSES]++;
		}
		for (int part = 0; part < NUM_PARTS; part++)
			check_spread(HASH_SPREAD, counts[part], NUM_KEYS, sets[s].name,
						 part_names[part]);
		check_spread(HASH_SECRET, moved, NUM_KEYS, sets[s].name,
					 "way to the stripe under another secret");
	}
	check_chosen(secret, other);
}
