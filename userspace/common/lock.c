// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lock: see lock.h. The file's content is the process id of the owner, so that a running one can be
 * told from one that has ended.
 */
#include "lock.h"
#include "log.h"
#include "util.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#define LOOK_AGAIN_NS 20000000L

static pid_t read_owner(int fd)
{
	char text[16] = "";

	return pread(fd, text, sizeof(text) - 1, 0) > 0 ? (pid_t)strtol(text, NULL, 10) : 0;
}

/* In a container every instance may have the same number. */
static bool runs(pid_t owner)
{
	return owner > 0 && owner != getpid() && (!kill(owner, 0) || errno == EPERM);
}

int lock_take(int fd, const char *what, unsigned wait_ms, pid_t *owner)
{
	const struct timespec pause = { .tv_nsec = LOOK_AGAIN_NS };
	uint64_t end = util_now_ms() + wait_ms;
	pid_t other = 0;
	bool said = false;
	char text[16];
	int bytes;

	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno == EINTR)
			continue;
		if (errno != EWOULDBLOCK)
			return -errno;
		other = read_owner(fd);
		if (owner)
			*owner = other;
		if (!other || runs(other))
			return -EWOULDBLOCK;
		if (util_now_ms() >= end)
			return -ETIMEDOUT;
		if (!said)
			log_notice("%s: waiting for the disk writes of process %d, which ended before they did", what,
				   (int)other);
		said = true;
		nanosleep(&pause, NULL);
	}
	/* In place and of one length: also on a full disk. */
	bytes = snprintf(text, sizeof(text), "%-10d\n", (int)getpid());
	if (pwrite(fd, text, (size_t)bytes, 0) != bytes)
		log_warning("%s: cannot note the process id in the lock file: %s (if this process is killed, the next one "
			    "may have to be started twice)", what, strerror(errno));
	return 0;
}
