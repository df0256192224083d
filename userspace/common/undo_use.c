/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undo_use: see undo_use.h.
 */
#include "undo_use.h"
#include "util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#define USE_DIR "use"
#define NAME_BYTES 24u

static int open_use(int dir)
{
	int use = openat(dir, USE_DIR, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return use < 0 ? -errno : use;
}

/* Locks what was opened as @fd, and returns that; or closes it, and negative errno. */
static int lock_file(int fd, int operation)
{
	int error = 0;

	if (fd < 0)
		return -errno;
	while (flock(fd, operation))
		if (errno != EINTR) {
			error = -errno;
			close(fd);
			return error;
		}
	return fd;
}

/* The log's own directory is the lock: nothing has to be made, which a full volume would not let us. */
static int lock_dir(int dir, int operation)
{
	return lock_file(openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), operation);
}

int undo_use_prepare(int dir)
{
	return mkdirat(dir, USE_DIR, 0700) && errno != EEXIST ? -errno : 0;
}

int undo_use_take(int dir, uint64_t id, int *guard)
{
	CLEANUP_FD int use = -1;
	char name[NAME_BYTES];
	int fd = undo_use_prepare(dir);

	*guard = -1;
	if (fd)
		return fd;
	use = open_use(dir);
	if (use < 0)
		return use;
	*guard = lock_dir(dir, LOCK_SH);
	if (*guard < 0)
		return *guard;
	snprintf(name, sizeof(name), "%" PRIu64, id);
	fd = lock_file(openat(use, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600), LOCK_SH);
	if (fd < 0) {
		close(*guard);
		*guard = -1;
	}
	return fd;
}

int undo_use_guard(int dir)
{
	return lock_dir(dir, LOCK_EX | LOCK_NB);
}

/* Whether the file is locked. A look is a lock for an instant; a reader that begins waits for it. */
static bool locked(int use, const char *name)
{
	CLEANUP_FD int fd = openat(use, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return errno != ENOENT;
	return flock(fd, LOCK_EX | LOCK_NB) != 0;
}

bool undo_use_held(int dir, uint64_t id)
{
	CLEANUP_FD int use = open_use(dir);
	char name[NAME_BYTES];

	if (use < 0)
		return use != -ENOENT;
	snprintf(name, sizeof(name), "%" PRIu64, id);
	return locked(use, name);
}

static bool parse_id(const char *name, uint64_t *id)
{
	char again[NAME_BYTES];

	errno = 0;
	*id = strtoull(name, NULL, 10);
	snprintf(again, sizeof(again), "%" PRIu64, *id);
	return !errno && !strcmp(again, name);
}

/* Call @look for each file of a state; the directory is opened anew, as reading moves the position of a shared one. */
static int each(int dir, void (*look)(int use, const char *name, uint64_t id, void *user), void *user)
{
	CLEANUP_DIR DIR *list = NULL;
	const struct dirent *entry;
	int use = open_use(dir);
	uint64_t id;

	if (use < 0)
		return use == -ENOENT ? 0 : use;
	list = fdopendir(use);
	if (!list) {
		close(use);
		return -ENOMEM;
	}
	errno = 0;
	while ((entry = readdir(list))) {
		if (parse_id(entry->d_name, &id))
			look(use, entry->d_name, id, user);
		errno = 0;
	}
	return -errno;
}

struct oldest {
	bool any;
	uint64_t id;
};

static void look_oldest(int use, const char *name, uint64_t id, void *user)
{
	struct oldest *oldest = user;

	if ((!oldest->any || id < oldest->id) && locked(use, name))
		*oldest = (struct oldest){ true, id };
}

bool undo_use_oldest(int dir, uint64_t *id)
{
	struct oldest oldest = { 0 };

	if (each(dir, look_oldest, &oldest))
		oldest = (struct oldest){ true, 0 };
	*id = oldest.id;
	return oldest.any;
}

static void look_clean(int use, const char *name, uint64_t id, void *user)
{
	(void)id;
	(void)user;
	if (!locked(use, name))
		unlinkat(use, name, 0);
}

void undo_use_clean(int dir)
{
	each(dir, look_clean, NULL);
}
