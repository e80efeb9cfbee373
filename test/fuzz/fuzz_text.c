/*-------------------------------------------------------------------------
 *
 * fuzz_text.c
 *	  The readers of text: src/text.c, src/text.h and src/hash.h.
 *
 * Every text lies in memory of exactly its size, so that the address
 * sanitizer sees who reads a byte too many; what is answered is compared with
 * the definition.
 *
 * The input: what to do, a number, then the bytes of the text or texts.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "mb/pg_wchar.h"

#include "fuzz.h"
#include "hash.h"
#include "text.h"

/* What is kept of a key, see store.h */
#define KEY_SIZE 64

#define REQUIRE(condition) \
	do { \
		if (!(condition)) \
		{ \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, \
					#condition); \
			abort(); \
		} \
	} while (0)

/* A copy in memory of its own; of nothing, no memory at all */
static FlrText
text_from(const uint8_t *data, size_t size)
{
	FlrText		text = {NULL, (int) size};

	if (size > 0)
	{
		char	   *copy = malloc(size);

		if (copy == NULL)
			abort();
		memcpy(copy, data, size);
		text.data = copy;
	}
	return text;
}

static void
text_free(FlrText text)
{
	free(unconstify(char *, text.data));
}

/* ---------- flr_same_text() ---------- */

/* Is it the same as itself, and not when the byte at "number" is another? */
static void
compare_changed(int number, const uint8_t *data, size_t size)
{
	FlrText		a = text_from(data, size);
	FlrText		b = text_from(data, size);

	REQUIRE(flr_same_text(&a, &b));
	if (size > 0)
	{
		unconstify(char *, b.data)[number % size] ^= 1 << number % 8;
		REQUIRE(!flr_same_text(&a, &b) && !flr_same_text(&b, &a));
	}
	text_free(a);
	text_free(b);
}

/* Any two texts: what memcmp() says */
static void
compare_any(int number, const uint8_t *data, size_t size)
{
	size_t		split = number % (size + 1);
	FlrText		a = text_from(data, split);
	FlrText		b = text_from(data + split, size - split);
	bool		same = a.size == b.size &&
	(a.size == 0 || memcmp(a.data, b.data, a.size) == 0);

	REQUIRE(flr_same_text(&a, &b) == same);
	REQUIRE(flr_same_text(&b, &a) == same);
	text_free(a);
	text_free(b);
}

/* ---------- flr_siphash() ---------- */

/* The same wherever the bytes are and whatever is around them */
static void
hash(int number, const uint8_t *data, size_t size)
{
	FlrHash		key = {UINT64CONST(0x0123456789abcdef) * number, ~(uint64) number};
	FlrText		text = text_from(data, size);
	FlrHash		alone = flr_siphash(key, size > 0 ? text.data : "", size);
	FlrHash		among;
	char	   *wide = malloc(size + 32);

	if (wide == NULL)
		abort();
	for (int offset = 0; offset < 8; offset++)
	{
		memset(wide, 0xA7 + offset, size + 32);
		if (size > 0)
			memcpy(wide + offset, data, size);
		among = flr_siphash(key, wide + offset, size);
		REQUIRE(among.lo == alone.lo && among.hi == alone.hi);
	}

	/* a byte, the length and the key all count */
	if (size > 0)
	{
		unconstify(char *, text.data)[number % size] ^= 1 << number % 8;
		among = flr_siphash(key, text.data, size);
		REQUIRE(among.lo != alone.lo && among.hi != alone.hi);
		among = flr_siphash(key, data, size - 1);
		REQUIRE(among.lo != alone.lo && among.hi != alone.hi);
	}
	key.hi ^= 1;
	among = flr_siphash(key, data, size);
	REQUIRE(among.lo != alone.lo && among.hi != alone.hi);
	free(wide);
	text_free(text);
}

/* ---------- flr_is_name() ---------- */

static void
name(int number, const uint8_t *data, size_t size)
{
	static const char allowed[] = " !#$%&'()*+,-./0123456789:;<=>?@"
	"ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijklmnopqrstuvwxyz{|}~";
	FlrText		text = text_from(data, size);
	bool		valid = size >= 1 && size <= 63;

	for (size_t i = 0; i < size; i++)
		valid &= memchr(allowed, data[i], sizeof(allowed) - 1) != NULL;
	REQUIRE(flr_is_name(text) == valid);
	text_free(text);
}

/* ---------- flr_clip_key() ---------- */

static int	encoding;

/* The server's function, which no library contains, on the parts that one does */
int
pg_mbcliplen(const char *mbstr, int len, int limit)
{
	int			size = 0;

	while (size < len && mbstr[size] != '\0')
	{
		int			n = pg_encoding_mblen(encoding, mbstr + size);

		if (size + n > limit)
			break;
		size += n;
		if (size == limit)
			break;
	}
	return size;
}

/*
 * Keys that do not end in a half character, as the server guarantees for
 * them: whole characters are kept, as many as fit
 */
static void
clip(int number, const uint8_t *data, size_t size)
{
	FlrText		key;
	int			kept;
	int			at = 0;
	size_t		whole = 0;

	encoding = number % (PG_ENCODING_BE_LAST + 1);
	while (whole < size && data[whole] != 0)
	{
		int			n;

		/* GB18030 looks at the second byte */
		if (whole + 1 == size && IS_HIGHBIT_SET(data[whole]))
			break;
		n = pg_encoding_mblen(encoding, (const char *) data + whole);
		if (whole + n > size)
			break;
		whole += n;
	}
	key = text_from(data, whole);
	kept = flr_clip_key(key, KEY_SIZE);
	REQUIRE(kept >= 0 && kept <= key.size && kept <= KEY_SIZE);
	while (at < kept)
		at += pg_encoding_mblen(encoding, key.data + at);
	REQUIRE(at == kept);
	REQUIRE(kept == key.size ||
			kept + pg_encoding_mblen(encoding, key.data + kept) > KEY_SIZE);
	text_free(key);
}

/* ---------- flr_key_source() ---------- */

static void
key_source(int number, const uint8_t *data, size_t size)
{
	char	   *argument = malloc(size + 1);
	const char *found = NULL;
	FlrKeySource source;

	if (argument == NULL)
		abort();
	if (size > 0)
		memcpy(argument, data, size);
	argument[size] = '\0';
	source = flr_key_source(argument, &found);
	size = strlen(argument);
	if (size >= 7 && memcmp(argument, "column:", 7) == 0)
		REQUIRE(source == FLR_KEY_FROM_COLUMN && found == argument + 7);
	else if (size >= 8 && memcmp(argument, "setting:", 8) == 0)
		REQUIRE(source == FLR_KEY_FROM_SETTING && found == argument + 8);
	else if (size == 4 && memcmp(argument, "role", 4) == 0)
		REQUIRE(source == FLR_KEY_FROM_ROLE);
	else
		REQUIRE(source == FLR_KEY_FROM_NOWHERE);
	free(argument);
}

/* ---------- one run ---------- */

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const parts[]) (int number, const uint8_t *data, size_t size) = {
		compare_changed, compare_any, hash, name, clip, key_source
	};

	if (size >= 2)
		parts[data[0] % lengthof(parts)] (data[1], data + 2, size - 2);
	return 0;
}
