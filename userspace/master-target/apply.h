/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * apply: turns the frames of one machine into content of its targets, epoch by epoch, and says
 * how far it got. machine.c feeds it; writer.c and verify.c do the I/O; state.c remembers.
 *
 * Promises: nothing is acknowledged before data and state are durable; a frame
 * never overtakes an earlier one that touches the same place; an epoch that skips one is refused;
 * an epoch that comes again is harmless; after any crash, going on at
 * the position in the state gives the same content as never having crashed.
 *
 * With an undo log the old content is in it, durably, before it is overwritten, so that an epoch that was not completed can be undone
 * (restore.c does that, before anything else, when the program starts or the log had failed). The one moment at which an epoch
 * becomes the state of the targets is when the state file is saved: targets flushed, layer sealed, then state, then ACK.
 */
#ifndef MASTER_TARGET_APPLY_H
#define MASTER_TARGET_APPLY_H

#include <stdbool.h>
#include <stdint.h>

#include "fault.h"
#include "io.h"
#include "pool.h"
#include "state.h"
#include "target.h"
#include "undo.h"
#include "verify.h"
#include "wire.h"
#include "writer.h"

#define APPLY_CHECKPOINT_BYTES (64u * 1024u * 1024u)
#define APPLY_CHECKPOINT_MS 2000u
#define APPLY_CHECKPOINT_PAUSE_MS 250u /* at most four a second on fast links: each costs flushes */

/**
 * struct apply_events - what the owner is told; all from the event loop, any of them may stop the apply
 * @ack: send an ACK (@mismatch: borrowed, or NULL)
 * @fault: an error; the apply takes no more frames, and @idle follows when its I/O has ended
 * @ready: the queue is empty again: read on
 * @idle: stopped, and nothing is in flight: targets may be closed
 * @released: the final epoch is verified and recorded: close the targets. Called before its @ack
 * @full: the retention volume is full: make room (AGAIN), or say what to do. GIVE_UP: the apply records that the epoch
 *	has no undo and goes on
 * @paused: whether no epoch may begin for want of space on the retention volume
 */
struct apply_events {
	void (*ack)(void *user, uint32_t flags, uint64_t epoch, uint64_t attempt, uint32_t seq,
		    const json_t *mismatch);
	void (*fault)(void *user, const struct fault *fault, uint64_t epoch);
	void (*ready)(void *user);
	void (*idle)(void *user);
	void (*released)(void *user);
	enum undo_full (*full)(void *user);
	bool (*paused)(void *user);
};

/**
 * enum apply_phase - where the stream is
 *
 *	phase     | on
 *	----------+----------------------------------------------------------------
 *	STOPPED   | apply_start: RESUMABLE when the state has a position, else BETWEEN
 *	RESUMABLE | the very frame of the position: OPEN; BEGIN: as BETWEEN; anything else: fault
 *	BETWEEN   | BEGIN: the next epoch: OPEN; one already applied: SKIP; else fault
 *	OPEN      | DATA, ZERO, VERIFY, TAG; BEGIN: dropped, as BETWEEN; ABORT: BETWEEN; END: ENDING
 *	SKIP      | END: acknowledge again, BETWEEN; BEGIN, ABORT as OPEN; the rest is thrown away
 *	ENDING    | targets flushed: SEALING with an undo log; else saved: acknowledge, BETWEEN
 *	SEALING   | layer sealed, state saved: acknowledge, BETWEEN
 *	any       | fault or apply_stop: STOPPED
 */
enum apply_phase {
	APPLY_STOPPED,
	APPLY_RESUMABLE,
	APPLY_BETWEEN,
	APPLY_OPEN,
	APPLY_SKIP,
	APPLY_ENDING,
	APPLY_SEALING,
};

enum apply_checkpoint { CHECKPOINT_NONE, CHECKPOINT_DRAIN, CHECKPOINT_FLUSH };

struct apply_queued;

struct apply {
	/* set by the owner before apply_init */
	const char *name; /* of the machine, for messages */
	const struct apply_events *events;
	void *user;
	struct state *state;
	struct io_engine *io;
	struct pool *pool;
	struct pool_client *client;
	struct undo *undo; /* NULL: no undo log; may change only when quiet */
	/* apply's own */
	enum apply_phase phase;
	struct target *targets;
	size_t target_count;
	struct writer writer;
	struct verify verify;
	struct state_position position; /* seq: the next frame wanted */
	struct state_position saved;	/* the checkpoint under way */
	enum apply_checkpoint checkpoint;
	uint64_t checkpoint_ms, checkpoint_bytes;
	struct apply_queued *head, **tail;
	bool pumping, again;
	bool idle_due, ready_due, sealed;
};

/** apply_init - 0 or -ENOMEM */
int apply_init(struct apply *apply);
/** apply_destroy - only when quiet */
void apply_destroy(struct apply *apply);
/** apply_start - a new stream onto @targets (the owner's, until @idle or @released; none when released) */
void apply_start(struct apply *apply, struct target *targets, size_t count);
/** apply_stop - the stream is over; @idle is called when nothing is in flight, maybe from here */
void apply_stop(struct apply *apply);
/** apply_quiet - stopped and nothing in flight */
bool apply_quiet(const struct apply *apply);
/**
 * apply_frame - take a frame; @payload is the pool's buffer or NULL and belongs to apply now
 * Return: whether to read on; false: wait for @ready.
 */
bool apply_frame(struct apply *apply, const struct wire_frame *frame, void *payload);
/**
 * apply_needs_undo - the targets hold a part of an epoch that has to be undone before anything else: its layer is
 * there, and cannot be gone on with
 */
bool apply_needs_undo(const struct apply *apply);
/** apply_tick - about twice a second: checkpoints that are due by time */
void apply_tick(struct apply *apply);

#endif
