/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * state: what the master target knows about a machine and must not forget:
 * <state>/<machine uuid>/state.json, replaced atomically and durably by every state_save().
 *
 * Written by apply.c (position in the stream of epochs) and machine.c (targets). Nothing is
 * acknowledged to the upstream before the state that says so is saved.
 */
#ifndef MASTER_TARGET_STATE_H
#define MASTER_TARGET_STATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tags.h"
#include "undo_format.h"

#define STATE_NAME_BYTES 256
#define STATE_DISKS_MAX 256
#define STATE_PAUSE_MS 3600000u
#define STATE_MISMATCH_MAX 1000u

/**
 * enum state_status - where a machine stands
 *
 *	INITIAL      --epoch applied without the INITIAL flag-->     REPLICATING
 *	REPLICATING  --a chain that begins anew (previous epoch 0)-> INITIAL
 *	either       --final epoch, verified-->                      RELEASED
 *	RELEASED     --forget (operator)-->                          (gone)
 *	either       --rolled back to a point-->                     ROLLED_BACK
 *	ROLLED_BACK  --rolled back to the newest epoch-->            as before
 */
enum state_status { STATE_INITIAL, STATE_REPLICATING, STATE_RELEASED, STATE_ROLLED_BACK };

/**
 * struct state_disk - a target as it was accepted
 * @source_bytes: size of the source disk
 * @identity: see target_identity()
 * @created: an image file that we made, so that we may grow it
 * @written: we may have written to it: what it carries is ours
 */
struct state_disk {
	char name[STATE_NAME_BYTES];
	char path[4096];
	uint32_t id;
	uint64_t source_bytes;
	json_t *identity;
	bool created, written;
};

/**
 * struct state_position - how far inside an epoch all frames are durable
 * @seq: the next frame wanted; 0: no position (BEGIN is wanted)
 * @digest, @bytes: over the frames before @seq
 * @verified: bytes from the start of each disk (same index) that VERIFY frames covered
 * @mismatch: array of {"disk","offset","length"} that did not compare equal, or NULL
 * @tag: what the epoch's TAG says, or NULL
 */
struct state_position {
	uint64_t epoch, attempt, digest, bytes, expected;
	uint32_t flags, seq;
	bool verifying;
	uint64_t verified[STATE_DISKS_MAX];
	json_t *mismatch, *tag;
};

/**
 * struct state_undo - what counts in the machine's undo log (undo_log.h)
 * @log: which log; all zero: none yet
 * @top: highest number of a state ever used
 * @open: last state of the layer that is being written, durable before its first record; 0: none
 * @rollback_to: a rollback to this state was begun and has to be finished; 0: none
 */
struct state_undo {
	uint8_t log[UNDO_UUID_BYTES];
	uint64_t top, open, rollback_to;
};

/**
 * struct state - what is known of a machine
 * @between: the targets may hold a part of an epoch behind @last_applied; durable before its first write
 * @partial: how far that epoch is durable, if it can be gone on with
 * @number: of the state that the targets are in when not @between; 0: none yet
 * @now: what that state is (undo_log.h), or NULL: nothing that one could come back to
 * @rollback_from: state before the last rollback, 0: there was none, or new epochs have followed
 */
struct state {
	char dir[4096];
	char uuid[STATE_NAME_BYTES];
	char host[STATE_NAME_BYTES];
	enum state_status status;
	uint64_t last_applied, max_epoch;
	bool between;
	json_t *last_mismatch; /* of the epoch last_applied, or NULL */
	struct tags tags;
	struct state_position partial;
	struct state_undo undo;
	uint64_t number, rollback_from;
	json_t *now;
	struct state_disk *disks;
	size_t disk_count;
	uint64_t created_ms, applied_ms, released_ms;
};

/** state_name_ok - fit for a file name: letters, digits, dot, dash, underscore; no leading dot */
bool state_name_ok(const char *name);

/** state_init - a machine that is not known yet; nothing is saved */
void state_init(struct state *state, const char *state_dir, const char *uuid);
/** state_load - -ENOENT no such machine; -EBADMSG damaged, a message in @error */
int state_load(struct state *state, const char *state_dir, const char *uuid, char *error,
	       size_t error_bytes);
/** state_save - durable when it returns 0; else negative errno, the old file stays */
int state_save(const struct state *state);
/** state_forget - remove the machine's state from the disk */
int state_forget(const struct state *state);
void state_clear(struct state *state);

struct state_disk *state_disk(const struct state *state, const char *name);
/** state_disk_add - the disk @name, made when missing; NULL: too many, or out of memory */
struct state_disk *state_disk_add(struct state *state, const char *name);

void state_position_clear(struct state_position *position);
void state_position_copy(struct state_position *to, const struct state_position *from);

/** state_mismatch_add - note a range that differs; adjacent ones are merged, the number is bounded */
void state_mismatch_add(json_t **list, uint32_t disk, uint64_t offset, uint64_t length);

/**
 * state_describe - what the targets are with @epoch applied, as undo_log.h has it; @tag may be NULL
 * "active_ms" goes on from what state->now has, for the age of points (retention.h): by the time between the two cuts or that between
 * the two ends, whichever is shorter, and by STATE_PAUSE_MS at most. So a clock that is set, on either side, a source that is silent
 * for a weekend, or what comes late all at once, makes no point old.
 * Return: a new object, or NULL: out of memory.
 */
json_t *state_describe(const struct state *state, uint64_t epoch, bool consistent, const json_t *tag);
/** state_log_known - whether the machine has an undo log */
bool state_log_known(const struct state *state);

const char *state_status_name(enum state_status status);

#endif
