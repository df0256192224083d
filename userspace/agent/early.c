// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * early: early boot as the agent sees it. Keeps the list of disks that the initramfs attaches
 * (early.conf in the state directory), knows whether the initramfs has it, and shows the report of this
 * boot. Called by main.c, state.c, agent.c, commands.c and status.c.
 *
 * The initramfs is not rebuilt from here: that changes what the machine boots from, and is its
 * administrator's. An initramfs that is out of date costs the early attaching of the disks that it does not
 * know; the agent attaches them when it starts, as it does without an initramfs.
 *
 *	initramfs  when
 *	current    the list that this boot used is the list of now, or the initramfs is newer than the list
 *	stale      it is older: update-initramfs -u
 *	missing    no initramfs is found where Debian keeps it, or it has no hook of ours
 */
#include "early.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include "agent.h"
#include "log.h"
#include "stores.h"
#include "util.h"

#define HOOK_PATH "/usr/share/initramfs-tools/hooks/reprotect"
#define INITRAMFS_FORMAT "/boot/initrd.img-%s"
#define REMEDY "update-initramfs -u"

static void list_path(const struct agent *agent, char out[PATH_MAX])
{
	snprintf(out, PATH_MAX, "%s/" EARLY_CONF_NAME, agent->config.state_dir);
}

static const char *text_of(const json_t *json, const char *key)
{
	const char *text = json_string_value(json_object_get(json, key));

	return text ? text : "";
}

void early_start(struct agent *agent)
{
	const json_t *error;

	agent->early = early_report_load(EARLY_REPORT_PATH);
	error = json_object_get(agent->early, "error");
	if (error)
		log_warning("early boot: %s (%s)", text_of(error, "message"), text_of(error, "remedy"));
}

static void list_store(const struct agent *agent, struct agent_disk *disk, struct early_disk *out, char path[PATH_MAX])
{
	stores_path(agent, disk, path);
	out->store = path;
	out->identity = disk->store.identity;
	out->store_device = disk->store.device[0] ? disk->store.device : NULL;
	out->store_offset = disk->store.offset_bytes;
}

/* The list as it has to be, malloc'ed. */
static char *list_text(struct agent *agent)
{
	struct early_conf *conf = calloc(1, sizeof(*conf));
	CLEANUP_FREE char *paths = malloc((size_t)AGENT_DISKS_MAX * PATH_MAX);
	char state[PATH_MAX], *text;

	if (!conf || !paths) {
		free(conf);
		return NULL;
	}
	conf->module = agent->config.module;
	snprintf(state, sizeof(state), "%s/" STATE_DISKS_NAME, agent->config.state_dir);
	for (size_t i = 0; i < agent->disk_count; i++) {
		struct agent_disk *disk = &agent->disks[i];

		if (disk->detached)
			continue;
		conf->disks[conf->disk_count++] = (struct early_disk){
			.name = disk->name,
			.device = disk->device,
			.names = disk->names,
			.granule_bytes = disk->granule_bytes,
		};
		if (stores_wanted(disk) && disk->store.identity[0])
			list_store(agent, disk, &conf->disks[conf->disk_count - 1], paths + i * PATH_MAX);
		conf->state = conf->disks[conf->disk_count - 1].store ? state : conf->state;
	}
	text = early_conf_text(conf);
	free(conf);
	return text;
}

static bool same(const char *path, const char *text)
{
	size_t bytes = strlen(text);
	CLEANUP_FREE char *there = malloc(bytes + 1);
	CLEANUP_FILE FILE *file = there ? fopen(path, "re") : NULL;

	return file && fread(there, 1, bytes + 1, file) == bytes && !memcmp(there, text, bytes);
}

void early_save(struct agent *agent)
{
	CLEANUP_FREE char *text = list_text(agent);
	char path[PATH_MAX];
	int rc;

	list_path(agent, path);
	if (text && same(path, text))
		return; /* its time is that of the last change */
	rc = text ? util_write_file(path, text, strlen(text)) : -ENOMEM;
	if (rc)
		log_warning("%s: cannot write the list of disks for early boot: %s", path, strerror(-rc));
	else if (early_stale(agent))
		log_notice("the disks of early boot have changed: run %s, so that they are attached before "
			   "they are mounted",
			   REMEDY);
}

void early_adopt(struct agent *agent)
{
	const struct tracker_ops *ops = agent->tracker_ops;
	struct cbt_disk info;
	dev_t dev;

	for (size_t i = 0; i < agent->disk_count; i++) {
		struct agent_disk *disk = &agent->disks[i];

		if (!disk->detached || ops->resolve(agent->tracker, disk->device, &dev) ||
		    ops->get(agent->tracker, dev, &info) || !early_report_disk(agent->early, info.id))
			continue;
		log_notice("disk %s (%s): was attached in early boot, and is detached by command: detached (run %s)",
			   disk->name, disk->device, REMEDY);
		if (ops->detach(agent->tracker, dev, true))
			log_warning("disk %s: cannot detach: %s", disk->name, ops->error(agent->tracker));
	}
}

static const char *initramfs_state(const struct agent *agent)
{
	char path[PATH_MAX], id[17];
	struct utsname kernel;
	struct stat list, initramfs;

	list_path(agent, path);
	early_conf_id(path, id);
	if (id[0] && !strcmp(id, text_of(agent->early, "config_id")))
		return "current";
	if (stat(path, &list) < 0 || uname(&kernel) < 0)
		return "missing";
	snprintf(path, sizeof(path), INITRAMFS_FORMAT, kernel.release);
	if (access(HOOK_PATH, F_OK) < 0 || stat(path, &initramfs) < 0)
		return "missing";
	return initramfs.st_mtime >= list.st_mtime ? "current" : "stale";
}

const char *early_stale(const struct agent *agent)
{
	return strcmp(initramfs_state(agent), "stale") ? NULL : REMEDY;
}

json_t *early_json(const struct agent *agent)
{
	const char *state = initramfs_state(agent);
	char path[PATH_MAX];
	json_t *json;

	if (!agent->early && !strcmp(state, "missing"))
		return NULL;
	list_path(agent, path);
	json = json_pack("{s:s, s:s}", "list", path, "initramfs", state);
	if (agent->early)
		json_object_set(json, "report", agent->early);
	if (!strcmp(state, "stale"))
		json_object_set_new(json, "remedy", json_string(REMEDY));
	return json;
}
