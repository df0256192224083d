// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * disks: the group of disks that the agent replicates. Merges the configuration with what
 * is remembered, attaches, opens, aborts the open epoch of a dead agent, and notices disks
 * that are gone, resized or attached anew by someone else. Called by agent.c and commands.c.
 *
 * A disk that cannot be used has a problem text and is tried again every 10 s; the others
 * go on without it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "early.h"
#include "log.h"
#include "stores.h"
#include "util.h"

#define DISK_RETRY_MS 10000u

struct agent_disk *disks_find(struct agent *agent, const char *name_or_device)
{
	dev_t dev;

	for (size_t i = 0; i < agent->disk_count; i++)
		if (!strcmp(agent->disks[i].name, name_or_device) ||
		    !strcmp(agent->disks[i].device, name_or_device))
			return &agent->disks[i];
	if (agent->tracker && !agent->tracker_ops->resolve(agent->tracker, name_or_device, &dev))
		return disks_find_dev(agent, dev);
	return NULL;
}

struct agent_disk *disks_find_dev(struct agent *agent, dev_t dev)
{
	for (size_t i = 0; i < agent->disk_count; i++)
		if (agent->disks[i].active && agent->disks[i].dev == dev)
			return &agent->disks[i];
	return NULL;
}

static uint32_t disks_new_id(const struct agent *agent)
{
	uint32_t id = 0;

	for (size_t i = 0; i < agent->disk_count; i++)
		if (agent->disks[i].id > id)
			id = agent->disks[i].id;
	return id + 1;
}

static struct agent_disk *disks_add(struct agent *agent, const char *name, const char *device,
				    uint32_t granule_bytes)
{
	struct agent_disk *disk;
	uint32_t id = disks_new_id(agent);

	if (agent->disk_count == AGENT_DISKS_MAX)
		return NULL;
	disk = &agent->disks[agent->disk_count++];
	memset(disk, 0, sizeof(*disk));
	disk->fd = -1;
	disk->id = id;
	disk->initial = true;
	disk->granule_bytes = granule_bytes;
	snprintf(disk->name, sizeof(disk->name), "%s", name);
	snprintf(disk->device, sizeof(disk->device), "%s", device);
	snprintf(disk->store.wanted, sizeof(disk->store.wanted), "%s", agent->config.store);
	return disk;
}

static void store_of(const struct config *config, const struct config_disk *wanted, struct agent_disk *disk)
{
	snprintf(disk->store.wanted, sizeof(disk->store.wanted), "%s",
		 wanted->store ? wanted->store : config->store);
}

void disks_setup(struct agent *agent)
{
	const struct config *config = &agent->config;

	for (size_t i = 0; i < config->disk_count; i++) {
		const struct config_disk *wanted = &config->disks[i];
		uint32_t granule = (uint32_t)(wanted->granule_bytes ? wanted->granule_bytes :
								      config->granule_bytes);
		struct agent_disk *disk = NULL;

		for (size_t j = 0; j < agent->disk_count && !disk; j++)
			if (!strcmp(agent->disks[j].name, wanted->name))
				disk = &agent->disks[j];
		if (!disk) {
			disk = disks_add(agent, wanted->name, wanted->device, granule);
			if (!disk) {
				log_error("disk %s: ignored: more than %d disks", wanted->name,
					  AGENT_DISKS_MAX);
				continue;
			}
		}
		if (strcmp(disk->device, wanted->device) != 0) {
			log_notice("disk %s: device is now %s, was %s", disk->name, wanted->device,
				   disk->device);
			snprintf(disk->device, sizeof(disk->device), "%s", wanted->device);
			memset(&disk->names, 0, sizeof(disk->names));
			disk->initial = true;
		}
		disk->granule_bytes = granule;
		store_of(config, wanted, disk);
		if (disk->detached)
			log_notice("disk %s: detached by command, stays so until: reprotect disk attach %s",
				   disk->name, disk->device);
	}
}

static void disk_close(struct agent_disk *disk)
{
	if (disk->fd >= 0)
		close(disk->fd);
	disk->fd = -1;
	disk->active = false;
}

static int disk_open(const struct agent_disk *disk)
{
	int fd = open(disk->device, O_RDONLY | O_DIRECT | O_CLOEXEC);

	if (fd < 0 && errno == EINVAL) {
		fd = open(disk->device, O_RDONLY | O_CLOEXEC);
		if (fd >= 0)
			log_warning("disk %s (%s): cannot be read around the page cache (O_DIRECT)",
				    disk->name, disk->device);
	}
	return fd < 0 ? -errno : fd;
}

/* What tells people why attaching failed, and what helps. */
static const char *attach_remedy(int rc)
{
	switch (rc) {
	case -ENOENT:
	case -ENODEV:
	case -ENXIO:
		return "check the path with lsblk; paths in /dev/disk/by-id survive a reboot";
	case -ENOTBLK:
		return "name a whole disk, as lsblk shows them with type disk";
	case -EINVAL:
		return "name a whole disk, not a partition, and a granule that is a power of two "
		       "from 4K to 1M";
	case -EOPNOTSUPP:
		return "this kind of disk cannot be tracked; replicate it by other means";
	case -EPERM:
	case -EACCES:
		return "run the agent as root (systemctl start reprotect-agent)";
	default:
		return "see the kernel log: dmesg | grep blkcbt";
	}
}

/* Attach (or adopt what is attached) and open. */
static int disk_activate(struct agent *agent, struct agent_disk *disk, struct agent_problem *problem)
{
	const struct tracker_ops *ops = agent->tracker_ops;
	struct agent_disk *other;
	dev_t dev;
	int rc, fd;

	rc = ops->resolve(agent->tracker, disk->device, &dev);
	if (rc) {
		agent_problem_set(problem, attach_remedy(rc), "disk %s (%s): cannot be found: %s",
				  disk->name, disk->device,
				  rc == -ENOTBLK ? "not a block device" : strerror(-rc));
		return rc;
	}
	other = disks_find_dev(agent, dev);
	if (other) {
		agent_problem_set(problem, "detach one of them: reprotect disk detach NAME",
				  "disk %s (%s): is the same disk as %s (%s)", disk->name,
				  disk->device, other->name, other->device);
		return -EEXIST;
	}
	rc = stores_attach(agent, disk, dev);
	if (rc) {
		agent_problem_set(problem, attach_remedy(rc), "disk %s (%s): cannot attach: %s: %s",
				  disk->name, disk->device, strerror(-rc),
				  ops->error(agent->tracker));
		return rc;
	}
	if (disk->info.epoch_state == BLKCBT_EPOCH_OPEN) {
		log_notice("disk %s (%s): epoch %llu was left open by an agent that died: aborted, its "
			   "changes are sent again",
			   disk->name, disk->device, (unsigned long long)disk->info.epoch);
		rc = ops->abort(agent->tracker, disk->info.epoch, &dev, 1);
		if (rc && rc != -ESRCH) {
			agent_problem_set(problem, "detach the disk and attach it again",
					  "disk %s (%s): cannot abort its open epoch: %s: %s", disk->name,
					  disk->device, strerror(-rc), ops->error(agent->tracker));
			return rc;
		}
		ops->get(agent->tracker, dev, &disk->info);
	}
	fd = disk_open(disk);
	if (fd < 0) {
		agent_problem_set(problem, attach_remedy(fd), "disk %s (%s): cannot open: %s",
				  disk->name, disk->device, strerror(-fd));
		return fd;
	}
	if (disk->kernel_id != disk->info.id) {
		/* Another attachment: all of it is dirty, unless its store knew better. */
		if (!disk->info.store_trusted)
			disk->initial = true;
		disk->kernel_id = disk->info.id;
	}
	disk_names_of(DISK_NAMES_DIRECTORY, disk->device, &disk->names);
	disk->fd = fd;
	disk->dev = dev;
	disk->granule_bytes = disk->info.granule_bytes;
	disk->active = true;
	disk->cursor_bytes = 0;
	disk->pass_skipped = false;
	disk->covered_ms = 0;
	disk->bad_count = 0;
	if (disk->info.epoch > agent->last_number)
		agent->last_number = disk->info.epoch;
	agent_problem_clear(&disk->problem);
	log_info("disk %s (%s): tracked as %s%s, %llu bytes%s", disk->name, disk->device, disk->info.name,
		 early_report_disk(agent->early, disk->info.id) ? " since early boot" : "",
		 (unsigned long long)disk->info.size_bytes, disk->initial ? ", initial sync needed" : "");
	return 0;
}

bool disks_activate(struct agent *agent)
{
	uint64_t now = util_now_ms();
	bool changed = false;

	if (!agent->tracker || agent->released)
		return false;
	for (size_t i = 0; i < agent->disk_count; i++) {
		struct agent_disk *disk = &agent->disks[i];

		if (disk->active || disk->detached || now < disk->retry_ms)
			continue;
		disk->retry_ms = now + DISK_RETRY_MS;
		if (!disk_activate(agent, disk, &disk->problem))
			changed = true;
	}
	if (changed)
		state_save(agent);
	return changed;
}

bool disks_refresh(struct agent *agent)
{
	const struct tracker_ops *ops = agent->tracker_ops;
	bool changed = false;

	for (size_t i = 0; i < agent->disk_count; i++) {
		struct agent_disk *disk = &agent->disks[i];
		struct cbt_disk info;
		int rc;

		if (!disk->active)
			continue;
		rc = ops->get(agent->tracker, disk->dev, &info);
		if (!rc)
			disk->info = info;
		if (rc == -ENOENT || rc == -ENODEV || (!rc && info.flags & BLKCBT_DISK_F_GONE)) {
			agent_problem_set(&disk->problem,
					  "if it was removed on purpose: reprotect disk detach NAME; else "
					  "bring it back, it is attached again and resynced by itself",
					  "disk %s (%s): is gone", disk->name, disk->device);
			if (!rc)
				ops->detach(agent->tracker, disk->dev, true);
		} else if (!rc && info.flags & BLKCBT_DISK_F_RESIZED) {
			agent_problem_set(&disk->problem,
					  "nothing, if the target disk is large enough; else enlarge it",
					  "disk %s (%s): was resized: attached again, resync of the whole disk",
					  disk->name, disk->device);
			ops->detach(agent->tracker, disk->dev, true);
		} else if (!rc && info.id != disk->kernel_id) {
			log_warning("disk %s (%s): was detached and attached by someone else: resync of "
				    "the whole disk",
				    disk->name, disk->device);
		} else {
			if (rc)
				log_warning("disk %s (%s): no statistics: %s: %s", disk->name,
					    disk->device, strerror(-rc), ops->error(agent->tracker));
			continue;
		}
		disk_close(disk);
		disk->initial = true;
		disk->retry_ms = 0;
		changed = true;
	}
	return changed;
}

void disks_close(struct agent *agent)
{
	for (size_t i = 0; i < agent->disk_count; i++)
		disk_close(&agent->disks[i]);
}

static bool name_valid(const char *name)
{
	return *name && strlen(name) < sizeof(((struct agent_disk *)0)->name) &&
	       name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")] ==
		       '\0';
}

int disks_attach(struct agent *agent, const char *device, const char *name, uint32_t granule_bytes,
		 const char *store, struct agent_disk **out, struct agent_problem *problem)
{
	const char *base = strrchr(device, '/') ? strrchr(device, '/') + 1 : device;
	struct agent_disk *disk;
	bool added = false;
	int rc;

	if (!name)
		name = base;
	if (!name_valid(name)) {
		agent_problem_set(problem, "give a short name: --name NAME",
				  "disk %s: name \"%s\" is not usable (letters, digits, - _ .)", device,
				  name);
		return -EINVAL;
	}
	if (device[0] != '/' || strlen(device) >= sizeof(disk->device)) {
		agent_problem_set(problem, "name it by its path, e.g. /dev/vdb",
				  "disk %s: not an absolute path", device);
		return -EINVAL;
	}
	disk = disks_find(agent, device);
	if (!disk)
		disk = disks_find(agent, name);
	if (disk && disk->active) {
		agent_problem_set(problem, "detach it first: reprotect disk detach NAME",
				  "disk %s: cannot attach: %s is already replicated as %s", device,
				  disk->device, disk->name);
		return -EEXIST;
	}
	if (!disk) {
		disk = disks_add(agent, name, device,
				 granule_bytes ? granule_bytes :
						 (uint32_t)agent->config.granule_bytes);
		if (!disk) {
			agent_problem_set(problem, "detach disks that are not needed",
					  "disk %s: cannot attach: more than %d disks", device,
					  AGENT_DISKS_MAX);
			return -ENOSPC;
		}
		added = true;
	} else {
		snprintf(disk->device, sizeof(disk->device), "%s", device);
		if (granule_bytes)
			disk->granule_bytes = granule_bytes;
	}
	if (store)
		snprintf(disk->store.wanted, sizeof(disk->store.wanted), "%s", store);
	rc = disk_activate(agent, disk, problem);
	if (rc) {
		if (added)
			agent->disk_count--;
		return rc;
	}
	disk->detached = false;
	state_save(agent);
	*out = disk;
	return 0;
}

int disks_detach(struct agent *agent, struct agent_disk *disk, bool force,
		 struct agent_problem *problem)
{
	const struct tracker_ops *ops = agent->tracker_ops;
	int rc = 0;

	if (disk->active && agent->tracker) {
		rc = ops->detach(agent->tracker, disk->dev, force);
		if (rc && rc != -ENOENT) {
			agent_problem_set(problem, "try again with --force", "disk %s (%s): cannot detach: %s: %s",
					  disk->name, disk->device, strerror(-rc),
					  ops->error(agent->tracker));
			return rc;
		}
	}
	stores_forget(disk);
	disk_close(disk);
	disk->detached = true;
	disk->initial = true;
	agent_problem_clear(&disk->problem);
	log_notice("disk %s (%s): detached by command", disk->name, disk->device);
	state_save(agent);
	return 0;
}
