/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * crash: ends the process at a chosen operation on a file, as kill -9 or as a power cut. Included by unit tests that fork a child
 * to die in. Counts every write, flush, zeroing, truncation, allocation, rename and unlink, of the I/O engine (io_faults.h) and of the
 * undo log's blocking calls (undo_file.h).
 *
 * kill: what was done before stays, the operation itself is not done.
 * power cut: besides, of all that was written and not flushed since any part may be missing: each write, in its order, is there whole, up to some
 * sector, or not at all; a file that was removed and whose directory was not flushed may be there again.
 */
#ifndef REPROTECT_TESTS_CRASH_H
#define REPROTECT_TESTS_CRASH_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io_faults.h"
#include "undo_file.h"

#define CRASH_DIED 77

struct crash_write {
	struct crash_write *next; /* newest first */
	int fd;
	dev_t dev;
	ino_t ino;
	off_t offset, old_size;
	size_t bytes, old_bytes;
	char *old, *new;
};

static struct crash {
	unsigned long at, steps; /* die before step @at (from 1); 0: never */
	bool power;
	unsigned seed;
	struct crash_write *writes;
	struct {
		int dir;
		char name[64];
		int saved; /* a descriptor of the file */
	} gone[64];
	unsigned gone_count;
} crash;

static inline void crash_note(int fd, off_t offset, size_t bytes, const void *data)
{
	struct crash_write *write = calloc(1, sizeof(*write));
	struct stat st;

	if (!crash.power || fstat(fd, &st)) {
		free(write);
		return;
	}
	*write = (struct crash_write){ .next = crash.writes, .fd = fd, .dev = st.st_dev, .ino = st.st_ino, .offset = offset,
				       .old_size = st.st_size, .bytes = bytes, .old = malloc(bytes), .new = malloc(bytes) };
	/* Another descriptor: the one in use may be for O_DIRECT. */
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	write->fd = open(path, O_RDWR | O_CLOEXEC);
	ssize_t got = pread(write->fd, write->old, bytes, offset);

	write->old_bytes = got > 0 ? (size_t)got : 0;
	if (data)
		memcpy(write->new, data, bytes);
	else
		memset(write->new, 0, bytes);
	crash.writes = write;
}

static inline void crash_flushed(int fd)
{
	struct crash_write **at = &crash.writes, *write;
	struct stat st;

	if (!crash.power || fstat(fd, &st))
		return;
	while ((write = *at)) {
		if (write->dev != st.st_dev || write->ino != st.st_ino) {
			at = &write->next;
			continue;
		}
		*at = write->next;
		close(write->fd);
		free(write->old);
		free(write->new);
		free(write);
	}
}

static inline void crash_put(int fd, const void *data, size_t bytes, off_t offset)
{
	if (bytes && pwrite(fd, data, bytes, offset) != (ssize_t)bytes)
		_exit(1);
}

/* Take all back, newest first; then do a part of it again, oldest first. */
static inline void crash_power_cut(void)
{
	struct crash_write *oldest = NULL, *next;

	for (struct crash_write *write = crash.writes; write; write = next) {
		next = write->next;
		crash_put(write->fd, write->old, write->old_bytes, write->offset);
		if (write->old_bytes < write->bytes && ftruncate(write->fd, write->old_size))
			_exit(1);
		write->next = oldest;
		oldest = write;
	}
	for (struct crash_write *write = oldest; write; write = write->next) {
		unsigned luck = (unsigned)rand_r(&crash.seed) % 3;
		size_t bytes = luck == 0 ? 0 :
			       luck == 1 ? write->bytes :
					   (size_t)rand_r(&crash.seed) % (write->bytes / 512 + 1) * 512;

		crash_put(write->fd, write->new, bytes, write->offset);
	}
	for (unsigned i = 0; i < crash.gone_count; i++) {
		char from[64];

		snprintf(from, sizeof(from), "/proc/self/fd/%d", crash.gone[i].saved);
		if (rand_r(&crash.seed) % 2 &&
		    linkat(AT_FDCWD, from, crash.gone[i].dir, crash.gone[i].name, AT_SYMLINK_FOLLOW) && errno != EEXIST &&
		    errno != ENOENT)
			_exit(1);
	}
}

static inline void crash_step(void)
{
	if (++crash.steps != crash.at)
		return;
	if (crash.power)
		crash_power_cut();
	_exit(CRASH_DIED);
}

/* ---- hooks ---------------------------------------------------------------- */

static inline void crash_before(const struct io_request *request, uint64_t bytes)
{
	off_t offset = (off_t)(request->offset + request->moved);

	if (request->op == IO_READ)
		return;
	crash_step();
	if (request->op == IO_SYNC)
		crash_flushed(request->fd);
	else
		crash_note(request->fd, offset, bytes,
			   request->op == IO_WRITE ? (const char *)request->data + request->moved : NULL);
}

static inline ssize_t crash_pwrite(int fd, const void *data, size_t bytes, off_t offset)
{
	crash_step();
	crash_note(fd, offset, bytes, data);
	return undo_file_real.pwrite(fd, data, bytes, offset);
}

static inline int crash_fdatasync(int fd)
{
	crash_step();
	crash_flushed(fd);
	return undo_file_real.fdatasync(fd);
}

static inline int crash_ftruncate(int fd, off_t bytes)
{
	crash_step();
	return undo_file_real.ftruncate(fd, bytes);
}

static inline int crash_fallocate(int fd, int mode, off_t offset, off_t bytes)
{
	crash_step();
	return undo_file_real.fallocate(fd, mode, offset, bytes);
}

static inline int crash_rename(int dir, const char *from, const char *to)
{
	crash_step();
	return undo_file_real.rename(dir, from, to);
}

static inline int crash_unlink(int dir, const char *name)
{
	crash_step();
	if (crash.power && crash.gone_count < 64) {
		int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);

		/* A removed file cannot be linked again: it lives on under another name until the directory is flushed. */
		if (fd >= 0) {
			char hidden[80];

			snprintf(hidden, sizeof(hidden), ".gone-%s", name);
			if (linkat(dir, name, dir, hidden, 0) && errno != EEXIST)
				_exit(1);
			crash.gone[crash.gone_count].dir = dir;
			crash.gone[crash.gone_count].saved = fd;
			snprintf(crash.gone[crash.gone_count++].name, sizeof(crash.gone[0].name), "%s", name);
		}
	}
	return undo_file_real.unlink(dir, name);
}

static inline int crash_fsync_dir(int dir)
{
	crash_step();
	for (unsigned i = 0; i < crash.gone_count; i++) {
		char hidden[80];

		snprintf(hidden, sizeof(hidden), ".gone-%s", crash.gone[i].name);
		unlinkat(crash.gone[i].dir, hidden, 0);
		close(crash.gone[i].saved);
	}
	crash.gone_count = 0;
	return undo_file_real.fsync_dir(dir);
}

static inline ssize_t crash_pread(int fd, void *data, size_t bytes, off_t offset)
{
	return undo_file_real.pread(fd, data, bytes, offset);
}

static const struct undo_file_ops crash_file_ops __attribute__((unused)) = {
	.pread = crash_pread,	    .pwrite = crash_pwrite, .fdatasync = crash_fdatasync, .ftruncate = crash_ftruncate,
	.fallocate = crash_fallocate, .rename = crash_rename, .unlink = crash_unlink,	    .fsync_dir = crash_fsync_dir,
};

#endif
