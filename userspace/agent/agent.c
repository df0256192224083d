// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * agent: the machine around the epochs: opens the tracker and keeps trying, ticks once a
 * second, decides when to cut, listens to the kernel's events. Called by main.c; the helpers
 * at the top by every other file.
 */
#include "agent.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <systemd/sd-daemon.h>
#include <time.h>

#include "link.h"
#include "log.h"
#include "ship.h"
#include "snapshot.h"
#include "stores.h"
#include "tag.h"
#include "util.h"

#define TICK_MS 1000u
#define TRACKER_RETRY_MS 10000u
#define MODULE_MS 10000u

void agent_problem_set(struct agent_problem *problem, const char *remedy, const char *format, ...)
{
	char text[AGENT_TEXT_BYTES], help[AGENT_TEXT_BYTES];
	va_list list;
	bool fresh;

	va_start(list, format);
	vsnprintf(text, sizeof(text), format, list);
	va_end(list);
	snprintf(help, sizeof(help), "%s", remedy ? remedy : "");
	fresh = strcmp(text, problem->text) != 0;
	memcpy(problem->text, text, sizeof(text));
	memcpy(problem->remedy, help, sizeof(help));
	if (!fresh)
		return;
	problem->since_ms = util_wall_ms();
	if (help[0])
		log_error("%s (%s)", text, help);
	else
		log_error("%s", text);
}

void agent_problem_clear(struct agent_problem *problem)
{
	problem->text[0] = problem->remedy[0] = '\0';
	problem->since_ms = 0;
}

size_t agent_active(const struct agent *agent)
{
	size_t count = 0;

	for (size_t i = 0; i < agent->disk_count; i++)
		count += agent->disks[i].active;
	return count;
}

uint64_t agent_dirty_bytes(const struct agent *agent)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < agent->disk_count; i++)
		if (agent->disks[i].active)
			bytes += agent->disks[i].info.dirty_bytes;
	return bytes;
}

void agent_schedule(struct agent *agent, uint64_t ms)
{
	uint64_t at = util_now_ms() + ms;

	if (agent->next_cut_ms && agent->next_cut_ms <= at)
		return;
	agent->next_cut_ms = at;
	sd_event_source_set_time_relative(agent->cut_timer, ms * 1000);
	sd_event_source_set_enabled(agent->cut_timer, SD_EVENT_ONESHOT);
}

void agent_module(struct agent *agent)
{
	if (!agent->tracker)
		return;
	agent->module_ms = util_now_ms();
	if (agent->tracker_ops->info(agent->tracker, &agent->module))
		log_debug("no answer from the kernel module: %s", agent->tracker_ops->error(agent->tracker));
	else if (agent->module.gate_mode != BLKCBT_GATE_AUDIT_ONLY)
		agent->no_gate[0] = '\0'; /* what was refused may be possible again */
}

void agent_hold_writes(struct agent *agent)
{
	if (mlockall(MCL_CURRENT) < 0)
		log_warning("cannot lock memory: %s (LimitMEMLOCK in the unit)", strerror(errno));
	log_hold();
	agent->frozen = true;
}

void agent_allow_writes(struct agent *agent)
{
	agent->frozen = false;
	munlockall();
	log_flush();
	if (agent->state_dirty)
		state_save(agent);
}

void agent_group_changed(struct agent *agent)
{
	epoch_abandon(agent);
	agent->synced_ms = 0;
	if (agent->link->state == LINK_STOPPED || agent->link->state == LINK_DOWN)
		link_start(agent->link);
	else
		link_again(agent->link, true);
}

void agent_resync(struct agent *agent, const char *why)
{
	const struct tracker_ops *ops = agent->tracker_ops;

	log_warning("resync of all disks: %s", why);
	for (size_t i = 0; i < agent->disk_count; i++) {
		struct agent_disk *disk = &agent->disks[i];
		struct cbt_range range = { .dev = disk->dev };
		int rc;

		if (!disk->active)
			continue;
		rc = ops->mark(agent->tracker, &range);
		if (rc) {
			/* Attaching anew marks everything too. */
			log_error("disk %s (%s): cannot mark all of it: %s: %s (attached anew instead)",
				  disk->name, disk->device, strerror(-rc), ops->error(agent->tracker));
			ops->detach(agent->tracker, disk->dev, true);
		}
		disk->initial = true;
		disk->cursor_bytes = 0;
		disk->pass_skipped = false;
		disk->covered_ms = 0;
	}
	agent->synced_ms = 0;
	agent->holds_all = true;
	state_save(agent);
}

/* Kernel events. */

static void on_event(uint32_t what, const struct cbt_disk *info, void *user)
{
	struct agent *agent = user;
	struct agent_disk *disk = info ? disks_find_dev(agent, info->dev) : NULL;
	const char *name = disk ? disk->name : info ? info->name : "?";

	switch (what) {
	case BLKCBT_EVENT_ESCAPE:
		log_warning("disk %s: a write went around the gate; it was marked, nothing is lost "
			    "(report it, with the kernel version and what writes to the disk)",
			    name);
		break;
	case BLKCBT_EVENT_RESYNC:
		log_warning("disk %s: the place of a write could not be known: the whole disk is sent "
			    "again",
			    name);
		if (disk) {
			disk->initial = true;
			disk->cursor_bytes = 0;
			disk->covered_ms = 0;
			agent->synced_ms = 0;
			state_save(agent);
		}
		break;
	case BLKCBT_EVENT_RESIZED:
	case BLKCBT_EVENT_DETACHED:
		if (disk && disks_refresh(agent)) {
			failback_stop(agent, "a disk of the group was lost or changed");
			log_warning("disk %s: was %s under the agent", name,
				    what == BLKCBT_EVENT_RESIZED ? "resized" : "detached");
			agent_group_changed(agent);
		}
		break;
	case BLKCBT_EVENT_DOWNGRADED:
		log_debug("disk %s: the open epoch became fuzzy: %s", name,
			  info ? info->downgrade_reason : "?");
		break;
	default:
		break;
	}
}

static int on_tracker(sd_event_source *source, int fd, uint32_t revents, void *user)
{
	struct agent *agent = user;
	int rc = agent->tracker_ops->events_read(agent->tracker, on_event, agent);

	(void)fd;
	(void)revents;
	if (rc < 0 && rc != -EAGAIN && rc != -ENOBUFS) {
		log_warning("kernel events: %s (statistics are still polled)", strerror(-rc));
		sd_event_source_set_enabled(source, SD_EVENT_OFF);
	}
	return 0;
}

static void tracker_try(struct agent *agent, uint64_t now)
{
	const struct tracker_ops *ops = agent->tracker_ops;
	char error[256] = "";
	int rc, fd;

	if (agent->tracker || now < agent->tracker_retry_ms)
		return;
	agent->tracker_retry_ms = now + TRACKER_RETRY_MS;
	rc = ops->open(agent->tracker_argument, &agent->tracker, error, sizeof(error));
	if (rc) {
		agent->tracker = NULL;
		agent_problem_set(&agent->tracker_problem,
				  "install the module for the running kernel (dkms status; modprobe "
				  "blkcbt; dmesg | grep blkcbt); the agent tries again every 10 s",
				  "change tracking: %s", error[0] ? error : strerror(-rc));
		return;
	}
	agent_problem_clear(&agent->tracker_problem);
	memset(&agent->module, 0, sizeof(agent->module));
	agent->no_gate[0] = '\0';
	ops->info(agent->tracker, &agent->module);
	early_adopt(agent);
	log_info("change tracking: %s %s", ops->name, agent->module.version);
	if (agent->module.gate_mode != BLKCBT_GATE_FULL)
		log_warning("change tracking: degraded (%s): %s",
			    cbt_mode_name(agent->module.gate_mode), agent->module.gate_reason);
	fd = ops->events_fd(agent->tracker);
	if (fd >= 0)
		sd_event_add_io(agent->event, &agent->tracker_source, fd, EPOLLIN, on_tracker, agent);
}

static void rates(struct agent *agent, uint64_t now)
{
	struct ship_progress progress = { 0 };
	uint64_t sent = agent->sent_bytes, read = agent->read_bytes;
	uint64_t elapsed = now - agent->rate_ms;

	if (agent->epoch.phase == EPOCH_SENDING) {
		ship_progress(agent->ship, &progress);
		sent += progress.data_bytes;
		read += progress.read_bytes;
	}
	if (agent->rate_ms && elapsed) {
		uint64_t s = sent > agent->rate_sent_from ? sent - agent->rate_sent_from : 0;
		uint64_t r = read > agent->rate_read_from ? read - agent->rate_read_from : 0;

		agent->rate_sent = (agent->rate_sent * 3 + s * 1000 / elapsed) / 4;
		agent->rate_read = (agent->rate_read * 3 + r * 1000 / elapsed) / 4;
	}
	agent->rate_ms = now;
	agent->rate_sent_from = sent;
	agent->rate_read_from = read;
}

static int on_tick(sd_event_source *source, uint64_t usec, void *user)
{
	struct agent *agent = user;
	const struct agent_problem *problem = NULL;
	uint64_t now = util_now_ms();
	const char *state;

	(void)usec;
	sd_event_source_set_time_relative(source, TICK_MS * 1000);
	sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
	tracker_try(agent, now);
	if (now - agent->module_ms >= MODULE_MS)
		agent_module(agent);
	if (agent->tracker && !agent->released) {
		bool changed = disks_refresh(agent);

		if (changed)
			failback_stop(agent, "a disk of the group was lost or changed");
		if (!failback_active(agent))
			changed |= disks_activate(agent);
		if (changed)
			agent_group_changed(agent);
	}
	epoch_tick(agent, now);
	failback_tick(agent, now);
	tag_tick(agent, now);
	stores_tick(agent, now);
	if (agent->snapshot && agent->epoch.phase == EPOCH_NONE)
		snapshot_step(agent);
	rates(agent, now);
	if (agent->epoch.phase == EPOCH_NONE && agent_dirty_bytes(agent) >= agent->slice_bytes)
		agent_schedule(agent, 0);
	if (agent->state_dirty && !agent->frozen)
		state_save(agent);
	state = status_state(agent, &problem);
	sd_notifyf(0, "STATUS=%s%s%s", state, problem ? ": " : "", problem ? problem->text : "");
	return 0;
}

static int on_cut(sd_event_source *source, uint64_t usec, void *user)
{
	struct agent *agent = user;

	(void)source;
	(void)usec;
	agent->next_cut_ms = 0;
	epoch_cut(agent);
	/* Whatever kept it from cutting, ask again. */
	if (agent->epoch.phase == EPOCH_NONE && !agent->next_cut_ms)
		agent_schedule(agent, agent->config.interval_ms);
	return 0;
}

int agent_run(struct agent *agent)
{
	int rc;

	rc = sd_event_add_time_relative(agent->event, &agent->cut_timer, CLOCK_BOOTTIME, 0, 1000,
					on_cut, agent);
	if (rc >= 0)
		rc = sd_event_add_time_relative(agent->event, &agent->tick, CLOCK_BOOTTIME, 0, 1000,
						on_tick, agent);
	if (rc < 0) {
		log_error("cannot start timers: %s", strerror(-rc));
		return rc;
	}
	sd_event_source_set_enabled(agent->cut_timer, SD_EVENT_OFF);
	sd_notify(0, "READY=1");
	return sd_event_loop(agent->event);
}
