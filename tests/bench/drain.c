// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * drain: change a disk of the agent's test double (userspace/agent/tracker_file.c) and
 * time until all of it is committed. Called by tests/bench/throughput.
 *
 *	drain DIR NAME COUNT SIZE	mark COUNT scattered granules of 4 KiB (0: none,
 *					"all": the whole disk) of SIZE bytes, and wait
 *
 * Prints "SECONDS EPOCHS": from the first cut that holds the change to the last commit,
 * and the cuts in between. Exit status 1 after 300 s, or when it cannot wait.
 *
 * Whether all is committed is looked at under the lock of the double, and only after an event in
 * DIR: a reader that polls would take the lock from the agent that it measures.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../random.h"
#include "util.h"

#define DEADLINE_MS 300000
#define GRANULE 4096u

static int fail(const char *what)
{
	fprintf(stderr, "drain: %s: %s\n", what, strerror(errno));
	return 1;
}

/*
 * One granule at random out of each of @count equal parts of the disk, so that no granule is
 * drawn twice and neighbours seldom touch.
 */
static int mark(const char *path, const char *count_text, uint64_t size_bytes)
{
	CLEANUP_FILE FILE *file = fopen(path, "ae");
	uint64_t state = RANDOM_SEED, count, granules = size_bytes / GRANULE;

	if (!file)
		return -1;
	if (!strcmp(count_text, "all")) {
		fprintf(file, "0 %" PRIu64 "\n", size_bytes);
	} else {
		count = strtoull(count_text, NULL, 10);
		for (uint64_t i = 0; i < count; i++) {
			uint64_t from = granules * i / count, to = granules * (i + 1) / count;

			fprintf(file, "%" PRIu64 " %u\n",
				(from + next_random(&state) % (to - from)) * GRANULE, GRANULE);
		}
	}
	return fflush(file);
}

static bool is_empty(const char *path)
{
	struct stat st;

	return stat(path, &st) < 0 ? errno == ENOENT : st.st_size == 0;
}

int main(int argc, char **argv)
{
	char dirty[PATH_MAX], open_path[PATH_MAX], lock_path[PATH_MAX], state[PATH_MAX], open_name[NAME_MAX];
	char events[4096] __attribute__((aligned(8)));
	uint64_t size_bytes, end_ms, first_ns = 0, last_ns = 0;
	unsigned cuts = 0;
	bool waits;

	if (argc != 5) {
		fprintf(stderr, "usage: drain DIR NAME COUNT|all SIZE\n");
		return 1;
	}
	snprintf(dirty, sizeof(dirty), "%s/%s.dirty", argv[1], argv[2]);
	snprintf(open_path, sizeof(open_path), "%s/%s.open", argv[1], argv[2]);
	snprintf(state, sizeof(state), "%s/%s.state", argv[1], argv[2]);
	snprintf(lock_path, sizeof(lock_path), "%s/lock", argv[1]);
	snprintf(open_name, sizeof(open_name), "%s.open", argv[2]);
	size_bytes = strtoull(argv[4], NULL, 10);
	waits = strcmp(argv[3], "0") != 0;
	if (size_bytes < GRANULE)
		return fprintf(stderr, "drain: SIZE is less than a granule\n"), 1;

	CLEANUP_FD int lock = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CLEANUP_FD int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);

	if (lock < 0 || watch < 0 || flock(lock, LOCK_EX) < 0)
		return fail(lock_path);
	if (inotify_add_watch(watch, argv[1], IN_MOVED_TO | IN_DELETE) < 0)
		return fail(argv[1]);
	if (waits && mark(dirty, argv[3], size_bytes))
		return fail(dirty);
	if (!waits)
		first_ns = util_now_ns();
	flock(lock, LOCK_UN);

	end_ms = util_now_ms() + DEADLINE_MS;
	for (;;) {
		struct pollfd pollfd = { .fd = watch, .events = POLLIN };
		bool looks = !waits;
		ssize_t got;

		if (util_now_ms() > end_ms) {
			fprintf(stderr, "drain: not committed within %d s\n", DEADLINE_MS / 1000);
			return 1;
		}
		if (poll(&pollfd, 1, 200) < 0 && errno != EINTR)
			return fail("poll");
		while ((got = read(watch, events, sizeof(events))) > 0) {
			for (ssize_t at = 0; at < got;) {
				const struct inotify_event *event = (const void *)(events + at);

				at += (ssize_t)sizeof(*event) + event->len;
				if (!event->len || strcmp(event->name, open_name) != 0)
					continue;
				if (event->mask & IN_MOVED_TO) {
					cuts++;
					if (!first_ns)
						first_ns = util_now_ns();
				} else if (first_ns) {
					last_ns = util_now_ns();
					looks = true;
				}
			}
		}
		if (!looks)
			continue;
		flock(lock, LOCK_EX);
		/* No state yet: the agent has not attached. */
		bool done = access(state, F_OK) == 0 && access(open_path, F_OK) < 0 && is_empty(dirty);

		flock(lock, LOCK_UN);
		if (done)
			break;
	}
	if (!last_ns)
		last_ns = util_now_ns();
	printf("%.6f %u\n", (double)(last_ns - first_ns) / 1e9, cuts);
	return 0;
}
