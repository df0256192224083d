/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undo_view: the content of a machine's disks in a state of the past, readable while the master target goes on
 * writing. Blocking; for one thread (callers lock). Used by the export plugin and by points verify.
 *
 * Where a layer behind the state has a block, its content there counts (the oldest layer first); everything
 * else is read from the target disk. The master target makes a layer's batch durable, then publishes it in the *tail* (undo_tail.h), and only
 * then overwrites the disk. So a reader that has read the disk looks at the tail once more: if it has not moved, what was read is
 * exact; if it has, the new records are added, and what they have of it counts.
 *
 * That the state is being read is known to the master target (undo_use.h). A view has a file open for each layer.
 */
#ifndef REPROTECT_UNDO_VIEW_H
#define REPROTECT_UNDO_VIEW_H

#include "undo_layer.h"

struct undo_view;

/**
 * undo_view_open - the state @base of the log in @path (<retention>/<machine uuid>)
 * The view takes a shared lock on <path>/use/<base>, under which the master target keeps that state and what is behind it.
 * Return: 0; -ENOENT: no such state (any more); -ESTALE: the log is not in use; negative errno, with a text in @error.
 */
int undo_view_open(struct undo_view **view, const char *path, uint64_t base, char *error, size_t error_bytes);
void undo_view_close(struct undo_view *view);
/**
 * undo_view_meta - what the state is (borrowed): see points.h. NULL where no layer says it: the disks are
 * in that state. Known as soon as one begins, and taken in.
 */
const json_t *undo_view_meta(const struct undo_view *view);
/**
 * undo_view_read - [offset, offset + bytes) of @disk as it was; multiples of 512
 * @target: the target disk, open for reading (O_DIRECT or not; @out is aligned to 4096 where it is)
 * Return: 0; -EBADMSG: the undo log is damaged there; -ESTALE: it is another log by now, or none; -ENODATA: behind the
 * end of the disk; other negative errno.
 */
int undo_view_read(struct undo_view *view, uint32_t disk, int target, uint64_t offset, size_t bytes, void *out);
/** undo_view_refresh - take in what was added since; undo_view_read() does where it has to. Return: as there */
int undo_view_refresh(struct undo_view *view);
/**
 * undo_view_check - read and check every record that counts for the state
 * @progress: NULL, or called after each, in bytes. Return: 0, or the first error, with a text
 */
int undo_view_check(struct undo_view *view, void (*progress)(void *user, uint64_t done, uint64_t total), void *user,
		    char *error, size_t error_bytes);
/** undo_view_pieces - parts of records that count, or are hidden but not sorted out yet; undo_view_memory: bytes */
size_t undo_view_pieces(const struct undo_view *view);
size_t undo_view_memory(const struct undo_view *view);

#endif
