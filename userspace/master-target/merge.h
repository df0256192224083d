/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * merge: makes one layer of several that follow each other: of each block the oldest content. Blocking; run by thin.c in a
 * child process with low priority, and by tests directly. Writes <base>-<last>.undo.tmp, durable; the caller
 * renames. The sources are not touched. Memory: 80 bytes a record (40 in what they are merged to), and 18 MiB. One open file
 * a layer.
 */
#ifndef MASTER_TARGET_MERGE_H
#define MASTER_TARGET_MERGE_H

#include "undo_layer.h"

/**
 * merge_layers - merge the chain of layers from state @base to state @last in directory @dir
 * Where several layers begin at one state the longest is taken, but one from @base to @last.
 * Every record that is copied is checked; a damaged one ends the merge (-EBADMSG) and nothing is lost.
 * @entry: what the new file is, meta included (a reference), if not NULL
 * Return: 0; -ENOSPC; -EBADMSG; -ENOENT: there is no such chain; other negative errno; with
 * a text in @error. When it fails there is no .tmp.
 */
int merge_layers(int dir, const uint8_t log[UNDO_UUID_BYTES], uint64_t base, uint64_t last, struct undo_entry *entry,
		 char *error, size_t error_bytes);

#endif
