/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undo_file: see undo_file.h. The only place where the undo log calls the file system to read, write, allocate, rename or
 * remove; short transfers and interrupted calls are continued here.
 */
#include "undo_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

static ssize_t real_pread(int fd, void *data, size_t bytes, off_t offset)
{
	ssize_t moved = pread(fd, data, bytes, offset);

	return moved < 0 ? -errno : moved;
}

static ssize_t real_pwrite(int fd, const void *data, size_t bytes, off_t offset)
{
	ssize_t moved = pwrite(fd, data, bytes, offset);

	return moved < 0 ? -errno : moved;
}

static int real_fdatasync(int fd) { return fdatasync(fd) ? -errno : 0; }
static int real_ftruncate(int fd, off_t bytes) { return ftruncate(fd, bytes) ? -errno : 0; }

static int real_fallocate(int fd, int mode, off_t offset, off_t bytes)
{
	return fallocate(fd, mode, offset, bytes) ? -errno : 0;
}

static int real_rename(int dir, const char *from, const char *to) { return renameat(dir, from, dir, to) ? -errno : 0; }
static int real_unlink(int dir, const char *name) { return unlinkat(dir, name, 0) ? -errno : 0; }
static int real_fsync_dir(int dir) { return fsync(dir) ? -errno : 0; }

const struct undo_file_ops undo_file_real = {
	.pread = real_pread,
	.pwrite = real_pwrite,
	.fdatasync = real_fdatasync,
	.ftruncate = real_ftruncate,
	.fallocate = real_fallocate,
	.rename = real_rename,
	.unlink = real_unlink,
	.fsync_dir = real_fsync_dir,
};

const struct undo_file_ops *undo_file = &undo_file_real;

int undo_pread(int fd, void *data, size_t bytes, uint64_t offset)
{
	char *at = data;

	while (bytes) {
		ssize_t moved = undo_file->pread(fd, at, bytes, (off_t)offset);

		if (moved == -EINTR)
			continue;
		if (moved <= 0)
			return moved ? (int)moved : -ENODATA;
		at += moved;
		bytes -= (size_t)moved;
		offset += (uint64_t)moved;
	}
	return 0;
}

int undo_pwrite(int fd, const void *data, size_t bytes, uint64_t offset)
{
	const char *at = data;

	while (bytes) {
		ssize_t moved = undo_file->pwrite(fd, at, bytes, (off_t)offset);

		if (moved == -EINTR)
			continue;
		if (moved <= 0)
			return moved ? (int)moved : -EIO;
		at += moved;
		bytes -= (size_t)moved;
		offset += (uint64_t)moved;
	}
	return 0;
}

/* Not repeated when it fails: what it was for may be lost, and the second call would say 0. */
int undo_fdatasync(int fd)
{
	return undo_file->fdatasync(fd);
}

int undo_ftruncate(int fd, uint64_t bytes)
{
	int error;

	do
		error = undo_file->ftruncate(fd, (off_t)bytes);
	while (error == -EINTR);
	return error;
}

int undo_allocate(int fd, uint64_t offset, uint64_t bytes)
{
	int error;

	if (!bytes)
		return 0;
	do
		error = undo_file->fallocate(fd, 0, (off_t)offset, (off_t)bytes);
	while (error == -EINTR);
	return error;
}

int undo_rename(int dir, const char *from, const char *to)
{
	return undo_file->rename(dir, from, to);
}

int undo_unlink(int dir, const char *name)
{
	return undo_file->unlink(dir, name);
}

int undo_sync_dir(int dir)
{
	return undo_file->fsync_dir(dir);
}
