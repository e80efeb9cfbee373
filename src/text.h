/*-------------------------------------------------------------------------
 *
 * text.h
 *	  Reading the texts that a request is made of.
 *
 * Like algorithm.h this knows nothing of memory contexts, catalogs or errors,
 * and compiles into a plain C program.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_TEXT_H
#define FLR_TEXT_H

/* for this library only */
#pragma GCC visibility push(hidden)

/* The longest name, scope, api and plan, in bytes. */
#define FLR_MAX_NAME	63

/* Where a trigger finds the key, as its third argument says. */
typedef enum FlrKeySource
{
	FLR_KEY_FROM_COLUMN,
	FLR_KEY_FROM_SETTING,
	FLR_KEY_FROM_ROLE,
	FLR_KEY_FROM_NOWHERE		/* it does not say */
} FlrKeySource;

/* A piece of text, as an argument brings it. */
typedef struct FlrText
{
	const char *data;
	int			size;
} FlrText;

/*
 * Are these the same bytes?  No text and an empty one count as the same.
 * Names and keys are short, so two words that may overlap are the usual case.
 */
static inline bool
flr_same_text(const FlrText *a, const FlrText *b)
{
	size_t		size = a->size;
	const char *x = a->data;
	const char *y = b->data;

	if (a->size != b->size)
		return false;
	if (size >= sizeof(uint64) && size <= 2 * sizeof(uint64))
	{
		size_t		second = size - sizeof(uint64);
		uint64		words[4];

		memcpy(&words[0], x, sizeof(uint64));
		memcpy(&words[1], y, sizeof(uint64));
		memcpy(&words[2], x + second, sizeof(uint64));
		memcpy(&words[3], y + second, sizeof(uint64));
		return ((words[0] ^ words[1]) | (words[2] ^ words[3])) == 0;
	}
	if (size >= sizeof(uint32) && size < sizeof(uint64))
	{
		size_t		second = size - sizeof(uint32);
		uint32		words[4];

		memcpy(&words[0], x, sizeof(uint32));
		memcpy(&words[1], y, sizeof(uint32));
		memcpy(&words[2], x + second, sizeof(uint32));
		memcpy(&words[3], y + second, sizeof(uint32));
		return ((words[0] ^ words[1]) | (words[2] ^ words[3])) == 0;
	}
	if (size < sizeof(uint32))
		return size == 0 || (x[0] == y[0] && x[size / 2] == y[size / 2] &&
							 x[size - 1] == y[size - 1]);
	return memcmp(x, y, size) == 0;
}

/* Does a C string equal an argument? */
static inline bool
flr_text_equals(const char *string, FlrText text)
{
	return strncmp(string, text.data, text.size) == 0 &&
		string[text.size] == '\0';
}

extern bool flr_is_name(FlrText text);
extern int	flr_clip_key(FlrText key, int limit);
extern FlrKeySource flr_key_source(const char *argument, const char **name);

#pragma GCC visibility pop

#endif							/* FLR_TEXT_H */
