/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * merge_write: writes one layer in order: head, batches, index, foot. Called by merge.c. Sequential, direct where the file
 * system can, durable once, at the end.
 */
#ifndef MASTER_TARGET_MERGE_WRITE_H
#define MASTER_TARGET_MERGE_WRITE_H

#include "undo_layer.h"

struct merge_writer;

/**
 * merge_writer_new - begin the file @name in @dir with @head and @meta
 * What is there under that name is written over. When anything fails the caller removes the file.
 */
int merge_writer_new(struct merge_writer **writer, int dir, const char *name, const struct undo_head *head,
		     const char *meta);
/**
 * merge_write - add @length bytes at @offset of @disk: @data, or zeros (NULL)
 * Behind what was added before it. What touches it becomes one record where that is possible.
 */
int merge_write(struct merge_writer *writer, uint32_t disk, uint64_t offset, uint32_t length, const void *data);
/** merge_writer_end - index, foot; durable. @bytes: size of the file. 0 or negative errno */
int merge_writer_end(struct merge_writer *writer, struct undo_foot *foot, uint64_t *bytes);
void merge_writer_free(struct merge_writer *writer);

#endif
