/*-------------------------------------------------------------------------
 *
 * clock.c
 *	  LD_PRELOAD library that moves the server's clocks, and stalls a process
 *	  that has just read one.
 *
 * What to do stands in the file that FLR_SHIM_FILE names, an FlrClocks; the
 * test writes it, and it takes effect at once.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE

#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

typedef struct FlrClocks
{
	int64_t		wall;			/* microseconds by which it is ahead */
	int64_t		elapsed;		/* the same for CLOCK_BOOTTIME */
	int64_t		stall;			/* the process that stalls once it has read
								 * CLOCK_BOOTTIME, until this is another */
	int64_t		stalled;		/* written here: the process that does */
} FlrClocks;

/* The function that ours stands in front of */
#define NEXT(function)	((__typeof__(&function)) dlsym(RTLD_NEXT, #function))

/* Map the file, once; NULL when there is none. */
static volatile FlrClocks *
clocks(void)
{
	static volatile FlrClocks *mapped = NULL;
	const char *path = getenv("FLR_SHIM_FILE");
	int			fd;

	if (mapped != NULL || path == NULL)
		return mapped;
	fd = open(path, O_RDWR);
	if (fd >= 0)
	{
		void	   *address = mmap(NULL, sizeof(FlrClocks),
								   PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

		if (address != MAP_FAILED)
			mapped = address;
		close(fd);
	}
	return mapped;
}

/* Add microseconds, which may be negative, to a time. */
static void
add(struct timespec *time, int64_t microseconds)
{
	int64_t		nanoseconds = time->tv_nsec + microseconds % 1000000 * 1000;

	time->tv_sec += microseconds / 1000000;
	if (nanoseconds < 0)
	{
		nanoseconds += 1000000000;
		time->tv_sec--;
	}
	else if (nanoseconds >= 1000000000)
	{
		nanoseconds -= 1000000000;
		time->tv_sec++;
	}
	time->tv_nsec = nanoseconds;
}

/* Stay here for as long as the test wants it. */
static void
stall(volatile FlrClocks *file)
{
	struct timespec nap = {0, 1000000};

	while (file->stall == getpid())
	{
		file->stalled = getpid();
		nanosleep(&nap, NULL);
	}
	if (file->stalled == getpid())
		file->stalled = 0;
}

int
clock_gettime(clockid_t clock, struct timespec *time)
{
	volatile FlrClocks *file = clocks();
	int			result = NEXT(clock_gettime) (clock, time);

	if (result != 0 || file == NULL)
		return result;
	if (clock == CLOCK_REALTIME)
		add(time, file->wall);
	if (clock == CLOCK_BOOTTIME)
	{
		add(time, file->elapsed);
		stall(file);
	}
	return result;
}

int
gettimeofday(struct timeval *restrict time, void *restrict zone)
{
	struct timespec precise;

	(void) zone;
	if (clock_gettime(CLOCK_REALTIME, &precise) != 0)
		return -1;
	time->tv_sec = precise.tv_sec;
	time->tv_usec = precise.tv_nsec / 1000;
	return 0;
}
