/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * merge_read: the content of many pieces at once, from many layers, checked. Called by merge.c. What is next on the disk
 * lies in as many files as layers are merged; so the pieces of some MiB are looked at together, and each file is read in
 * its own order, in long reads.
 */
#ifndef MASTER_TARGET_MERGE_READ_H
#define MASTER_TARGET_MERGE_READ_H

#include "undo_layer.h"

struct merge_reader;

/** merge_reader_new - for @layers, which piece.layer numbers, and all pieces that will be asked for. NULL: no memory */
struct merge_reader *merge_reader_new(const struct undo_layer *layers, const struct undo_piece *pieces, size_t count);
void merge_reader_free(struct merge_reader *reader);

/**
 * merge_read - read the first of the @count pieces (one or more), as many as there is room for
 * @taken: how many
 * @failed: when it fails: the piece that it was for
 * Return: 0; -EBADMSG: the content is not what its record says; other negative errno.
 */
int merge_read(struct merge_reader *reader, const struct undo_piece *pieces, size_t count, size_t *taken, size_t *failed);
/** merge_read_data - of the piece @index of the last merge_read(), until the next one; NULL: it is zero */
const void *merge_read_data(const struct merge_reader *reader, size_t index);

#endif
