/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undo_tail: a page that the master target shares with readers of its undo log, <log directory>/tail,
 * mapped by all. It says which state is committed, which layer is open, and how many of its batches are durable.
 *
 *	the writer				a reader
 *	batch durable				read the tail; take in new batches
 *	undo_tail_publish()			look up; not in any layer: read the disk
 *	overwrite the disk			undo_tail_moved()? take in, look up again
 *
 * What the tail names is there: a file is made before it is published, and removed after it is no longer. Whoever removes the log, or
 * writes to the disks without it, publishes a tail with no uuid (zeros) first, so that those who have the page mapped know.
 */
#ifndef REPROTECT_UNDO_TAIL_H
#define REPROTECT_UNDO_TAIL_H

#include <stdbool.h>
#include <stdint.h>

#include "undo_format.h"

/**
 * struct undo_tail - what is published
 * @generation: changes with every publication
 * @committed: the state that the chain of sealed layers ends at
 * @open: last state of the layer that is being written, 0: none
 * @batches: of that layer, durable
 * @undone: how many open layers were given up: their batches may be gone with their files, what was read from
 *	the disk while they were open has to be read again
 */
struct undo_tail {
	uint64_t generation, committed, open, batches, undone;
	uint8_t log[UNDO_UUID_BYTES];
};

struct undo_tail_page;

/** undo_tail_map - of the log in the directory @dir; @write: make it when it is missing. 0 or negative errno */
int undo_tail_map(struct undo_tail_page **page, int dir, bool write);
void undo_tail_unmap(struct undo_tail_page *page);
/** undo_tail_publish - one writer. Sets everything but @generation and @undone, which are counted */
void undo_tail_publish(struct undo_tail_page *page, const struct undo_tail *tail);
/**
 * undo_tail_read - a consistent copy. Waits while it is being changed (nanoseconds). Return: 0; -EAGAIN: the writer died in
 * it, or nothing was published since the machine was started
 */
int undo_tail_read(const struct undo_tail_page *page, struct undo_tail *tail);
/** undo_tail_moved - whether anything was published since @tail was read */
bool undo_tail_moved(const struct undo_tail_page *page, const struct undo_tail *tail);

#endif
