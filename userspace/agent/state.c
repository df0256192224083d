// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * state: what the agent remembers across restarts, in its state directory: the machine's
 * uuid (machine), the disks with their ids (disks.json), a failback under way (failback), and through
 * early.c the list of disks for the initramfs (early.conf).
 * Called by main.c, disks.c, failback.c.
 *
 * Nothing here is needed to lose no data: without a usable state directory the uuid is
 * derived anew from /etc/machine-id and ids follow the configuration; what is lost is the
 * memory of disks attached by command and of completed initial syncs. Nothing
 * is written while filesystems are frozen by us.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <systemd/sd-id128.h>

#include "agent.h"
#include "control.h"
#include "log.h"
#include "util.h"

/* Names this program to sd_id128_get_machine_app_specific(); never to be changed. */
static const sd_id128_t application_id = SD_ID128_MAKE(5b, 0e, 7c, 2d, 91, 3f, 4a, 68, b2, 14, 6d,
						      a5, 0c, e8, 77, 39);

static void state_path(const struct agent *agent, const char *name, char out[PATH_MAX])
{
	snprintf(out, PATH_MAX, "%s/%s", agent->config.state_dir, name);
}

/* Beside the control socket: a file system in memory, that is never frozen or protected. */
static void run_path(const struct agent *agent, const char *suffix, char out[PATH_MAX])
{
	snprintf(out, PATH_MAX, "%s%s", agent->config.control, suffix);
}

static void state_trouble(struct agent *agent, const char *path, int rc)
{
	agent_problem_set(&agent->state_problem,
			  "make the directory writable, or name another with state_dir; replication "
			  "goes on, but a restart repeats an unfinished initial sync and forgets disks "
			  "attached by command",
			  "state %s: cannot write: %s", path, strerror(-rc));
}

static bool uuid_valid(const char *text)
{
	sd_id128_t id;

	return sd_id128_from_string(text, &id) >= 0 && strlen(text) == 36;
}

static int state_machine(struct agent *agent)
{
	char path[PATH_MAX], stored[64] = "";
	sd_id128_t id;
	int rc;

	state_path(agent, "machine", path);
	if (agent->config.machine_id) {
		if (!uuid_valid(agent->config.machine_id)) {
			log_error("configuration: machine_id %s is not a uuid (8-4-4-4-12 hex digits)",
				  agent->config.machine_id);
			return -EINVAL;
		}
		snprintf(agent->machine, sizeof(agent->machine), "%s", agent->config.machine_id);
		return 0;
	}
	CLEANUP_FILE FILE *file = fopen(path, "re");
	if (file && fgets(stored, sizeof(stored), file)) {
		stored[strcspn(stored, "\n")] = '\0';
		if (uuid_valid(stored)) {
			snprintf(agent->machine, sizeof(agent->machine), "%.36s", stored);
			return 0;
		}
		log_error("state %s: not a uuid: \"%s\" (restore it from backup, or remove the file "
			  "to have the uuid derived from /etc/machine-id)",
			  path, stored);
		return -EINVAL;
	}
	rc = sd_id128_get_machine_app_specific(application_id, &id);
	if (rc < 0) {
		log_warning("no usable /etc/machine-id (%s): a random uuid is made for this machine",
			    strerror(-rc));
		rc = sd_id128_randomize(&id);
		if (rc < 0)
			return rc;
	}
	snprintf(agent->machine, sizeof(agent->machine), SD_ID128_UUID_FORMAT_STR,
		 SD_ID128_FORMAT_VAL(id));
	snprintf(stored, sizeof(stored), "%s\n", agent->machine);
	rc = util_write_file(path, stored, strlen(stored));
	if (rc)
		state_trouble(agent, path, rc);
	return 0;
}

static void state_name(const json_t *json, const char *key, char *out, size_t out_bytes)
{
	const char *name = json_string_value(json_object_get(json, key));

	if (name && strlen(name) < out_bytes)
		strcpy(out, name);
}

static void state_disk(struct agent *agent, const json_t *json)
{
	const char *name = json_string_value(json_object_get(json, "name"));
	const char *device = json_string_value(json_object_get(json, "device"));
	const char *kernel = json_string_value(json_object_get(json, "kernel_id"));
	json_int_t id = json_integer_value(json_object_get(json, "id"));
	struct agent_disk *disk;

	if (!name || !device || id < 1 || id > UINT32_MAX || agent->disk_count == AGENT_DISKS_MAX)
		return;
	disk = &agent->disks[agent->disk_count++];
	memset(disk, 0, sizeof(*disk));
	disk->fd = -1;
	snprintf(disk->name, sizeof(disk->name), "%s", name);
	snprintf(disk->device, sizeof(disk->device), "%s", device);
	disk->id = (uint32_t)id;
	disk->granule_bytes =
		(uint32_t)json_integer_value(json_object_get(json, "granule_bytes"));
	disk->detached = json_is_true(json_object_get(json, "detached"));
	disk->initial = !json_is_true(json_object_get(json, "initial_done"));
	if (kernel)
		sscanf(kernel, "%" SCNx64, &disk->kernel_id);
	state_name(json, "store", disk->store.wanted, sizeof(disk->store.wanted));
	state_name(json, "store_identity", disk->store.identity, sizeof(disk->store.identity));
	state_name(json, "store_device", disk->store.device, sizeof(disk->store.device));
	disk->store.offset_bytes = (uint64_t)json_integer_value(json_object_get(json, "store_offset"));
	disk->store.generation = (uint64_t)json_integer_value(json_object_get(json, "store_generation"));
	state_name(json, "by_id", disk->names.by_id, sizeof(disk->names.by_id));
	state_name(json, "by_path", disk->names.by_path, sizeof(disk->names.by_path));
	state_name(json, "ptuuid", disk->names.ptuuid, sizeof(disk->names.ptuuid));
	state_name(json, "uuid", disk->names.uuid, sizeof(disk->names.uuid));
}

int state_load(struct agent *agent)
{
	CLEANUP_JSON json_t *json = NULL;
	char path[PATH_MAX], error[256] = "";
	json_t *disks, *disk;
	size_t i;
	int rc;

	rc = util_mkdirs(agent->config.state_dir);
	if (rc)
		state_trouble(agent, agent->config.state_dir, rc);
	rc = state_machine(agent);
	if (rc)
		return rc;
	state_path(agent, STATE_DISKS_NAME, path);
	rc = util_read_json(path, &json, error, sizeof(error));
	if (rc == -ENOENT)
		return 0;
	if (rc) {
		log_error("state %s: cannot read: %s %s (disks attached by command are forgotten: "
			  "attach them again; the file is replaced)",
			  path, strerror(-rc), error);
		return 0;
	}
	disks = json_object_get(json, "disks");
	json_array_foreach(disks, i, disk)
		state_disk(agent, disk);
	return 0;
}

void state_save(struct agent *agent)
{
	CLEANUP_JSON json_t *json = NULL;
	char path[PATH_MAX], kernel[32];
	json_t *disks;
	int rc;

	if (agent->frozen) {
		agent->state_dirty = true;
		return;
	}
	agent->state_dirty = false;
	json = json_pack("{s:i, s:[]}", "version", 1, "disks");
	disks = json_object_get(json, "disks");
	for (size_t i = 0; i < agent->disk_count; i++) {
		const struct agent_disk *disk = &agent->disks[i];

		snprintf(kernel, sizeof(kernel), "%" PRIx64, disk->kernel_id);
		json_array_append_new(disks,
				      json_pack("{s:s, s:s, s:I, s:I, s:s, s:b, s:b, s:s, s:s, s:s, s:s}", "name",
						disk->name, "device", disk->device, "id",
						(json_int_t)disk->id, "granule_bytes",
						(json_int_t)disk->granule_bytes, "kernel_id", kernel,
						"detached", disk->detached, "initial_done",
						!disk->initial, "by_id", disk->names.by_id, "by_path",
						disk->names.by_path, "ptuuid", disk->names.ptuuid, "uuid",
						disk->names.uuid));
		json_object_update_new(json_array_get(disks, i),
				       json_pack("{s:s, s:s, s:I, s:s, s:I}", "store", disk->store.wanted,
						 "store_identity", disk->store.identity, "store_generation",
						 (json_int_t)disk->store.generation, "store_device",
						 disk->store.device, "store_offset",
						 (json_int_t)disk->store.offset_bytes));
	}
	state_path(agent, STATE_DISKS_NAME, path);
	rc = json ? util_write_json(path, json) : -ENOMEM;
	if (rc)
		state_trouble(agent, path, rc);
	else
		agent_problem_clear(&agent->state_problem);
	early_save(agent);
}

int state_lock(struct agent *agent)
{
	char path[PATH_MAX], directory[PATH_MAX];
	char *slash;
	int fd, rc;

	run_path(agent, ".instance", path);
	snprintf(directory, sizeof(directory), "%s", path);
	slash = strrchr(directory, '/');
	if (slash && slash != directory) {
		*slash = '\0';
		rc = util_mkdirs(directory);
		if (rc) {
			log_error("%s: cannot make the directory of the control socket: %s", directory,
				  strerror(-rc));
			return rc;
		}
	}
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600); /* kept until the process ends */
	if (fd < 0) {
		rc = -errno;
		log_error("%s: cannot open the lock: %s", path, strerror(-rc));
		return rc;
	}
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		rc = -errno;
		log_error("%s: another agent runs (see: reprotect status; stop it first: systemctl "
			  "stop reprotect-agent)",
			  path);
		close(fd);
		return rc;
	}
	return 0;
}

enum state_failback state_failback_get(struct agent *agent)
{
	char path[PATH_MAX], text[32] = "";
	FILE *file;

	run_path(agent, ".released", path);
	if (access(path, F_OK) == 0)
		return STATE_FAILBACK_DONE;
	state_path(agent, "failback", path);
	file = fopen(path, "re");
	if (!file)
		return STATE_FAILBACK_NONE;
	if (!fgets(text, sizeof(text), file))
		text[0] = '\0';
	fclose(file);
	return !strncmp(text, "done", 4) ? STATE_FAILBACK_DONE : STATE_FAILBACK_BEGUN;
}

int state_failback_set(struct agent *agent, enum state_failback failback)
{
	char path[PATH_MAX], run[PATH_MAX];
	const char *text = failback == STATE_FAILBACK_DONE ? "done\n" : "begun\n";
	int rc = 0;

	state_path(agent, "failback", path);
	run_path(agent, ".released", run);
	if (failback == STATE_FAILBACK_NONE) {
		if (unlink(run) < 0 && errno != ENOENT)
			rc = -errno;
		if (unlink(path) < 0 && errno != ENOENT)
			rc = -errno;
	} else {
		if (failback == STATE_FAILBACK_DONE)
			rc = util_write_file(run, text, strlen(text));
		if (!agent->frozen)
			rc = util_write_file(path, text, strlen(text));
	}
	return rc;
}
