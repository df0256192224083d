/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * restore: lays undo layers over the targets of one machine: to undo an epoch that was not completed, and to roll back to a
 * state of the past. Started by machine.c when nothing else writes to the targets; from the event loop.
 *
 * Every block is written once, in the order of the disk, with the oldest content that the layers have; so it may be begun anew at any
 * time, after any crash, with the same result. A rollback is itself an epoch: what it overwrites goes into a layer first.
 */
#ifndef MASTER_TARGET_RESTORE_H
#define MASTER_TARGET_RESTORE_H

#include "fault.h"
#include "pool.h"
#include "undo.h"
#include "undo_map.h"
#include "writer.h"

#define RESTORE_READS 64u

struct restore_read;

/**
 * struct restore - a restore under way
 * @name: of the machine, for messages
 * @undo: the layer that takes what is overwritten, open; NULL: none
 * @done: all of it is on stable storage (and the layer of @undo sealed); @fault: or why not. Called when nothing is in flight
 * @total_bytes, @done_bytes, @began_ms: for progress
 */
struct restore {
	const char *name;
	struct io_engine *io;
	struct pool *pool;
	struct pool_client *client;
	struct undo *undo;
	struct undo_log *log;
	struct target *targets;
	size_t target_count;
	void (*done)(void *user, const struct fault *fault);
	void *user;
	uint64_t total_bytes, done_bytes, began_ms;
	/* restore's */
	struct writer writer;
	struct undo_map map;
	struct undo_layer *layers;
	size_t layer_count, next;
	struct restore_read *reads; /* RESTORE_READS */
	unsigned reading;
	enum { RESTORE_IDLE, RESTORE_COPY, RESTORE_FLUSH, RESTORE_SEAL, RESTORE_END } step;
	bool failed, stopped, pumping, again;
	struct fault fault;
};

/** restore_open - read what has to be written to come from the open layer, or (@open false) from the committed state, back to @base. Blocks. 0, or -1 with @fault */
int restore_open(struct restore *restore, uint64_t base, bool open, struct fault *fault);
/** restore_begin - go; @done comes from the loop */
void restore_begin(struct restore *restore);
/**
 * restore_stop - begin nothing more; @done comes when nothing is in flight, with a fault "stopped"
 * Return: false: it is at its end already, and goes on
 */
bool restore_stop(struct restore *restore);
/** restore_close - free what restore_open() made; only before restore_begin() or after @done */
void restore_close(struct restore *restore);
/** restore_tick - now and then while it runs: an undo log that has failed comes to rest without a word */
void restore_tick(struct restore *restore);
bool restore_quiet(const struct restore *restore);

#endif
