// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * points: see points.h.
 *
 * A consistent epoch holds everything that was dirty at its cut, read through the images. What does not fit
 * into one epoch, or belongs to an initial sync, goes as fuzzy, and a consistent one follows as soon as
 * the rest is small enough.
 */
#include "points.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "conf.h"
#include "link.h"
#include "log.h"
#include "util.h"

static void __attribute__((format(printf, 3, 4)))
fuzzy(struct agent *agent, const char *remedy, const char *format, ...)
{
	struct agent_epoch *epoch = &agent->epoch;
	va_list list;

	epoch->mode = BLKCBT_MODE_FUZZY;
	va_start(list, format);
	vsnprintf(epoch->why, sizeof(epoch->why), format, list);
	va_end(list);
	epoch->remedy = remedy;
}

/* A degraded module may be as good as new after it was loaded again. */
static const char *gate_missing(struct agent *agent)
{
	if (agent->module.gate_mode == BLKCBT_GATE_AUDIT_ONLY)
		return agent->module.gate_reason;
	return agent->no_gate[0] ? agent->no_gate : NULL;
}

#define GATE_REMEDY                                                                                   \
	"it needs a kernel with the function tracer, not held by a live patch; see reprotect status"

/* What is on the other disks may depend on what was on this one. */
static void not_whole(struct agent *agent, const struct agent_disk *disk)
{
	fuzzy(agent, "bring it back, or, if it was removed on purpose: reprotect disk detach NAME",
	      "disk %s is not tracked, and is no longer as the others are", disk->name);
}

uint32_t points_choose(struct agent *agent)
{
	uint64_t dirty = agent_dirty_bytes(agent), limit = epoch_limit_bytes(agent);
	char a[32], b[32];

	agent->epoch.mode = BLKCBT_MODE_CONSISTENT;
	agent->epoch.why[0] = '\0';
	agent->epoch.remedy = "";
	if (!agent->config.consistent)
		fuzzy(agent, "set it to yes", "consistent = no in the configuration");
	else if (gate_missing(agent))
		fuzzy(agent, GATE_REMEDY, "the kernel module cannot preserve: %s", gate_missing(agent));
	for (size_t i = 0; i < agent->disk_count; i++) {
		const struct agent_disk *disk = &agent->disks[i];

		if (disk->detached || agent->epoch.mode == BLKCBT_MODE_FUZZY)
			continue;
		if (!disk->active)
			not_whole(agent, disk);
		else if (disk->initial)
			fuzzy(agent, "nothing: consistent epochs follow by themselves",
			      "initial sync or resync of disk %s", disk->name);
		else if (disk->bad_count && util_now_ms() < disk->bad_retry_ms)
			fuzzy(agent, "see the error of that disk", "disk %s has blocks that cannot be read",
			      disk->name);
	}
	if (agent->epoch.mode == BLKCBT_MODE_CONSISTENT && dirty > limit)
		fuzzy(agent,
		      "nothing while it is catching up; if it stays so: a faster link, or a larger slice_bytes",
		      "%s had changed, more than fits into one epoch (%s)",
		      conf_format_bytes(dirty, a, sizeof(a)), conf_format_bytes(limit, b, sizeof(b)));
	return agent->epoch.mode;
}

void points_cannot(struct agent *agent, int rc, const char *text)
{
	if (rc == -EOPNOTSUPP)
		snprintf(agent->no_gate, sizeof(agent->no_gate), "%s", text && *text ? text : "no gate");
	fuzzy(agent, rc == -EOPNOTSUPP ? GATE_REMEDY : "free memory, or lower preserve_budget",
	      "the kernel module refused a consistent cut: %s", text && *text ? text : strerror(-rc));
}

/* Nobody will read the images: nothing need be preserved. */
static void release_all(struct agent *agent)
{
	for (size_t i = 0; i < agent->disk_count; i++) {
		struct agent_disk *disk = &agent->disks[i];
		struct blkcbt_extent all = { 0, disk->info.size_bytes };
		struct tracker_image *image = NULL;

		if (!disk->active || !disk->info.open_bytes)
			continue;
		if (!agent->tracker_ops->image_open(agent->tracker, &disk->info, &image)) {
			agent->tracker_ops->image_release(image, &all, 1);
			agent->tracker_ops->image_close(image);
		}
	}
}

void points_open(struct agent *agent)
{
	struct agent_epoch *epoch = &agent->epoch;

	if (epoch->mode != BLKCBT_MODE_CONSISTENT)
		return;
	if (!epoch->whole)
		fuzzy(agent,
		      "nothing while it is catching up; if it stays so: a faster link, or a larger slice_bytes",
		      "more had changed than fits into one epoch");
	for (size_t i = 0; i < agent->disk_count && epoch->mode == BLKCBT_MODE_CONSISTENT; i++) {
		struct agent_disk *disk = &agent->disks[i];
		int rc;

		if (!disk->active || !disk->cover.bytes)
			continue;
		rc = agent->tracker_ops->image_open(agent->tracker, &disk->info, &disk->image);
		if (rc) {
			disk->image = NULL;
			fuzzy(agent, "see the kernel log: dmesg | grep blkcbt",
			      "disk %s: its image cannot be opened: %s", disk->name, strerror(-rc));
		}
	}
	if (epoch->mode == BLKCBT_MODE_CONSISTENT) {
		epoch->hot_bytes = slicer_hot_first(&epoch->slice, &agent->before);
		return;
	}
	points_close(agent);
	release_all(agent);
}

void points_read(struct agent *agent, size_t index, const struct blkcbt_extent *extents, size_t count)
{
	struct agent_disk *disk = &agent->disks[index];

	/* Failing is no harm: it costs memory in the kernel until the epoch is over. */
	if (disk->image && agent->epoch.mode == BLKCBT_MODE_CONSISTENT &&
	    agent->tracker_ops->image_release(disk->image, extents, count))
		log_debug("disk %s: cannot release what was read", disk->name);
}

/* Whether the tracker still calls the open epoch consistent, on all disks. */
static bool still_consistent(struct agent *agent)
{
	struct agent_epoch *epoch = &agent->epoch;

	if (epoch->mode != BLKCBT_MODE_CONSISTENT)
		return false;
	for (size_t i = 0; i < agent->disk_count; i++) {
		struct agent_disk *disk = &agent->disks[i];
		struct cbt_disk info;
		int rc;

		if (disk->detached)
			continue;
		if (!disk->active) {
			not_whole(agent, disk);
			return false;
		}
		rc = agent->tracker_ops->get(agent->tracker, disk->dev, &info);
		if (rc || info.epoch != epoch->number || info.epoch_state != BLKCBT_EPOCH_OPEN) {
			fuzzy(agent, "see: reprotect status", "disk %s: its epoch is gone: %s", disk->name,
			      rc ? strerror(-rc) : "closed by someone else");
			return false;
		}
		disk->info = info;
		if (info.epoch_mode == BLKCBT_MODE_CONSISTENT)
			continue;
		agent->points.downgrades++;
		fuzzy(agent,
		      "if it is the budget: raise preserve_budget, or shorten epoch_interval; else see dmesg | "
		      "grep blkcbt",
		      "disk %s: could not be preserved as it was at the cut: %s", disk->name,
		      info.downgrade_reason[0] ? info.downgrade_reason : "no reason given");
		return false;
	}
	return true;
}

bool points_lost(struct agent *agent)
{
	return agent->epoch.mode == BLKCBT_MODE_FUZZY || !still_consistent(agent);
}

bool points_exact(struct agent *agent)
{
	/* Verified, and nothing was written meanwhile. */
	if (agent->epoch.flags & WIRE_EPOCH_FINAL)
		agent->epoch.exact = true;
	else
		agent->epoch.exact = agent->epoch.whole && still_consistent(agent);
	return agent->epoch.exact;
}

void points_note(struct agent *agent)
{
	struct agent_points *points = &agent->points;
	const struct agent_epoch *epoch = &agent->epoch;
	bool changed = !points->epoch || points->exact != epoch->exact ||
		       (!epoch->exact && points->remedy != epoch->remedy);

	if (epoch->exact)
		points->consistent_count++;
	else
		points->fuzzy_count++;
	points->epoch = epoch->number;
	points->exact = epoch->exact;
	points->hold_ns = epoch->hold_ns;
	points->remedy = epoch->remedy;
	points->hot_bytes = epoch->hot_bytes;
	snprintf(points->why, sizeof(points->why), "%s", epoch->exact ? "" : epoch->why);
	if (!changed)
		return;
	points->since_ms = util_wall_ms();
	if (epoch->exact)
		log_notice("epochs are consistent from epoch %" PRIu64 " on", epoch->number);
	else
		log_notice("epoch %" PRIu64 " is fuzzy: %s (%s)", epoch->number, epoch->why, epoch->remedy);
}

void points_close(struct agent *agent)
{
	for (size_t i = 0; i < agent->disk_count; i++) {
		struct agent_disk *disk = &agent->disks[i];

		if (disk->image)
			agent->tracker_ops->image_close(disk->image);
		disk->image = NULL;
	}
}

static json_t *holds_json(const struct blkcbt_holds *holds)
{
	return json_pack("{s:I, s:I, s:I, s:I}", "count", (json_int_t)holds->count, "p50_ns",
			 (json_int_t)cbt_holds_quantile_ns(holds, 500), "p99_ns",
			 (json_int_t)cbt_holds_quantile_ns(holds, 990), "max_ns", (json_int_t)holds->max_ns);
}

json_t *points_json(const struct agent *agent)
{
	const struct agent_points *points = &agent->points;
	uint64_t preserved = 0, preserves = 0;
	json_t *json;

	for (size_t i = 0; i < agent->disk_count; i++) {
		const struct agent_disk *disk = &agent->disks[i];

		if (!disk->active)
			continue;
		preserved += disk->info.preserved_bytes;
		preserves += disk->info.preserves;
	}
	json = json_pack("{s:I, s:s?, s:I, s:I, s:I, s:I, s:I, s:I, s:{s:I, s:I, s:I}, s:o}", "epoch",
			 (json_int_t)points->epoch, "mode",
			 !points->epoch ? NULL : points->exact ? "consistent" : "fuzzy", "since_ms",
			 (json_int_t)points->since_ms, "consistent_epochs",
			 (json_int_t)points->consistent_count, "fuzzy_epochs",
			 (json_int_t)points->fuzzy_count, "downgrades", (json_int_t)points->downgrades,
			 "hold_ns", (json_int_t)points->hold_ns, "hot_bytes", (json_int_t)points->hot_bytes,
			 "preserve", "budget_bytes", (json_int_t)agent->config.preserve_budget,
			 "held_bytes", (json_int_t)preserved, "granules", (json_int_t)preserves, "holds",
			 holds_json(&agent->module.holds));
	if (points->epoch && !points->exact)
		json_object_update_new(json, json_pack("{s:s, s:s}", "why", points->why, "remedy",
						       points->remedy ? points->remedy : ""));
	return json;
}
