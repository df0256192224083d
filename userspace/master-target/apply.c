// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * apply: see apply.h for phases and promises. From the event loop only.
 *
 * Frames stand in a short queue; pump() takes the first as long as it can go on, and what
 * completes calls pump() again. When the queue is not empty the owner stops reading, so it holds
 * little more than one frame.
 *
 * A checkpoint makes everything before frame S durable without stopping what comes after:
 * note S, turn the writer's generation, wait for the older writes, flush, save, ACK PROGRESS.
 * Writes after S that are on the disk already do no harm: they are applied again after a crash.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "apply.h"
#include "util.h"

struct apply_queued {
	struct apply_queued *next;
	struct wire_frame frame;
	void *payload;
};

enum step { STEP_DONE, STEP_WAIT };

static void pump(struct apply *apply);

/* ---- faults -------------------------------------------------------------- */

static void drop_payload(struct apply *apply, struct apply_queued *queued)
{
	if (queued->payload)
		pool_put(apply->pool, apply->client, queued->payload);
	queued->payload = NULL;
}

static void stop(struct apply *apply)
{
	struct apply_queued *queued;

	if (apply->phase == APPLY_STOPPED)
		return;
	apply->phase = APPLY_STOPPED;
	apply->checkpoint = CHECKPOINT_NONE;
	apply->idle_due = true;
	while ((queued = apply->head)) {
		apply->head = queued->next;
		drop_payload(apply, queued);
		free(queued);
	}
	apply->tail = &apply->head;
	verify_stop(&apply->verify);
}

static enum step fault(struct apply *apply, const struct fault *why)
{
	uint64_t epoch = apply->position.epoch;
	bool inside = apply->pumping;

	if (apply->phase == APPLY_STOPPED)
		return STEP_DONE;
	apply->pumping = true; /* so that @idle comes after @fault */
	stop(apply);
	apply->events->fault(apply->user, why, epoch);
	apply->pumping = inside;
	pump(apply);
	return STEP_DONE;
}

#define FAULT(apply, code, fatal, remedy, ...)                                \
	({                                                                    \
		struct fault why_;                                            \
		fault_set(&why_, 0, code, fatal, remedy, __VA_ARGS__);        \
		fault(apply, &why_);                                          \
	})

#define SEND_AGAIN "the epoch is dropped and has to be sent again; if it goes on, check the process server's spool"

static void write_failed(void *user, const struct target *target, const char *action, uint64_t offset,
			 uint64_t length, int error)
{
	struct apply *apply = user;

	if (error == -ENOSPC || error == -EDQUOT)
		FAULT(apply, "no-space", false,
		      "free space on the file system that holds the image file; replication then goes on "
		      "by itself",
		      "disk %s/%s: cannot %s %" PRIu64 " bytes at %" PRIu64 " of target %s: %s", apply->name,
		      target->name, action, length, offset, target->path, strerror(-error));
	else
		FAULT(apply, "io", false,
		      "check the target disk (dmesg, smartctl) and its path; replication goes on by itself "
		      "when it works again",
		      "disk %s/%s: cannot %s %" PRIu64 " bytes at %" PRIu64 " of target %s: %s", apply->name,
		      target->name, action, length, offset, target->path, strerror(-error));
}

/* Save, or say that it could not be. */
static int save(struct apply *apply)
{
	int r = state_save(apply->state);

	if (r)
		FAULT(apply, r == -ENOSPC || r == -EDQUOT ? "no-space" : "io", false,
		      "free space or repair the file system of the state directory; replication then goes on "
		      "by itself",
		      "machine %s: cannot save its state in %s: %s", apply->name, apply->state->dir,
		      strerror(-r));
	return r;
}

static void ack(struct apply *apply, uint32_t flags, uint64_t epoch, uint64_t attempt, uint32_t seq,
		const json_t *mismatch)
{
	apply->events->ack(apply->user, flags, epoch, attempt, seq, mismatch);
}

/* ---- checkpoints --------------------------------------------------------- */

static void checkpoint_begin(struct apply *apply)
{
	state_position_copy(&apply->saved, &apply->position);
	writer_turn(&apply->writer);
	apply->checkpoint = CHECKPOINT_DRAIN;
	apply->checkpoint_ms = util_now_ms();
	apply->checkpoint_bytes = apply->position.bytes;
	apply->again = true; /* nothing may be in flight that would bring it further */
}

static void checkpoint_consider(struct apply *apply)
{
	uint64_t age = util_now_ms() - apply->checkpoint_ms;
	const struct state_position *position = &apply->position;

	if (apply->phase != APPLY_OPEN || apply->checkpoint != CHECKPOINT_NONE || position->seq < 2 ||
	    apply->verify.active || position->seq == apply->saved.seq)
		return;
	/* An empty old generation is what writer_turn() wants. */
	if (writer_old_in_flight(&apply->writer))
		return;
	if (age >= APPLY_CHECKPOINT_MS ||
	    (position->bytes - apply->checkpoint_bytes >= APPLY_CHECKPOINT_BYTES &&
	     age >= APPLY_CHECKPOINT_PAUSE_MS))
		checkpoint_begin(apply);
}

static void checkpoint_save(struct apply *apply)
{
	struct state_position *partial = &apply->state->partial;

	apply->checkpoint = CHECKPOINT_NONE;
	state_position_copy(partial, &apply->saved);
	if (!save(apply))
		ack(apply, WIRE_ACK_PROGRESS, partial->epoch, partial->attempt, partial->seq, NULL);
}

/* Returns whether it came further. */
static bool checkpoint_step(struct apply *apply)
{
	switch (apply->checkpoint) {
	case CHECKPOINT_DRAIN:
		if (writer_old_in_flight(&apply->writer))
			return false;
		apply->checkpoint = CHECKPOINT_FLUSH;
		if (writer_flush(&apply->writer, apply->targets, apply->target_count))
			FAULT(apply, "io", false, "free memory on this machine",
			      "machine %s: cannot flush its targets: out of memory", apply->name);
		return true;
	case CHECKPOINT_FLUSH:
		if (writer_flushing(&apply->writer))
			return false;
		checkpoint_save(apply);
		return true;
	case CHECKPOINT_NONE:
		break;
	}
	return false;
}

static bool busy(const struct apply *apply)
{
	return writer_in_flight(&apply->writer) || writer_flushing(&apply->writer) ||
	       apply->verify.active || apply->checkpoint != CHECKPOINT_NONE ||
	       (apply->undo && !undo_quiet(apply->undo));
}

/* ---- the undo log -------------------------------------------------------- */

#define UNDO_REMEDY "check the retention volume (dmesg, df); the epoch is undone and comes again by itself"

static void undo_fault(struct apply *apply, const char *action, int error)
{
	if (error == -ENOSPC || error == -EDQUOT)
		FAULT(apply, "no-space", false,
		      "free space on the retention volume, enlarge it, unpin or discard recovery points (reprotect points "
		      "list), or shorten the policy; replication then goes on by itself",
		      "machine %s: the retention volume is full: cannot %s its undo log in %s", apply->name, action,
		      apply->undo->log->path);
	else
		FAULT(apply, "io", false, UNDO_REMEDY, "machine %s: cannot %s its undo log in %s: %s", apply->name, action,
		      apply->undo->log->path, strerror(-error));
}

static void undo_broke(void *user, const struct target *target, const char *action, uint64_t offset, uint64_t length,
		       int error)
{
	if (target)
		write_failed(user, target, action, offset, length, error);
	else
		undo_fault(user, action, error);
}

/* No room, and nothing to give up but the epoch's own undo: record that it has none, and that nothing before it is left. */
static enum undo_full undo_full(void *user)
{
	struct apply *apply = user;
	struct state *state = apply->state;
	enum undo_full answer = apply->events->full ? apply->events->full(apply->user) : UNDO_FULL_FAIL;
	uint64_t open = state->undo.open;
	json_t *now = state->now;

	if (answer != UNDO_FULL_GIVE_UP)
		return answer;
	state->undo.open = 0;
	state->now = NULL;
	if (save(apply)) {
		state->undo.open = open;
		state->now = now;
		return UNDO_FULL_FAIL;
	}
	json_decref(now);
	undo_log_forsake(apply->undo->log);
	return UNDO_FULL_GIVE_UP;
}

static void undo_sealed(void *user, int error)
{
	struct apply *apply = user;

	if (!error)
		apply->sealed = true;
	pump(apply);
}

/* Whether what the targets are now is worth coming back to. */
static bool undo_wanted(const struct apply *apply)
{
	const struct state *state = apply->state;

	return apply->undo && state->now &&
	       (apply->undo->log->chain.count || state->status == STATE_REPLICATING ||
		json_is_true(json_object_get(state->now, "consistent")));
}

/* Begin the layer of an epoch: the file, then the state that says so, then the first write. 0, or said what is wrong. */
static int undo_begin(struct apply *apply)
{
	struct state *state = apply->state;
	int r;

	if (apply->events->paused && apply->events->paused(apply->user))
		r = -ENOSPC;
	else
		r = undo_open(apply->undo, state->number, state->undo.top + 1, state->now);
	if (r && !state->now) /* given up */
		return save(apply);
	if (r) {
		undo_fault(apply, "begin", r);
		return r;
	}
	state->undo.open = ++state->undo.top;
	r = save(apply);
	if (r) {
		state->undo.open = 0;
		undo_abandon(apply->undo);
	}
	return r;
}

/* Before the first write of an epoch. 0, or said what is wrong: then it is not begun. */
static int begin_writing(struct apply *apply)
{
	int r;

	apply->state->between = true;
	if (apply->undo && !undo_wanted(apply))
		undo_log_forsake(apply->undo->log);
	r = undo_wanted(apply) ? undo_begin(apply) : save(apply);
	if (r)
		apply->state->between = false;
	return r;
}

bool apply_needs_undo(const struct apply *apply)
{
	return apply->undo && apply->state->undo.open && (!undo_is_open(apply->undo) || undo_failed(apply->undo));
}

/* ---- frames -------------------------------------------------------------- */

static struct target *target_of(const struct apply *apply, uint32_t id)
{
	for (size_t i = 0; i < apply->target_count; i++)
		if (apply->targets[i].id == id)
			return &apply->targets[i];
	return NULL;
}

/* Whatever was recorded of a part of an epoch does not hold once another is being written. */
static int begin_record(struct apply *apply, const struct wire_frame *frame)
{
	struct state *state = apply->state;
	bool changed = state->partial.seq != 0;
	bool anew = frame->offset == 0 && state->last_applied && state->status == STATE_REPLICATING;

	state_position_clear(&state->partial);
	for (size_t i = 0; i < apply->target_count; i++) {
		struct state_disk *disk = state_disk(state, apply->targets[i].name);

		if (disk && !disk->written)
			disk->written = changed = true;
	}
	if (anew) {
		state->status = STATE_INITIAL;
		tags_restart(&state->tags);
		changed = true;
	}
	return changed ? save(apply) : 0;
}

static enum step on_begin(struct apply *apply, const struct wire_frame *frame)
{
	struct state *state = apply->state;

	if (busy(apply)) /* of an epoch that is dropped now */
		return STEP_WAIT;
	apply->phase = APPLY_BETWEEN;
	state_position_clear(&apply->position);
	state_position_clear(&apply->saved);
	apply->position.epoch = frame->epoch;
	if (frame->seq != 0 || !frame->epoch)
		return FAULT(apply, "bad-frame", false, SEND_AGAIN,
			     "machine %s: BEGIN of epoch %" PRIu64 " is frame %u of its epoch, not 0",
			     apply->name, frame->epoch, frame->seq);
	apply->position.attempt = frame->attempt;
	if (frame->epoch > state->max_epoch)
		state->max_epoch = frame->epoch;
	if (frame->epoch <= state->last_applied) {
		apply->phase = APPLY_SKIP;
		return STEP_DONE;
	}
	if (state->status == STATE_RELEASED)
		return FAULT(apply, "released", true,
			     "if it is to be protected again: reprotect target forget <machine>, then "
			     "reprotect resync",
			     "machine %s: its targets were released with epoch %" PRIu64 "; epoch %" PRIu64
			     " is not applied",
			     apply->name, state->last_applied, frame->epoch);
	if (frame->offset != state->last_applied &&
	    !(frame->offset == 0 && (frame->flags & WIRE_EPOCH_INITIAL)))
		return FAULT(apply, "resync-needed", true, "reprotect resync <machine>",
			     "machine %s: epoch %" PRIu64 " follows epoch %" PRIu64
			     ", but the last one applied here is %" PRIu64,
			     apply->name, frame->epoch, frame->offset, state->last_applied);
	if (begin_record(apply, frame))
		return STEP_DONE;
	apply->position.flags = frame->flags;
	apply->position.expected = frame->length;
	apply->position.seq = 1;
	apply->checkpoint_ms = util_now_ms();
	apply->checkpoint_bytes = 0;
	apply->phase = APPLY_OPEN;
	return STEP_DONE;
}

/* What every frame inside an epoch has to satisfy; STEP_DONE with phase STOPPED when it does not. */
static bool fits(struct apply *apply, const struct wire_frame *frame)
{
	const struct state_position *position = &apply->position;

	if (apply->phase == APPLY_RESUMABLE && frame->epoch == position->epoch &&
	    frame->attempt == position->attempt && frame->seq == position->seq) {
		apply->phase = APPLY_OPEN;
		apply->checkpoint_ms = util_now_ms();
		apply->checkpoint_bytes = position->bytes;
	}
	if (apply->phase == APPLY_BETWEEN || apply->phase == APPLY_RESUMABLE)
		FAULT(apply, "bad-frame", false, SEND_AGAIN,
		      "machine %s: %s of epoch %" PRIu64 " (frame %u), but no such epoch was begun",
		      apply->name, wire_type_name(frame->type), frame->epoch, frame->seq);
	else if (frame->epoch != position->epoch || frame->attempt != position->attempt)
		FAULT(apply, "bad-frame", false, SEND_AGAIN,
		      "machine %s: %s of epoch %" PRIu64 " inside epoch %" PRIu64 ", or of another attempt",
		      apply->name, wire_type_name(frame->type), frame->epoch, position->epoch);
	else if (apply->phase == APPLY_OPEN && frame->seq != position->seq)
		FAULT(apply, "bad-frame", false, SEND_AGAIN,
		      "machine %s: epoch %" PRIu64 ": %s is frame %u, frame %u was expected", apply->name,
		      frame->epoch, wire_type_name(frame->type), frame->seq, position->seq);
	return apply->phase != APPLY_STOPPED;
}

static struct target *checked_target(struct apply *apply, const struct wire_frame *frame)
{
	struct target *target = target_of(apply, frame->disk);

	if (!target) {
		FAULT(apply, "bad-frame", true, "restart the agent, so that it names its disks again",
		      "machine %s: epoch %" PRIu64 ": %s for disk number %u, which its HELLO did not name",
		      apply->name, frame->epoch, wire_type_name(frame->type), frame->disk);
		return NULL;
	}
	if (!frame->length || frame->offset > target->source_bytes ||
	    frame->length > target->source_bytes - frame->offset) {
		FAULT(apply, "bad-frame", true,
		      "restart the agent, so that it learns the size of its disks again",
		      "disk %s/%s: epoch %" PRIu64 ": %s of %" PRIu64 " bytes at %" PRIu64
		      " does not lie on the disk of %" PRIu64 " bytes",
		      apply->name, target->name, frame->epoch, wire_type_name(frame->type), frame->length,
		      frame->offset, target->source_bytes);
		return NULL;
	}
	return target;
}

static void count_frame(struct apply *apply, const struct wire_frame *frame)
{
	struct state_position *position = &apply->position;

	position->seq++;
	position->digest = wire_digest_add(position->digest, frame);
	if (frame->type == WIRE_DATA || frame->type == WIRE_ZERO)
		position->bytes += frame->length;
}

static enum step on_data(struct apply *apply, struct apply_queued *queued)
{
	const struct wire_frame *frame = &queued->frame;
	struct target *target;
	void *payload;

	if (!fits(apply, frame) || apply->phase == APPLY_SKIP)
		return STEP_DONE;
	if (apply->position.verifying || apply->position.tag)
		return FAULT(apply, "bad-frame", false, SEND_AGAIN,
			     "machine %s: epoch %" PRIu64 ": %s after %s", apply->name, frame->epoch,
			     wire_type_name(frame->type), apply->position.tag ? "TAG" : "VERIFY");
	target = checked_target(apply, frame);
	if (!target)
		return STEP_DONE;
	if (writer_full(&apply->writer) ||
	    writer_overlaps(&apply->writer, target, frame->offset, frame->length))
		return STEP_WAIT;
	if (!apply->state->between && begin_writing(apply))
		return STEP_DONE;
	/* First: the write may fail, and the queue with this frame be gone, inside writer_start(). */
	count_frame(apply, frame);
	payload = queued->payload;
	queued->payload = NULL;
	if (writer_start(&apply->writer, target, frame, payload)) {
		if (payload)
			pool_put(apply->pool, apply->client, payload);
		FAULT(apply, "io", false, "free memory on this machine",
		      "disk %s/%s: cannot write: out of memory", apply->name, target->name);
	}
	return STEP_DONE;
}

static enum step on_verify(struct apply *apply, struct apply_queued *queued)
{
	const struct wire_frame *frame = &queued->frame;
	struct target *target;

	if (apply->verify.active)
		return STEP_WAIT;
	if (!fits(apply, frame) || apply->phase == APPLY_SKIP)
		return STEP_DONE;
	target = checked_target(apply, frame);
	if (!target)
		return STEP_DONE;
	if (apply->position.tag)
		return FAULT(apply, "bad-frame", false, SEND_AGAIN,
			     "machine %s: epoch %" PRIu64 ": VERIFY after TAG", apply->name, frame->epoch);
	if (!queued->payload || frame->payload_bytes != 16)
		return FAULT(apply, "bad-frame", false, SEND_AGAIN,
			     "machine %s: epoch %" PRIu64 ": VERIFY without a hash", apply->name,
			     frame->epoch);
	if (busy(apply))
		return STEP_WAIT;
	apply->position.verifying = true;
	verify_start(&apply->verify, target, frame, queued->payload);
	return STEP_WAIT; /* verify_finished() takes the frame from the queue */
}

static void pop(struct apply *apply)
{
	struct apply_queued *queued = apply->head;

	apply->head = queued->next;
	if (!apply->head)
		apply->tail = &apply->head;
	drop_payload(apply, queued);
	free(queued);
}

static void verify_finished(void *user, bool equal, int error)
{
	struct apply *apply = user;
	const struct target *target = apply->verify.target;

	if (apply->phase != APPLY_STOPPED && error) {
		write_failed(apply, target, "read", apply->head->frame.offset, apply->head->frame.length,
			     error);
	} else if (apply->phase != APPLY_STOPPED) {
		const struct wire_frame *frame = &apply->head->frame;
		const struct state_disk *disk = state_disk(apply->state, target->name);
		uint64_t *verified = disk ? &apply->position.verified[disk - apply->state->disks] : NULL;

		if (!equal)
			state_mismatch_add(&apply->position.mismatch, frame->disk, frame->offset,
					   frame->length);
		if (verified && *verified == frame->offset)
			*verified += frame->length;
		count_frame(apply, frame);
		pop(apply);
		checkpoint_consider(apply); /* before the next VERIFY, if it is here already */
	}
	pump(apply);
}

/* What the epoch promises; kept with the position, recorded at its end. */
static enum step on_tag(struct apply *apply, const struct apply_queued *queued)
{
	const struct wire_frame *frame = &queued->frame;
	struct state_position *position = &apply->position;
	const char *why;

	if (!fits(apply, frame) || apply->phase == APPLY_SKIP)
		return STEP_DONE;
	if (position->tag || position->flags & (WIRE_EPOCH_FUZZY | WIRE_EPOCH_INITIAL))
		return FAULT(apply, "bad-frame", true, "update the agent",
			     "machine %s: epoch %" PRIu64 ": %s", apply->name, frame->epoch,
			     position->tag ? "a second TAG" : "TAG in a fuzzy epoch");
	position->tag = tags_parse(queued->payload, frame->payload_bytes, frame->epoch, &why);
	if (!position->tag)
		return FAULT(apply, "bad-frame", true, "update the agent",
			     "machine %s: epoch %" PRIu64 ": TAG: %s", apply->name, frame->epoch, why);
	count_frame(apply, frame);
	return STEP_DONE;
}

/* The first disk that VERIFY frames did not cover from its start to its end, or NULL. */
static const struct target *not_verified(const struct apply *apply)
{
	for (size_t i = 0; i < apply->target_count; i++) {
		const struct target *target = &apply->targets[i];
		const struct state_disk *disk = state_disk(apply->state, target->name);

		if (!disk ||
		    apply->position.verified[disk - apply->state->disks] != target->source_bytes)
			return target;
	}
	return NULL;
}

static enum step end_wrong(struct apply *apply, const char *what, uint64_t is, uint64_t wanted)
{
	bool recorded = apply->state->partial.seq != 0;

	state_position_clear(&apply->state->partial);
	if (recorded && save(apply))
		return STEP_DONE;
	return FAULT(apply, "bad-frame", false, SEND_AGAIN,
		     "machine %s: epoch %" PRIu64 ": %s is %016" PRIx64 ", END says %016" PRIx64
		     "; the epoch is not acknowledged",
		     apply->name, apply->position.epoch, what, is, wanted);
}

static void end_skipped(struct apply *apply, const struct wire_frame *frame)
{
	const struct state *state = apply->state;
	bool last = frame->epoch == state->last_applied;
	uint32_t flags = WIRE_ACK_APPLIED;

	if (last && state->status == STATE_RELEASED)
		flags |= WIRE_ACK_RELEASED;
	apply->phase = APPLY_BETWEEN;
	ack(apply, flags, frame->epoch, frame->attempt, frame->seq, last ? state->last_mismatch : NULL);
}

static enum step on_end(struct apply *apply, const struct wire_frame *frame)
{
	struct state_position *position = &apply->position;

	if (apply->phase == APPLY_ENDING || apply->phase == APPLY_SEALING)
		return STEP_WAIT;
	if (!fits(apply, frame))
		return STEP_DONE;
	if (apply->phase == APPLY_SKIP) {
		end_skipped(apply, frame);
		return STEP_DONE;
	}
	if (busy(apply))
		return STEP_WAIT;
	if (frame->offset != position->digest)
		return end_wrong(apply, "the digest", position->digest, frame->offset);
	if (frame->length != position->bytes)
		return end_wrong(apply, "the number of bytes", position->bytes, frame->length);
	const struct target *rest = position->flags & WIRE_EPOCH_FINAL ? not_verified(apply) : NULL;

	if (rest)
		return FAULT(apply, "bad-frame", false,
			     "the final epoch has to carry VERIFY frames over the whole of every disk, in "
			     "order; update the agent",
			     "disk %s/%s: final epoch %" PRIu64 " does not verify all of it", apply->name,
			     rest->name, position->epoch);
	if (frame->flags & WIRE_END_CONSISTENT ? position->flags & (WIRE_EPOCH_FUZZY | WIRE_EPOCH_INITIAL) :
						 position->tag != NULL)
		return FAULT(apply, "bad-frame", true, "update the agent",
			     "machine %s: epoch %" PRIu64 " %s", apply->name, position->epoch,
			     position->tag ? "has a TAG, but does not end as consistent" :
					     "ends as consistent, but began as fuzzy");
	apply->phase = APPLY_ENDING;
	apply->sealed = false;
	/* An epoch without a change is a state of its own, too. */
	if (undo_wanted(apply) && !undo_is_open(apply->undo) && !apply->state->between && undo_begin(apply))
		return STEP_DONE;
	if (writer_flush(&apply->writer, apply->targets, apply->target_count))
		return FAULT(apply, "io", false, "free memory on this machine",
			     "machine %s: cannot flush its targets: out of memory", apply->name);
	return STEP_WAIT;
}

/* The targets are flushed: the layer is next. Returns whether there is one. */
static bool end_seal(struct apply *apply)
{
	if (!apply->undo || !undo_is_open(apply->undo))
		return false;
	apply->phase = APPLY_SEALING;
	undo_seal(apply->undo);
	return true;
}

/* The state file says so now: the undo log follows. @was: what the layer leads back to. */
static void end_log(struct apply *apply, json_t *was)
{
	struct undo *undo = apply->undo;
	struct undo_entry entry;

	if (undo && undo_is_open(undo)) {
		undo_entry(undo, &entry);
		entry.meta = json_incref(was);
		undo_close(undo);
		if (undo_log_sealed(undo->log, &entry)) {
			json_decref(entry.meta);
			undo_log_committed(undo->log, apply->state->number); /* without memory: older points are lost */
		}
	} else if (undo) {
		undo_close(undo); /* one that was given up */
		undo_log_committed(undo->log, apply->state->number);
	}
}

/* Everything of the epoch is on stable storage: record that, then say so. */
static void end_commit(struct apply *apply)
{
	const struct wire_frame frame = apply->head->frame;
	const struct state_position *position = &apply->position;
	struct state *state = apply->state, before = *state;
	bool final = (position->flags & WIRE_EPOCH_FINAL) != 0;
	bool released = final && !json_array_size(position->mismatch);
	bool consistent = frame.flags & WIRE_END_CONSISTENT && !json_array_size(position->mismatch);

	tags_copy(&state->tags, &before.tags);
	state->now = state_describe(state, position->epoch, consistent, position->tag);
	if (!state->now || tags_applied(&state->tags, position->epoch, consistent, position->flags & WIRE_EPOCH_INITIAL,
					position->tag)) {
		json_decref(state->now);
		tags_clear(&state->tags);
		*state = before;
		FAULT(apply, "io", false, "free memory on this machine",
		      "machine %s: cannot record epoch %" PRIu64 ": out of memory", apply->name,
		      position->epoch);
		return;
	}
	state->last_applied = position->epoch;
	state->applied_ms = util_wall_ms();
	state->last_mismatch = json_incref(position->mismatch);
	memset(&state->partial, 0, sizeof(state->partial));
	state->between = false;
	state->number = state->undo.open ? state->undo.open : ++state->undo.top;
	state->undo.open = state->rollback_from = 0;
	if (released) {
		state->status = STATE_RELEASED;
		state->released_ms = state->applied_ms;
	} else if (!(position->flags & WIRE_EPOCH_INITIAL)) {
		state->status = STATE_REPLICATING;
	}
	if (save(apply)) {
		json_decref(state->last_mismatch);
		json_decref(state->now);
		tags_clear(&state->tags);
		*state = before;
		if (apply->undo)
			undo_close(apply->undo); /* so that the epoch is undone */
		return;
	}
	end_log(apply, before.now);
	json_decref(before.now);
	json_decref(before.last_mismatch);
	tags_clear(&before.tags);
	state_position_clear(&before.partial);
	apply->phase = APPLY_BETWEEN;
	pop(apply);
	if (released) {
		apply->targets = NULL;
		apply->target_count = 0;
		apply->events->released(apply->user);
	}
	ack(apply, WIRE_ACK_APPLIED | (released ? WIRE_ACK_RELEASED : 0), frame.epoch, frame.attempt,
	    frame.seq, state->last_mismatch);
}

static enum step on_abort(struct apply *apply)
{
	if (busy(apply))
		return STEP_WAIT;
	apply->phase = APPLY_BETWEEN;
	return STEP_DONE;
}

static enum step take(struct apply *apply, struct apply_queued *queued)
{
	switch (queued->frame.type) {
	case WIRE_BEGIN:
		return on_begin(apply, &queued->frame);
	case WIRE_DATA:
	case WIRE_ZERO:
		return on_data(apply, queued);
	case WIRE_VERIFY:
		return on_verify(apply, queued);
	case WIRE_TAG:
		return on_tag(apply, queued);
	case WIRE_END:
		return on_end(apply, &queued->frame);
	case WIRE_ABORT:
		return on_abort(apply);
	default:
		return FAULT(apply, "bad-frame", true, "update the process server",
			     "machine %s: unexpected %s frame", apply->name,
			     wire_type_name(queued->frame.type));
	}
}

static bool end_ready(struct apply *apply)
{
	if (apply->phase == APPLY_ENDING && !writer_flushing(&apply->writer) && !end_seal(apply))
		return true;
	return apply->phase == APPLY_SEALING && apply->sealed;
}

/* Go as far as possible. What happens inside and asks for it again is served by the same loop. */
static void pump(struct apply *apply)
{
	apply->again = true;
	if (apply->pumping)
		return;
	apply->pumping = true;
	while (apply->again) {
		apply->again = false;
		while (checkpoint_step(apply))
			;
		if (end_ready(apply))
			end_commit(apply);
		while (apply->head && apply->phase != APPLY_STOPPED &&
		       take(apply, apply->head) == STEP_DONE && apply->phase != APPLY_STOPPED) {
			pop(apply);
			checkpoint_consider(apply);
		}
		checkpoint_consider(apply);
		if (end_ready(apply))
			apply->again = true;
	}
	apply->pumping = false;
	if (apply->idle_due && apply_quiet(apply)) {
		apply->idle_due = false;
		apply->events->idle(apply->user);
	} else if (apply->ready_due && !apply->head && apply->phase != APPLY_STOPPED) {
		apply->ready_due = false;
		apply->events->ready(apply->user);
	}
}

static void progress(void *user)
{
	pump(user);
}

/* ---- the owner's calls --------------------------------------------------- */

int apply_init(struct apply *apply)
{
	apply->writer = (struct writer){ .io = apply->io,
					 .pool = apply->pool,
					 .client = apply->client,
					 .progress = progress,
					 .failed = write_failed,
					 .user = apply };
	apply->verify.io = apply->io;
	apply->verify.pool = apply->pool;
	apply->verify.finished = verify_finished;
	apply->verify.user = apply;
	apply->tail = &apply->head;
	return verify_init(&apply->verify);
}

void apply_destroy(struct apply *apply)
{
	verify_destroy(&apply->verify);
	state_position_clear(&apply->position);
	state_position_clear(&apply->saved);
}

void apply_start(struct apply *apply, struct target *targets, size_t count)
{
	apply->targets = targets;
	apply->target_count = count;
	apply->checkpoint = CHECKPOINT_NONE;
	apply->idle_due = apply->ready_due = false;
	state_position_copy(&apply->position, &apply->state->partial);
	state_position_copy(&apply->saved, &apply->position);
	apply->phase = apply->position.seq ? APPLY_RESUMABLE : APPLY_BETWEEN;
	apply->sealed = false;
	apply->writer.undo = apply->undo;
	if (!apply->undo)
		return;
	apply->undo->failed = undo_broke;
	apply->undo->full = undo_full;
	apply->undo->sealed = undo_sealed;
	apply->undo->user = apply;
}

bool apply_quiet(const struct apply *apply)
{
	return apply->phase == APPLY_STOPPED && !busy(apply);
}

void apply_stop(struct apply *apply)
{
	stop(apply);
	pump(apply);
}

bool apply_frame(struct apply *apply, const struct wire_frame *frame, void *payload)
{
	struct apply_queued *queued = apply->phase == APPLY_STOPPED ? NULL : calloc(1, sizeof(*queued));

	if (!queued) {
		if (payload)
			pool_put(apply->pool, apply->client, payload);
		if (apply->phase != APPLY_STOPPED)
			FAULT(apply, "io", false, "free memory on this machine",
			      "machine %s: cannot take a frame: out of memory", apply->name);
		return false;
	}
	queued->frame = *frame;
	queued->payload = payload;
	bool first = !apply->head;

	*apply->tail = queued;
	apply->tail = &queued->next;
	if (first)
		pump(apply);
	apply->ready_due = apply->head != NULL;
	return apply->head == NULL && apply->phase != APPLY_STOPPED;
}

void apply_tick(struct apply *apply)
{
	if (apply->phase != APPLY_STOPPED)
		pump(apply);
}
