/*-------------------------------------------------------------------------
 *
 * text.c
 *	  Reading the texts that a request is made of.
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

#include "mb/pg_wchar.h"

#include "text.h"

/* Can this be a scope, an api or a plan? */
bool
flr_is_name(FlrText text)
{
	bool		valid = text.size > 0 && text.size <= FLR_MAX_NAME;

	for (int i = 0; valid && i < text.size; i++)
		valid = text.data[i] >= ' ' && text.data[i] <= '~' &&
			text.data[i] != '"' && text.data[i] != '\\';
	return valid;
}

/* How many bytes of a key are kept: whole characters, at most limit bytes. */
int
flr_clip_key(FlrText key, int limit)
{
	return key.size <= limit ? key.size :
		pg_mbcliplen(key.data, key.size, limit);
}

/* If a string begins with a prefix, what follows; else NULL. */
static const char *
after_prefix(const char *string, const char *prefix)
{
	size_t		size = strlen(prefix);

	return strncmp(string, prefix, size) == 0 ? string + size : NULL;
}

/*
 * Read the third argument of fl_rate_trigger(); *name is that of the column
 * or the setting.
 */
FlrKeySource
flr_key_source(const char *argument, const char **name)
{
	if ((*name = after_prefix(argument, "column:")) != NULL)
		return FLR_KEY_FROM_COLUMN;
	if ((*name = after_prefix(argument, "setting:")) != NULL)
		return FLR_KEY_FROM_SETTING;
	if (strcmp(argument, "role") == 0)
		return FLR_KEY_FROM_ROLE;
	return FLR_KEY_FROM_NOWHERE;
}
