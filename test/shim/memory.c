/*-------------------------------------------------------------------------
 *
 * memory.c
 *	  LD_PRELOAD library in which the n-th call for POSIX shared memory fails.
 *
 * The server's calls of shm_open, ftruncate, posix_fallocate and mmap for a
 * segment of dynamic shared memory are counted in one process, and those with
 * numbers from "first" to "last" fail as they do when the system has no memory.
 * The test says so in the file that FLR_SHIM_FILE names, in one line:
 *
 *	generation pid first last
 *
 * A generation that differs from the one before begins the count anew.  Each
 * failure is appended to FLR_SHIM_FILE.hits: the call and the segment.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* How the server names a segment, and where that is to be seen as a file */
#define SEGMENT		"/PostgreSQL."
#define FOLDER		"/dev/shm"

/* The function that ours stands in front of */
#define NEXT(function)	((__typeof__(&function)) dlsym(RTLD_NEXT, #function))

/* Add a line about a call that fails to the list of them. */
static void
note_failure(const char *call, const char *segment)
{
	char		path[PATH_MAX];
	char		line[PATH_MAX];
	int			length;
	int			fd;

	snprintf(path, sizeof(path), "%s.hits", getenv("FLR_SHIM_FILE"));
	length = snprintf(line, sizeof(line), "%s %s\n", call, segment);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (fd < 0 || write(fd, line, length) != length)
		abort();
	close(fd);
}

/* Count a call for a segment; is it one of those that fail? */
static bool
fails(const char *call, const char *segment)
{
	static int	generation = 0;
	static int	count = 0;
	const char *path = getenv("FLR_SHIM_FILE");
	char		line[100] = "";
	int			fd = path != NULL ? open(path, O_RDONLY) : -1;
	int			new_generation;
	int			pid;
	int			first;
	int			last;

	if (fd < 0)
		return false;
	if (read(fd, line, sizeof(line) - 1) < 0)
		line[0] = '\0';
	close(fd);
	if (sscanf(line, "%d %d %d %d", &new_generation, &pid, &first, &last) != 4 ||
		pid != getpid())
		return false;
	if (new_generation != generation)
	{
		generation = new_generation;
		count = 0;
	}
	count++;
	if (count < first || count > last)
		return false;
	note_failure(call, segment);
	return true;
}

/* The same for a call that names the segment by a file descriptor */
static bool
fails_for_file(const char *call, int fd)
{
	char		path[64];
	char		target[PATH_MAX];
	ssize_t		length;

	if (fd < 0)
		return false;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	length = readlink(path, target, sizeof(target) - 1);
	if (length < 0)
		return false;
	target[length] = '\0';
	return strncmp(target, FOLDER SEGMENT, strlen(FOLDER SEGMENT)) == 0 &&
		fails(call, target + strlen(FOLDER));
}

int
shm_open(const char *name, int flags, mode_t mode)
{
	if (strncmp(name, SEGMENT, strlen(SEGMENT)) == 0 &&
		fails("shm_open", name))
	{
		errno = ENOSPC;
		return -1;
	}
	return NEXT(shm_open) (name, flags, mode);
}

int
ftruncate(int fd, off_t size)
{
	if (fails_for_file("ftruncate", fd))
	{
		errno = ENOSPC;
		return -1;
	}
	return NEXT(ftruncate) (fd, size);
}

int
ftruncate64(int fd, off64_t size)
{
	return ftruncate(fd, size);
}

/* This one returns the error number. */
int
posix_fallocate(int fd, off_t start, off_t size)
{
	if (fails_for_file("posix_fallocate", fd))
		return ENOSPC;
	return NEXT(posix_fallocate) (fd, start, size);
}

int
posix_fallocate64(int fd, off64_t start, off64_t size)
{
	return posix_fallocate(fd, start, size);
}

void *
mmap(void *address, size_t size, int protection, int flags, int fd, off_t start)
{
	if (fails_for_file("mmap", fd))
	{
		errno = ENOMEM;
		return MAP_FAILED;
	}
	return NEXT(mmap) (address, size, protection, flags, fd, start);
}

void *
mmap64(void *address, size_t size, int protection, int flags, int fd,
	   off64_t start)
{
	return mmap(address, size, protection, flags, fd, start);
}
