// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * epoch: one epoch from cut to commit or abort. Called by agent.c (time to cut), link.c
 * (acknowledgements, errors), failback.c (the final epoch), and by ship.c through hooks.
 *
 * Promise: what is cut is committed only after the acknowledgement that the configuration
 * asks for, and only in the ranges that were sent; everything else goes back into the dirty
 * map. Numbers are never used twice.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agent.h"
#include "link.h"
#include "log.h"
#include "points.h"
#include "ship.h"
#include "snapshot.h"
#include "tag.h"
#include "util.h"

#define READ_STALL_MS 60000u

static size_t epoch_devs(const struct agent *agent, dev_t *devs)
{
	size_t count = 0;

	for (size_t i = 0; i < agent->disk_count; i++)
		if (agent->disks[i].active)
			devs[count++] = agent->disks[i].dev;
	return count;
}

/* Put the open epoch back into the dirty maps; disk by disk when that fails for the group. */
static void kernel_abort(struct agent *agent)
{
	const struct tracker_ops *ops = agent->tracker_ops;
	dev_t devs[AGENT_DISKS_MAX];
	size_t count = epoch_devs(agent, devs);

	if (!agent->epoch.open)
		return;
	agent->epoch.open = false;
	if (!count || !ops->abort(agent->tracker, agent->epoch.number, devs, count))
		return;
	for (size_t i = 0; i < count; i++) {
		int rc = ops->abort(agent->tracker, agent->epoch.number, &devs[i], 1);

		if (rc && rc != -ESRCH && rc != -ENOENT)
			log_error("disk %s: cannot abort epoch %" PRIu64 ": %s: %s (tried again at the "
				  "next cut)",
				  disks_find_dev(agent, devs[i])->name, agent->epoch.number,
				  strerror(-rc), ops->error(agent->tracker));
	}
}

static void epoch_close(struct agent *agent)
{
	slice_free(&agent->before);
	agent->before = agent->epoch.slice;
	agent->epoch.slice = (struct slice){ 0 };
	agent->epoch.flags = 0;
	agent->epoch.phase = ship_is_idle(agent->ship) ? EPOCH_NONE : EPOCH_DRAINING;
	if (agent->epoch.phase == EPOCH_NONE)
		points_close(agent);
}

/* Stop what is under way and put it back. */
static void epoch_stop(struct agent *agent)
{
	struct agent_epoch *epoch = &agent->epoch;

	if (epoch->phase == EPOCH_SENDING || epoch->phase == EPOCH_WAITING) {
		ship_cancel(agent->ship, agent->link->conn && agent->link->state == LINK_UP);
		while (agent->waiting_count &&
		       agent->waiting[agent->waiting_count - 1].epoch == epoch->number)
			agent->waiting_count--;
	}
	kernel_abort(agent);
	if (epoch->phase != EPOCH_DRAINING)
		epoch_close(agent);
}

void epoch_fail(struct agent *agent, const char *remedy, const char *format, ...)
{
	bool sending = agent->epoch.phase == EPOCH_SENDING || agent->epoch.phase == EPOCH_WAITING;
	char text[AGENT_TEXT_BYTES];
	va_list list;

	va_start(list, format);
	vsnprintf(text, sizeof(text), format, list);
	va_end(list);
	if (sending) {
		agent->slice_bytes /= 2;
		if (agent->slice_bytes < AGENT_SLICE_MIN_BYTES)
			agent->slice_bytes = AGENT_SLICE_MIN_BYTES;
	}
	if (sending || agent->epoch.open)
		agent_problem_set(&agent->epoch_problem, remedy, "epoch %" PRIu64 ": aborted: %s",
				  agent->epoch.number, text);
	epoch_stop(agent);
	tag_epoch_failed(agent, text, remedy);
	failback_epoch_failed(agent, text, remedy);
	agent_schedule(agent, 1000);
}

void epoch_abandon(struct agent *agent)
{
	bool sending = agent->epoch.phase == EPOCH_SENDING || agent->epoch.phase == EPOCH_WAITING;

	epoch_stop(agent);
	if (sending)
		tag_epoch_failed(agent, "the epoch was given up", "try again; see reprotect status");
}

/* The disks that hold an epoch open that is not ours (an agent died, an abort failed). */
static void abort_leftovers(struct agent *agent)
{
	for (size_t i = 0; i < agent->disk_count; i++) {
		struct agent_disk *disk = &agent->disks[i];

		if (disk->active && disk->info.epoch_state == BLKCBT_EPOCH_OPEN)
			agent->tracker_ops->abort(agent->tracker, disk->info.epoch, &disk->dev, 1);
	}
}

uint64_t epoch_number(struct agent *agent)
{
	for (size_t i = 0; i < agent->disk_count; i++)
		if (agent->disks[i].active && agent->disks[i].info.epoch > agent->last_number)
			agent->last_number = agent->disks[i].info.epoch;
	return ++agent->last_number;
}

uint64_t epoch_limit_bytes(const struct agent *agent)
{
	uint64_t limit = agent->link->max_epoch_bytes;

	limit -= limit / 16; /* headers count too */
	return limit && limit < agent->slice_bytes ? limit : agent->slice_bytes;
}

/* Cut all disks under a new number. 0, or negative errno: nothing is open. */
static int epoch_open(struct agent *agent, uint32_t mode)
{
	const struct tracker_ops *ops = agent->tracker_ops;
	dev_t devs[AGENT_DISKS_MAX];
	size_t count = epoch_devs(agent, devs);
	struct agent_epoch *epoch = &agent->epoch;
	struct cbt_cut cut = { .mode = mode, .budget_bytes = agent->config.preserve_budget };
	int rc;

	epoch->number = cut.epoch = epoch_number(agent);
	epoch->attempt = util_random();
	epoch->previous = agent->chain;
	epoch->cut_ms = util_now_ms();
	epoch->exact = false;
	epoch->hot_bytes = 0;
	epoch->tag[0] = '\0';
	rc = ops->cut(agent->tracker, &cut, devs, count);
	if ((rc == -EOPNOTSUPP || rc == -ENOMEM) && cut.mode != BLKCBT_MODE_FUZZY) {
		points_cannot(agent, rc, ops->error(agent->tracker));
		cut.mode = BLKCBT_MODE_FUZZY;
		rc = ops->cut(agent->tracker, &cut, devs, count);
	}
	if (rc) {
		agent_problem_set(&agent->epoch_problem, "see the kernel log: dmesg | grep blkcbt",
				  "epoch %" PRIu64 ": cannot cut: %s: %s", epoch->number, strerror(-rc),
				  ops->error(agent->tracker));
		if (disks_refresh(agent))
			agent_group_changed(agent);
		else
			abort_leftovers(agent);
		agent_schedule(agent, 1000);
		return rc;
	}
	epoch->open = true;
	epoch->hold_ns = cut.hold_ns;
	epoch->cut_wall_ms = util_wall_ms() - (util_now_ns() - cut.cut_ns) / 1000000;
	agent->epoch_cut = epoch->number;
	if (disks_refresh(agent)) {
		agent_group_changed(agent);
		return -ECANCELED;
	}
	return 0;
}

struct enumerate {
	const struct tracker_ops *ops;
	struct tracker_extents *extents;
	struct blkcbt_extent batch[512];
	int count, next;
};

static int enumerate_next(uint64_t *offset_bytes, uint64_t *length_bytes, void *user)
{
	struct enumerate *list = user;

	if (list->next == list->count) {
		list->next = 0;
		list->count = list->ops->extents_read(list->extents, list->batch,
						      ARRAY_LENGTH(list->batch));
		if (list->count <= 0) {
			int rc = list->count;

			list->count = 0;
			return rc;
		}
	}
	*offset_bytes = list->batch[list->next].offset_bytes;
	*length_bytes = list->batch[list->next++].length_bytes;
	return 1;
}

static int plan_from(struct agent *agent, size_t index, uint64_t from_bytes, uint64_t budget_bytes)
{
	struct agent_disk *disk = &agent->disks[index];
	struct slice_bad bad = { disk->bad_bytes, disk->bad_count, disk->granule_bytes };
	struct enumerate list = { .ops = agent->tracker_ops };
	int rc;

	rc = list.ops->extents_open(agent->tracker, &disk->info, from_bytes, &list.extents);
	if (rc)
		return rc;
	rc = slicer_take(&agent->epoch.slice, (uint32_t)index, disk->info.size_bytes,
			 disk->granule_bytes, from_bytes, budget_bytes, &bad, enumerate_next, &list,
			 &disk->cover);
	list.ops->extents_close(list.extents);
	return rc;
}

/* What of one disk goes into the epoch. */
static int plan_disk(struct agent *agent, size_t index, uint64_t share_bytes)
{
	struct agent_disk *disk = &agent->disks[index];
	uint64_t from = disk->cursor_bytes;
	int rc;

	disk->passed = false;
	if (disk->bad_count && util_now_ms() >= disk->bad_retry_ms)
		disk->bad_count = 0;
	if (!disk->info.open_bytes) {
		disk->cover = (struct slice_cover){ .to_bytes = disk->info.size_bytes,
						    .at_end = true };
		disk->passed = true;
		return 0;
	}
	if (share_bytes >= disk->info.open_bytes)
		from = 0; /* all of it fits */
	rc = plan_from(agent, index, from, share_bytes);
	if (!rc && from && !disk->cover.bytes && share_bytes) {
		disk->passed = !disk->pass_skipped && !disk->cover.skipped;
		disk->pass_skipped = false;
		rc = plan_from(agent, index, 0, share_bytes);
	}
	if (disk->cover.at_end && !disk->cover.skipped && !(disk->pass_skipped && from))
		disk->passed = true;
	return rc;
}

/*
 * How old the other side's copy will be once the open epoch is committed: a pass that went over
 * the whole disk in several epochs brought everything that was dirty when it began.
 */
static void plan_age(struct agent_disk *disk, uint64_t cut_ms)
{
	const struct slice_cover *cover = &disk->cover;

	disk->next_pass_ms = cover->from_bytes ? disk->pass_ms : cut_ms;
	disk->next_covered_ms = disk->covered_ms;
	if (disk->passed)
		disk->next_covered_ms = !cover->from_bytes && cover->at_end ? cut_ms : disk->pass_ms;
}

/* Fill the slice from the open epoch. */
static int epoch_plan(struct agent *agent)
{
	struct agent_epoch *epoch = &agent->epoch;
	uint64_t dirty[AGENT_DISKS_MAX] = { 0 }, share[AGENT_DISKS_MAX];
	uint64_t budget = epoch_limit_bytes(agent);
	bool more = false;

	for (size_t i = 0; i < agent->disk_count; i++)
		if (agent->disks[i].active)
			dirty[i] = agent->disks[i].info.open_bytes;
	slicer_share(dirty, agent->disk_count, budget, share);
	epoch->whole = true;
	epoch->synced_ms = UINT64_MAX;
	agent->last_cut_bytes = 0;
	for (size_t i = 0; i < agent->disk_count; i++) {
		struct agent_disk *disk = &agent->disks[i];
		int rc;

		if (!disk->active)
			continue;
		agent->last_cut_bytes += dirty[i];
		rc = plan_disk(agent, i, share[i]);
		if (rc) {
			epoch_fail(agent, "see the kernel log: dmesg | grep blkcbt",
				   "disk %s (%s): cannot enumerate its changes: %s", disk->name,
				   disk->device, strerror(-rc));
			return rc;
		}
		plan_age(disk, epoch->cut_ms);
		if (disk->next_covered_ms < epoch->synced_ms)
			epoch->synced_ms = disk->next_covered_ms;
		if (disk->cover.from_bytes || !disk->cover.at_end || disk->cover.skipped)
			epoch->whole = false;
		if (disk->initial && !disk->passed)
			more = true;
	}
	points_open(agent);
	epoch->flags = (epoch->mode == BLKCBT_MODE_CONSISTENT ? 0 : WIRE_EPOCH_FUZZY) |
		       (more ? WIRE_EPOCH_INITIAL : 0);
	return 0;
}

/* Move the cursors as if committed; true when a first pass was completed. */
static bool epoch_advance(struct agent *agent)
{
	bool completed = false;

	for (size_t i = 0; i < agent->disk_count; i++) {
		struct agent_disk *disk = &agent->disks[i];

		if (!disk->active)
			continue;
		disk->pass_skipped = disk->cover.next_bytes ?
					     disk->pass_skipped || disk->cover.skipped :
					     false;
		disk->cursor_bytes = disk->cover.next_bytes;
		disk->pass_ms = disk->next_pass_ms;
		disk->covered_ms = disk->next_covered_ms;
		if (!disk->bad_count)
			agent_problem_clear(&disk->problem);
		if (disk->passed && disk->initial) {
			disk->initial = false;
			completed = true;
			log_notice("disk %s (%s): initial sync complete", disk->name, disk->device);
		}
	}
	return completed;
}

static int image_fd(const struct agent *agent, const struct agent_disk *disk)
{
	return disk->image ? agent->tracker_ops->image_fd(disk->image) : -1;
}

static int epoch_send(struct agent *agent, bool verify)
{
	struct agent_epoch *epoch = &agent->epoch;
	struct ship_disk disks[AGENT_DISKS_MAX];
	struct ship_epoch job = { .number = epoch->number,
				  .attempt = epoch->attempt,
				  .previous = epoch->previous,
				  .flags = epoch->flags,
				  .slice = verify ? NULL : &epoch->slice,
				  .verify = verify,
				  .disks = disks };
	int rc;

	for (size_t i = 0; i < agent->disk_count; i++) {
		const struct agent_disk *disk = &agent->disks[i];

		if (verify && !disk->active)
			continue;
		disks[job.disk_count++] = (struct ship_disk){ .fd = disk->fd,
							      .image_fd = image_fd(agent, disk),
							      .id = disk->id,
							      .granule_bytes = disk->granule_bytes,
							      .size_bytes = disk->info.size_bytes };
	}
	rc = ship_begin(agent->ship, agent->link->conn, &job);
	if (rc) {
		epoch_fail(agent, NULL, "cannot begin to send: %s", strerror(-rc));
		return rc;
	}
	epoch->phase = EPOCH_SENDING;
	return 0;
}

bool epoch_possible(const struct agent *agent)
{
	return agent->tracker && !agent->released && agent->link->state == LINK_UP &&
	       agent->epoch.phase == EPOCH_NONE && ship_is_idle(agent->ship) && agent_active(agent);
}

/* When to cut again after an epoch that is over. */
static void schedule_next(struct agent *agent)
{
	uint64_t age = util_now_ms() - agent->epoch.cut_ms;
	uint64_t wait = age < agent->config.interval_ms ? agent->config.interval_ms - age : 0;

	if (failback_eager(agent))
		wait = 0;
	if (failback_pause_ms(agent) < wait)
		wait = failback_pause_ms(agent);
	agent_schedule(agent, wait);
}

/*
 * Whether an epoch goes out although nothing is dirty: downstream is to learn that what it has is
 * consistent now, or a tag is wanted.
 */
static bool empty_wanted(const struct agent *agent)
{
	return agent->epoch.mode == BLKCBT_MODE_CONSISTENT && agent->epoch.whole &&
	       !failback_active(agent) &&
	       (agent->points.acked_epoch != agent->chain || tag_wants(agent));
}

void epoch_cut(struct agent *agent)
{
	if (!epoch_possible(agent) || failback_step(agent) || failback_holds(agent) ||
	    snapshot_step(agent))
		return;
	if (disks_refresh(agent)) {
		agent_group_changed(agent);
		return;
	}
	if (tag_step(agent) || tag_holds(agent))
		return;
	if (epoch_open(agent, points_choose(agent)))
		return;
	tag_epoch_cut(agent);
	epoch_go(agent);
}

int epoch_cut_frozen(struct agent *agent)
{
	int rc;

	if (!epoch_possible(agent))
		return -EBUSY;
	if (disks_refresh(agent)) {
		agent_group_changed(agent);
		return -ECANCELED;
	}
	rc = epoch_open(agent, points_choose(agent));
	if (!rc)
		tag_epoch_cut(agent);
	return rc;
}

void epoch_go(struct agent *agent)
{
	struct agent_epoch *epoch = &agent->epoch;
	bool skipped = false;

	if (epoch_plan(agent))
		return;
	if (epoch->slice.count || empty_wanted(agent)) {
		agent->empty_cuts = 0;
		failback_cut_done(agent, agent->last_cut_bytes);
		if (epoch->open)
			epoch_send(agent, false);
		return;
	}
	/* Nothing to send: nothing is dirty, or only what cannot be read. */
	tag_epoch_failed(agent, epoch->why[0] ? epoch->why : "nothing of it can be read", epoch->remedy);
	for (size_t i = 0; i < agent->disk_count; i++)
		skipped |= agent->disks[i].active && agent->disks[i].cover.skipped;
	kernel_abort(agent);
	if (!skipped) {
		agent->empty_cuts++;
		if (!agent->waiting_count)
			agent->synced_ms = epoch->cut_ms;
		else
			agent->waiting[agent->waiting_count - 1].synced_ms = epoch->cut_ms;
		if (epoch_advance(agent))
			state_save(agent);
		agent_problem_clear(&agent->epoch_problem);
		failback_cut_done(agent, 0);
	}
	epoch_close(agent);
	schedule_next(agent);
}

int epoch_verify(struct agent *agent)
{
	int rc;

	if (!epoch_possible(agent))
		return -EBUSY;
	agent->epoch.mode = BLKCBT_MODE_FUZZY;
	rc = epoch_open(agent, BLKCBT_MODE_FUZZY);
	if (rc)
		return rc;
	for (size_t i = 0; i < agent->disk_count; i++)
		if (agent->disks[i].active && agent->disks[i].info.open_bytes) {
			epoch_stop(agent);
			return -EAGAIN;
		}
	agent->epoch.flags = WIRE_EPOCH_FINAL;
	agent->epoch.synced_ms = agent->epoch.cut_ms; /* nothing is dirty */
	agent->epoch.whole = true;
	return epoch_send(agent, true);
}

static void epoch_commit(struct agent *agent)
{
	const struct tracker_ops *ops = agent->tracker_ops;
	struct agent_epoch *epoch = &agent->epoch;
	struct cbt_range ranges[AGENT_DISKS_MAX];
	dev_t back[AGENT_DISKS_MAX];
	size_t count = 0, back_count = 0;
	bool final = epoch->flags & WIRE_EPOCH_FINAL;
	int rc = 0;

	for (size_t i = 0; i < agent->disk_count; i++) {
		const struct agent_disk *disk = &agent->disks[i];
		const struct slice_cover *cover = &disk->cover;

		if (!disk->active)
			continue;
		if (final || (!cover->from_bytes && cover->at_end))
			ranges[count++] = (struct cbt_range){ .dev = disk->dev };
		else if (cover->bytes)
			ranges[count++] = (struct cbt_range){ disk->dev, cover->from_bytes,
							      cover->to_bytes };
		else
			back[back_count++] = disk->dev;
	}
	epoch->open = false;
	if (count)
		rc = ops->commit(agent->tracker, epoch->number, ranges, count);
	if (!rc && back_count)
		rc = ops->abort(agent->tracker, epoch->number, back, back_count);
	if (rc) {
		log_error("epoch %" PRIu64 ": acknowledged, but the tracker does not commit it: %s: %s "
			  "(its changes are sent again)",
			  epoch->number, strerror(-rc), ops->error(agent->tracker));
		disks_refresh(agent);
		abort_leftovers(agent);
	} else {
		agent->epoch_committed = epoch->number;
		agent->holds_all = false;
		if (!final && epoch_advance(agent))
			state_save(agent);
	}
	agent->slice_bytes *= 2;
	if (agent->slice_bytes > agent->config.slice_bytes)
		agent->slice_bytes = agent->config.slice_bytes;
	agent_problem_clear(&agent->epoch_problem);
	ship_finish(agent->ship);
	disks_refresh(agent);
}

static void tag_applied(struct agent *agent, const struct agent_applied *epoch)
{
	struct agent_tag *tag = epoch->app ? &agent->points.app : &agent->points.crash;

	tag->epoch = epoch->epoch;
	tag->cut_wall_ms = epoch->cut_wall_ms;
	snprintf(tag->name, sizeof(tag->name), "%s", epoch->tag);
}

static void applied(struct agent *agent, uint64_t number)
{
	size_t done = 0;

	if (number > agent->epoch_applied)
		agent->epoch_applied = number;
	while (done < agent->waiting_count && agent->waiting[done].epoch <= number) {
		if (agent->waiting[done].synced_ms)
			agent->synced_ms = agent->waiting[done].synced_ms;
		if (agent->waiting[done].tag[0])
			tag_applied(agent, &agent->waiting[done]);
		done++;
	}
	agent->waiting_count -= done;
	memmove(agent->waiting, agent->waiting + done,
		agent->waiting_count * sizeof(*agent->waiting));
	tag_epoch_applied(agent, number);
}

void epoch_ack(struct agent *agent, const struct wire_frame *frame, const json_t *json)
{
	struct agent_epoch *epoch = &agent->epoch;
	bool is_applied = frame->flags & WIRE_ACK_APPLIED;
	bool final = epoch->flags & WIRE_EPOCH_FINAL;
	bool more;

	if (is_applied)
		applied(agent, frame->epoch);
	if (epoch->phase != EPOCH_WAITING || frame->epoch != epoch->number ||
	    frame->attempt != epoch->attempt)
		return;
	if (frame->flags & WIRE_ACK_PROGRESS) {
		epoch->deadline_ms = util_now_ms() + agent->config.ack_timeout_ms;
		return;
	}
	agent->chain = epoch->number;
	agent->epoch_acked = epoch->number;
	if (epoch->exact)
		agent->points.acked_epoch = epoch->number;
	if (!is_applied && (final || agent->config.commit_on == CONFIG_COMMIT_APPLIED))
		return;
	if (final) {
		epoch_commit(agent);
		epoch_close(agent);
		failback_final_ack(agent, frame->flags & WIRE_ACK_RELEASED, json);
		return;
	}
	more = !epoch->whole;
	epoch_commit(agent);
	epoch_close(agent);
	failback_committed(agent);
	if (more || agent_dirty_bytes(agent) >= agent->slice_bytes)
		agent_schedule(agent, 0);
	else
		schedule_next(agent);
}

void epoch_tick(struct agent *agent, uint64_t now_ms)
{
	struct agent_epoch *epoch = &agent->epoch;
	struct ship_progress progress;

	if (epoch->phase == EPOCH_WAITING && now_ms >= epoch->deadline_ms) {
		epoch_fail(agent, "see: reprotect status, on the process server and the master target",
			   "no acknowledgement within %" PRIu64 " s",
			   agent->config.ack_timeout_ms / 1000);
		link_again(agent->link, false);
		return;
	}
	if (epoch->phase != EPOCH_SENDING && epoch->phase != EPOCH_DRAINING)
		return;
	ship_progress(agent->ship, &progress);
	if (progress.reads && now_ms - progress.last_read_ms > READ_STALL_MS)
		agent_problem_set(&agent->epoch_problem,
				  "check the disk and its path: dmesg; the agent goes on when the reads "
				  "come back",
				  "epoch %" PRIu64 ": %u reads have not come back for %u s", epoch->number,
				  progress.reads, READ_STALL_MS / 1000);
}

void epoch_chain_check(struct agent *agent, uint64_t last_complete, uint64_t last_applied,
		       uint64_t max_epoch)
{
	char why[AGENT_TEXT_BYTES];

	if (max_epoch > agent->last_number)
		agent->last_number = max_epoch;
	if (last_complete > agent->last_number)
		agent->last_number = last_complete;
	agent->chain = last_complete;
	if (last_applied > agent->epoch_applied)
		agent->epoch_applied = last_applied;
	for (size_t i = 0; i < agent->disk_count && !agent->holds_all; i++) {
		const struct agent_disk *disk = &agent->disks[i];

		if (!disk->active || disk->info.epoch_committed <= last_complete)
			continue;
		snprintf(why, sizeof(why),
			 "disk %.64s: epoch %" PRIu64 " was acknowledged, but downstream holds only up "
			 "to epoch %" PRIu64,
			 disk->name, (uint64_t)disk->info.epoch_committed, last_complete);
		agent_resync(agent, why);
		return;
	}
}

/* Hooks of ship.c. */

/* All has been read: is it exact? Then say so, with a tag. */
static enum ship_verdict claim(struct agent *agent, struct ship_end *end)
{
	struct agent_epoch *epoch = &agent->epoch;

	if (!points_exact(agent)) {
		tag_epoch_fuzzy(agent, epoch->why, epoch->remedy);
		return SHIP_END_GO;
	}
	end->flags = WIRE_END_CONSISTENT;
	end->tag = tag_payload(agent);
	if (!end->tag)
		log_error("epoch %" PRIu64 ": out of memory: it goes without a tag", epoch->number);
	return SHIP_END_GO;
}

static enum ship_verdict hook_before_end(void *user, struct ship_end *end)
{
	struct agent *agent = user;

	if (!(agent->epoch.flags & WIRE_EPOCH_FINAL)) {
		if (!tag_ready(agent))
			return SHIP_END_WAIT;
		return claim(agent, end);
	}
	disks_refresh(agent);
	for (size_t i = 0; i < agent->disk_count; i++) {
		const struct agent_disk *disk = &agent->disks[i];

		if (!disk->active || !disk->info.dirty_bytes)
			continue;
		epoch_fail(agent, "find what writes to it (swap? a program on the raw disk?), stop it, try again",
			   "disk %s (%s): was written during verification", disk->name, disk->device);
		return SHIP_END_NO;
	}
	return claim(agent, end);
}

static void hook_read(void *user, uint32_t disk, const struct blkcbt_extent *extents, size_t count)
{
	points_read(user, disk, extents, count);
}

static bool hook_image_lost(void *user)
{
	return points_lost(user);
}

static void hook_sent(void *user)
{
	struct agent *agent = user;
	struct agent_epoch *epoch = &agent->epoch;
	struct ship_progress progress;

	ship_progress(agent->ship, &progress);
	agent->sent_bytes += progress.data_bytes;
	agent->read_bytes += progress.read_bytes;
	epoch->phase = EPOCH_WAITING;
	epoch->deadline_ms = util_now_ms() + agent->config.ack_timeout_ms;
	if (agent->waiting_count == AGENT_APPLIED_MAX) {
		agent->waiting_count--;
		memmove(agent->waiting, agent->waiting + 1,
			agent->waiting_count * sizeof(*agent->waiting));
	}
	agent->waiting[agent->waiting_count] = (struct agent_applied){ .epoch = epoch->number,
								       .synced_ms = epoch->synced_ms,
								       .cut_wall_ms = epoch->cut_wall_ms,
								       .app = epoch->tag_app };
	memcpy(agent->waiting[agent->waiting_count++].tag, epoch->tag, sizeof(epoch->tag));
	points_note(agent);
}

/* Remember a granule that cannot be read: the next slices go around it. */
static void disk_bad(struct agent_disk *disk, uint64_t offset_bytes)
{
	uint64_t granule = offset_bytes / disk->granule_bytes * disk->granule_bytes;
	size_t at = 0;

	disk->bad_retry_ms = util_now_ms() + AGENT_BAD_RETRY_MS;
	while (at < disk->bad_count && disk->bad_bytes[at] < granule)
		at++;
	if ((at < disk->bad_count && disk->bad_bytes[at] == granule) ||
	    disk->bad_count == AGENT_BAD_MAX)
		return;
	memmove(disk->bad_bytes + at + 1, disk->bad_bytes + at,
		(disk->bad_count - at) * sizeof(*disk->bad_bytes));
	disk->bad_bytes[at] = granule;
	disk->bad_count++;
}

static void hook_failed(void *user, int index, uint64_t offset_bytes, int error)
{
	struct agent *agent = user;
	bool verify = agent->epoch.flags & WIRE_EPOCH_FINAL;
	struct agent_disk *disk = NULL;
	uint64_t slice_bytes = agent->slice_bytes;

	/* The index counts all disks, or in a final epoch the active ones. */
	for (size_t i = 0, seen = 0; i < agent->disk_count && index >= 0; i++)
		if ((!verify || agent->disks[i].active) && (int)seen++ == index) {
			disk = &agent->disks[i];
			break;
		}
	if (!disk) {
		epoch_fail(agent, NULL, "cannot send: %s", strerror(-error));
		return;
	}
	disk_bad(disk, offset_bytes);
	agent_problem_set(&disk->problem,
			  "check the disk (dmesg, smartctl) and repair or rewrite the block; it stays "
			  "marked and is tried again every minute, the rest is replicated",
			  "disk %s (%s): cannot read at offset %" PRIu64 ": %s", disk->name, disk->device,
			  offset_bytes, strerror(-error));
	epoch_fail(agent, disk->problem.remedy, "%s", disk->problem.text);
	agent->slice_bytes = slice_bytes; /* not the link's fault */
	agent_schedule(agent, 0);
}

static void hook_idle(void *user)
{
	struct agent *agent = user;

	if (agent->epoch.phase == EPOCH_DRAINING)
		agent->epoch.phase = EPOCH_NONE;
	if (agent->epoch.phase == EPOCH_NONE)
		points_close(agent);
	agent_schedule(agent, 0);
}

const struct ship_hooks epoch_ship_hooks = {
	.before_end = hook_before_end,
	.read = hook_read,
	.image_lost = hook_image_lost,
	.sent = hook_sent,
	.failed = hook_failed,
	.idle = hook_idle,
};
