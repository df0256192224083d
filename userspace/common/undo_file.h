/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undo_file: the blocking file operations of the undo log, through a small table of functions, so that tests can fail,
 * shorten, tear and stop any of them. All return negative errno. A table's pread and pwrite may transfer less than all (then
 * they are called again), undo_pread and undo_pwrite transfer everything or fail (-ENODATA: the end of the file).
 */
#ifndef REPROTECT_UNDO_FILE_H
#define REPROTECT_UNDO_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct undo_file_ops {
	ssize_t (*pread)(int fd, void *data, size_t bytes, off_t offset);
	ssize_t (*pwrite)(int fd, const void *data, size_t bytes, off_t offset);
	int (*fdatasync)(int fd);
	int (*ftruncate)(int fd, off_t bytes);
	int (*fallocate)(int fd, int mode, off_t offset, off_t bytes);
	int (*rename)(int dir, const char *from, const char *to);
	int (*unlink)(int dir, const char *name);
	int (*fsync_dir)(int dir);
};

/** undo_file_real - the system calls; undo_file - the table in use, for tests to replace */
extern const struct undo_file_ops undo_file_real;
extern const struct undo_file_ops *undo_file;

int undo_pread(int fd, void *data, size_t bytes, uint64_t offset);
int undo_pwrite(int fd, const void *data, size_t bytes, uint64_t offset);
int undo_fdatasync(int fd);
int undo_ftruncate(int fd, uint64_t bytes);
/** undo_allocate - make [offset, offset + bytes) of the file exist; -ENOSPC */
int undo_allocate(int fd, uint64_t offset, uint64_t bytes);
int undo_rename(int dir, const char *from, const char *to);
int undo_unlink(int dir, const char *name);
int undo_sync_dir(int dir);

#endif
