// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * spool_store: what all machines share: the spool directory, made, checked, and locked against a
 * second instance (called by server.c at start and end), the quota, and the spares (called by spool.c).
 */
#include "spool.h"
#include "lock.h"
#include "log.h"
#include "util.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define SPOOL_LOCK_MS 60000u /* for the writes of a process server that was killed */

int spool_store_open(struct spool_store *store, const char *path, char *error, size_t error_bytes)
{
	const char *what = "make";
	pid_t owner = 0;
	int r;

	store->dirfd = store->lockfd = -1;
	store->path = strdup(path);
	if (!store->path)
		return -ENOMEM;
	r = util_mkdirs(path);
	if (!r) {
		what = "open";
		store->dirfd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		r = store->dirfd < 0 ? -errno : 0;
	}
	if (!r) {
		what = "write in";
		store->lockfd = openat(store->dirfd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		r = store->lockfd < 0 ? -errno : 0;
	}
	if (r) {
		snprintf(error, error_bytes, "spool directory %s: cannot %s it: %s (make it writable for this user, or name "
			 "another with spool =)", path, what, strerror(-r));
		spool_store_close(store);
		return r;
	}
	r = lock_take(store->lockfd, "spool", SPOOL_LOCK_MS, &owner);
	if (r) {
		snprintf(error, error_bytes, "spool directory %s: %s (process %d; %s)", path,
			 r == -EWOULDBLOCK ? "another process server uses it" :
			 r == -ETIMEDOUT ? "a process server that was killed still has disk writes under way" : strerror(-r),
			 (int)owner,
			 r == -ETIMEDOUT ? "see dmesg for the disk under it, and start again when they are done" :
					   "stop that one, or give each its own spool =");
		spool_store_close(store);
		return r;
	}
	return 0;
}

void spool_store_close(struct spool_store *store)
{
	if (store->lockfd >= 0)
		close(store->lockfd);
	if (store->dirfd >= 0)
		close(store->dirfd);
	store->lockfd = store->dirfd = -1;
	free(store->path);
	store->path = NULL;
}

bool spool_store_room(const struct spool_store *store)
{
	return store->used_bytes - store->spare_bytes + store->segment_bytes <= store->quota_bytes;
}

/* ---- spares ------------------------------------------------------------------------------ */

static struct spool_spare *spare_unlink(struct spool_store *store, struct spool_spare **at)
{
	struct spool_spare *spare = *at;

	*at = spare->next;
	store->spare_count--;
	store->spare_bytes -= spare->bytes;
	return spare;
}

static void spare_remove(struct spool_store *store, struct spool_spare **at)
{
	struct spool_spare *spare = spare_unlink(store, at);
	char name[SEGMENT_NAME_BYTES];

	segment_spare_name(spare->number, name);
	if (unlinkat(spare->spool->dirfd, name, 0) < 0)
		log_error("spool of machine %s: cannot remove %s: %s (it goes when the process server starts)",
			  spare->spool->machine, name, strerror(errno));
	close(spare->fd);
	store->used_bytes -= spare->bytes;
	spare->spool->bytes -= spare->bytes;
	free(spare);
}

static void spare_sync(struct spool *spool);

static void spare_sync_done(struct io_request *io, int result)
{
	struct spool *spool = io->user;

	spool->spare_syncing = false;
	for (struct spool_spare **at = &spool->store->spares; *at;) {
		struct spool_spare *spare = *at;

		if (spare->spool != spool || !spare->syncing) {
			at = &spare->next;
			continue;
		}
		if (result) {
			spare_remove(spool->store, at);
			continue;
		}
		spare->syncing = false;
		spare->ready = true;
		at = &spare->next;
	}
	spare_sync(spool);
}

static void spare_sync(struct spool *spool)
{
	bool any = false;

	if (spool->spare_syncing)
		return;
	for (struct spool_spare *spare = spool->store->spares; spare; spare = spare->next)
		if (spare->spool == spool && !spare->ready)
			any = spare->syncing = true;
	if (!any)
		return;
	spool->spare_syncing = true;
	spool->spare_io = (struct io_request){ .op = IO_SYNC, .fd = spool->dirfd, .buffer = -1, .done = spare_sync_done,
					       .user = spool };
	io_submit(spool->store->io, &spool->spare_io);
}

bool spool_spare_keep(struct spool *spool, struct spool_segment *s)
{
	struct spool_store *store = spool->store;
	char from[SEGMENT_NAME_BYTES], to[SEGMENT_NAME_BYTES];
	struct spool_spare *spare;

	if (s->fd < 0 || s->broken || s->file_bytes != store->segment_bytes || store->spare_count >= SPOOL_SPARES_MAX ||
	    store->spare_bytes + s->file_bytes > store->quota_bytes / 4)
		return false;
	spare = malloc(sizeof(*spare));
	if (!spare)
		return false;
	*spare = (struct spool_spare){ .next = store->spares, .spool = spool, .number = s->number, .bytes = s->file_bytes,
				       .since_ms = util_now_ms(), .fd = s->fd };
	segment_name(s->number, from);
	segment_spare_name(s->number, to);
	if (renameat(spool->dirfd, from, spool->dirfd, to) < 0) {
		free(spare);
		return false;
	}
	store->spares = spare;
	store->spare_count++;
	store->spare_bytes += spare->bytes;
	spare_sync(spool);
	return true;
}

int spool_spare_take(struct spool *spool, const char *name, uint64_t *bytes)
{
	struct spool_store *store = spool->store;

	for (struct spool_spare **at = &store->spares; *at; at = &(*at)->next) {
		struct spool_spare *spare = *at;
		char from[SEGMENT_NAME_BYTES];
		int fd = spare->fd;

		if (spare->spool != spool || !spare->ready)
			continue;
		segment_spare_name(spare->number, from);
		if (renameat(spool->dirfd, from, spool->dirfd, name) < 0)
			return -ENOENT;
		*bytes = spare->bytes;
		free(spare_unlink(store, at));
		return fd;
	}
	return -ENOENT;
}

bool spool_spare_drop(struct spool_store *store, const struct spool *spool, uint64_t ms)
{
	uint64_t now = util_now_ms();

	for (struct spool_spare **at = &store->spares; *at; at = &(*at)->next) {
		if ((spool && (*at)->spool != spool) || now - (*at)->since_ms < ms)
			continue;
		spare_remove(store, at);
		return true;
	}
	return false;
}

void spool_spare_forget(struct spool *spool)
{
	for (struct spool_spare **at = &spool->store->spares; *at;) {
		if ((*at)->spool != spool) {
			at = &(*at)->next;
			continue;
		}
		close((*at)->fd);
		free(spare_unlink(spool->store, at));
	}
}

bool spool_machine_valid(const char *name)
{
	if (!name || strlen(name) != SEGMENT_MACHINE_BYTES)
		return false;
	for (unsigned i = 0; i < SEGMENT_MACHINE_BYTES; i++) {
		unsigned char c = (unsigned char)name[i];
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;

		if (dash ? c != '-' : (!isxdigit(c) || isupper(c)))
			return false;
	}
	return true;
}
